"""Bounds: what one client does costs the others nothing, and what does not fit is marked, never silent (G6, G7)."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator

import pytest

from tests.support.acting import device_state, empty_inbox, hello_of, live_place, open_socket, show_marker
from tests.support.client import ChatSocket, HttpClient, message_text
from tests.support.instance import Instance, wait_until

_OUTBOX_BYTES = 65_536
_INBOX_ENTRIES = 50
_FRAME_BYTES = 2_048
# Linux gives a socket up to 4 MB for what its peer does not read, beside our outbox.
_KERNEL_BYTES = 6_000_000
_BIG_TEXT = "x" * 16_000


@pytest.fixture(scope="module")
def narrow() -> Iterator[Instance]:
    """An instance with small bounds and a heartbeat each second."""
    with Instance(
        {
            "SOCKET_OUTBOX_MAX_BYTES": str(_OUTBOX_BYTES),
            "FRAME_MAX_BYTES": str(_FRAME_BYTES),
            "HEARTBEAT_SECONDS": "1",
            "RATE_LIMIT_SENDS": "off",  # one sender fills a socket's outbox as fast as he can
        }
    ) as instance:
        instance.seed(20, 0)
        yield instance


@pytest.fixture(scope="module")
def short() -> Iterator[Instance]:
    """An instance whose inboxes hold 50 entries."""
    with Instance({"INBOX_MAX_ENTRIES": str(_INBOX_ENTRIES), "RATE_LIMIT_SENDS": "off"}) as instance:
        instance.seed(20, 0)
        yield instance


def _send_big(instance: Instance, sender_id: int, recipient_id: int, count: int) -> list[str]:
    client = HttpClient(instance.base, instance.tokens[sender_id])
    ids = []
    for _ in range(count):
        status, body = client.send(recipient_id, _BIG_TEXT, respond_async=True)
        assert status == 202, body
        ids.append(body["data"]["id"])
    return ids


@pytest.mark.parametrize("v", [1, 2])
def test_a_reader_who_stops_reading_is_cut_off(narrow: Instance, v: int) -> None:
    """He is dropped when his outbox is full, others feel nothing of it, and he is shown everything when he comes back."""
    reader_id, sender_id, bystander_id, friend_id = (1, 2, 3, 4) if v == 1 else (5, 6, 7, 8)
    empty_inbox(narrow, reader_id)
    newest = device_state(narrow, reader_id)[0]
    stalled = ChatSocket(narrow.base, narrow.tokens[reader_id], 1 if v == 1 else 2, read=False)
    assert wait_until(lambda: bool(live_place(narrow, reader_id)), 5.0)
    place = live_place(narrow, reader_id)
    worst = 0.0
    ids: list[str] = []

    with open_socket(narrow, bystander_id) as bystander:
        while live_place(narrow, reader_id) == place and len(ids) * len(_BIG_TEXT) < _KERNEL_BYTES:
            ids += _send_big(narrow, sender_id, reader_id, 10)
            began = time.monotonic()
            show_marker(narrow, friend_id, bystander_id, bystander)
            worst = max(worst, time.monotonic() - began)
        # Protocol 2 has a second to take its close frame.
        assert wait_until(lambda: live_place(narrow, reader_id) != place, 5.0), "the stalled reader was never dropped"
    print(f"dropped after {len(ids)} messages; slowest bystander {worst * 1000:.0f} ms")
    stalled.drop()

    assert worst < 1.0
    with open_socket(narrow, reader_id, 2) as socket:
        show_marker(narrow, sender_id, reader_id, socket)
        assert [message["id"] for message in socket.messages][:-1] == ids
        cursors = [frame.data["cursor"] for frame in socket.frames if frame.data["type"] == "singleChat"]
        assert cursors == [*range(newest + 1, newest + len(ids) + 2)]


def test_a_long_replay_to_a_slow_reader_loses_nothing(narrow: Instance) -> None:
    """A replay that is larger than the outbox waits for its reader instead of skipping what does not fit."""
    reader_id, sender_id = 9, 10
    empty_inbox(narrow, reader_id)
    ids = _send_big(narrow, sender_id, reader_id, 400)
    sender = HttpClient(narrow.base, narrow.tokens[sender_id])
    last = uuid.uuid4().hex
    assert sender.send(reader_id, last)[0] == 200

    # 5 ms a frame: the server is far ahead of such a reader.
    slow = ChatSocket(narrow.base, narrow.tokens[reader_id], 2, read=False, on_frame=lambda _: time.sleep(0.005))
    with slow as socket:
        socket.start_reading()
        socket.wait_for_text(last, timeout=20.0)

    assert [message["id"] for message in socket.messages][:-1] == ids
    assert socket.error is None


def test_frames_are_as_large_as_the_setting_allows(narrow: Instance) -> None:
    """`hello` tells the largest frame; one of that size is taken, one byte more closes with 1009."""
    with open_socket(narrow, 11, 2) as socket:
        assert hello_of(socket)["maxFrame"] == _FRAME_BYTES
        socket.send_text('{"type":"ping"}'.ljust(_FRAME_BYTES))
        socket.wait_for(lambda frame: frame.data.get("type") == "pong")

        socket.send_text('{"type":"ping"}'.ljust(_FRAME_BYTES + 1))

        assert socket.wait_closed() == 1009


@pytest.mark.parametrize("v", [1, 2])
def test_a_peer_that_answers_no_ping_is_dropped(narrow: Instance, v: int) -> None:
    """The server pings; who leaves two pings unanswered is dropped, who answers them stays (ORIG A11)."""
    answering = open_socket(narrow, 13, 1 if v == 1 else 2)
    silent = open_socket(narrow, 14, 1 if v == 1 else 2, answer_pings=False)

    with answering, silent:
        assert silent.wait_closed(8.0) == (None if v == 1 else 4408)
        assert answering.is_open
        heartbeats = [frame.data for frame in answering.frames if frame.data["type"] == "ping"]

    assert heartbeats
    assert heartbeats == [{"type": "ping"}] * len(heartbeats)


def _send_numbered(instance: Instance, sender_id: int, recipient_id: int, count: int) -> None:
    client = HttpClient(instance.base, instance.tokens[sender_id])
    for number in range(count):
        assert client.send(recipient_id, str(number), respond_async=number < count - 1)[0] in (200, 202)


@pytest.mark.parametrize("has_cursor", [True, False], ids=["with cursor", "without cursor"])
def test_an_overflow_is_told(short: Instance, has_cursor: bool) -> None:
    """What an inbox could not keep is named by a reset, and the rest is shown after it, with its cursors."""
    reader_id, sender_id = (1, 2) if has_cursor else (3, 4)
    empty_inbox(short, reader_id)
    with open_socket(short, reader_id, 2) as socket:
        epoch = str(hello_of(socket)["epoch"])
        had = show_marker(short, sender_id, reader_id, socket).data["cursor"]
        socket.ack(had)
        assert wait_until(lambda: device_state(short, reader_id)[1] == had, 5.0)
    assert wait_until(lambda: not live_place(short, reader_id), 5.0)
    _send_numbered(short, sender_id, reader_id, _INBOX_ENTRIES + 30)

    resume = {"cursor": had, "epoch": epoch} if has_cursor else {}
    with ChatSocket(short.base, short.tokens[reader_id], 2, **resume) as socket:
        socket.wait_for_text(str(_INBOX_ENTRIES + 29))
        frames = [frame.data for frame in socket.frames if frame.data["type"] in ("reset", "singleChat")]

    reset, *rest = frames
    assert reset == {"type": "reset", "epoch": epoch, "from": had + 1, "to": had + 30}
    assert [frame["cursor"] for frame in rest] == [*range(had + 31, had + 81)]
    assert [message_text(frame["data"]) for frame in rest] == [str(number) for number in range(30, 80)]


def test_an_overflow_behind_a_connection_disturbs_nothing(short: Instance) -> None:
    """A connection that acknowledges late gets everything; what it acknowledges after the overflow counts as no more."""
    reader_id, sender_id = 5, 6
    empty_inbox(short, reader_id)
    newest = device_state(short, reader_id)[0]
    with open_socket(short, reader_id, 2) as socket:
        _send_numbered(short, sender_id, reader_id, _INBOX_ENTRIES + 30)
        socket.wait_for_text(str(_INBOX_ENTRIES + 29))
        cursors = [frame.data["cursor"] for frame in socket.frames if frame.data["type"] == "singleChat"]
        socket.ack(newest + 20)
        assert wait_until(lambda: device_state(short, reader_id)[1] == newest + 20, 5.0)
    assert cursors == [*range(newest + 1, newest + 81)]
    assert wait_until(lambda: not live_place(short, reader_id), 5.0)

    with open_socket(short, reader_id, 2) as socket:
        socket.wait_for_text(str(_INBOX_ENTRIES + 29))
        again = [json.loads(json.dumps(frame.data)) for frame in socket.frames]
    resets = [frame for frame in again if frame["type"] == "reset"]
    assert [(reset["from"], reset["to"]) for reset in resets] == [(newest + 21, newest + 30)]
    assert sum(frame["type"] == "singleChat" for frame in again) == _INBOX_ENTRIES
