"""What the generator reads without JSON: the number of a text, cursors, frames and answers cut anywhere."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator

import pytest

from benchmarks.dialect import cursor_in, number_in, text_of
from benchmarks.load import Load, Route
from benchmarks.wire import HttpLine, Loop, SocketLine, frame, request
from webapp.sockets.wire import FrameReader, encode_frame

_TOKENS = {1: "t1", 2: "t2"}


@pytest.fixture
def load(address: tuple[str, int]) -> Iterator[Load]:
    made = Load(Loop(), address, _TOKENS, itertools.count(1))
    yield made
    made.close()


def test_a_text_has_a_hundred_bytes_and_carries_its_number() -> None:
    assert len(text_of(7).encode()) == 100
    assert number_in(json.dumps({"data": {"data": text_of(1_234_567_890)}}).encode()) == 1_234_567_890


@pytest.mark.parametrize("payload", [b"", b'{"type":"ping"}', b'{"data":"a@@b"}', b"@@", "@@\u0661".encode()])
def test_a_frame_without_a_marked_text_has_no_number(payload: bytes) -> None:
    assert number_in(payload) is None


@pytest.mark.parametrize(
    ("payload", "cursor"),
    [
        (b'{"type":"singleChat","data":{"otherData":{"cursor":9}},"timestamp":1,"cursor":41}', 41),
        (b'{"type":"hello","cursor":7,"heartbeat":30}', 7),
        (b'{"type":"sendResult","ref":null,"ok":false,"code":"self"}', None),
    ],
)
def test_a_cursor_is_read_where_there_is_one(payload: bytes, cursor: int | None) -> None:
    assert cursor_in(payload) == cursor


@pytest.mark.parametrize("length", [0, 5, 125, 126, 65_535, 65_536])
def test_the_server_reads_our_frames(length: int) -> None:
    (received,) = FrameReader(1 << 20).feed(frame(b"x" * length))

    assert received == (1, b"x" * length)


@pytest.mark.parametrize("step", [1, 3, 127, 1 << 20])
def test_frames_are_read_however_they_are_cut(address: tuple[str, int], step: int) -> None:
    expected = [b"", b"a" * 125, b"b" * 126, b"c" * 300, b"d" * 66_000]
    stream = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n" + b"".join(map(encode_frame, expected))
    found: list[bytes] = []
    line = SocketLine(Loop(), address, "/ws", found.append, lambda reason: None)

    for start in range(0, len(stream), step):
        line.take(stream[start : start + step])

    assert found == expected
    line.drop(is_wanted=True)


def test_a_ping_is_answered_with_what_it_carries(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    line = SocketLine(Loop(), address, "/ws", lambda payload: None, lambda reason: None)
    monkeypatch.setattr(line, "write", written.append)

    line.take(b"HTTP/1.1 101 x\r\n\r\n" + encode_frame(b"cursor 5", 9))

    assert FrameReader(1_000).feed(b"".join(written)) == [(10, b"cursor 5")]
    line.drop(is_wanted=True)


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"HTTP/1.1 429 Too Many\r\n\r\n", b"HTTP/1.1 429 Too Many\r\n\r\n"),
        (b"HTTP/1.1 101 x\r\n\r\n" + encode_frame(b"\x10\x00", 8), b"\x10\x00"),
    ],
)
def test_a_refusal_and_a_close_are_told_once(address: tuple[str, int], stream: bytes, reason: bytes) -> None:
    told: list[bytes] = []
    line = SocketLine(Loop(), address, "/ws", lambda payload: None, told.append)

    line.take(stream)
    line.drop()

    assert told == [reason]


@pytest.mark.parametrize("step", [1, 40, 10_000])
def test_answers_are_read_however_they_are_cut(address: tuple[str, int], step: int) -> None:
    body = b'{"msg":"ok"}' * 50
    stream = b"HTTP/1.1 202 Accepted\r\nServer: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    found: list[tuple[int, bytes]] = []
    line = HttpLine(Loop(), address)
    line.ask(request("GET", "/", address, "t"), lambda status, answer: found.append((status, answer)))

    for start in range(0, len(stream), step):
        line.take(stream[start : start + step])

    assert found == [(202, body)]
    line.drop(is_wanted=True)


def test_a_request_that_is_cut_off_is_answered_by_nothing(address: tuple[str, int]) -> None:
    found: list[int] = []
    line = HttpLine(Loop(), address)
    line.ask(b"GET / HTTP/1.1\r\n\r\n", lambda status, answer: found.append(status))

    line.drop()

    assert found == [0]


# What counts


class _Silent(Route):
    """Remembers the numbers it was to send."""

    def __init__(self, *recipients: int) -> None:
        self.recipients = frozenset(recipients)
        self.numbers: list[int] = []

    def send(self, number: int) -> None:
        self.numbers.append(number)


def _shown(number: int) -> bytes:
    return json.dumps({"type": "singleChat", "data": {"data": text_of(number)}}).encode()


Step = Callable[[Load, int], None]


def _acknowledge(load: Load, number: int) -> None:
    load.answered(number, 200)


def _show(load: Load, number: int) -> None:
    load.seen(2, _shown(number))


@pytest.mark.parametrize("order", [(_acknowledge, _show), (_show, _acknowledge)])
def test_a_slot_sends_again_after_acknowledgement_and_delivery(load: Load, order: tuple[Step, Step]) -> None:
    route = _Silent(2)
    load.keep_sending([[route]])

    order[0](load, 1)
    assert route.numbers == [1]
    order[1](load, 1)

    assert route.numbers == [1, 2]
    assert (load.delivered, load.outstanding) == (1, 1)


def test_a_message_counts_at_each_recipient_once(load: Load) -> None:
    route = _Silent(2, 3)
    load.launch(route)

    for user_id in (2, 2, 3, 1):  # 1 is the sender, whose other device may see it
        load.seen(user_id, _shown(1))

    assert load.delivered == len(load.latencies) == 2
    assert load.problems == {"doubled": 1}


def test_what_does_not_come_is_lost(load: Load) -> None:
    load.launch(_Silent(2))
    load.answered(1, 200)

    load.finish(0.01)

    assert load.problems == {"lost": 1}


def test_a_refused_send_is_a_problem_and_the_slot_goes_on(load: Load) -> None:
    route = _Silent(2)
    load.keep_sending([[route]], limit=2)

    load.answered(1, 429)
    load.loop.run(2.0, lambda: len(route.numbers) == 2)

    assert route.numbers == [1, 2]
    assert load.problems == {"refused": 1}


def test_an_open_loop_does_not_wait_for_what_is_under_way(load: Load) -> None:
    route = _Silent(2)

    load.offer(200.0, 0.1, lambda place, at: load.launch(route, at=at))

    assert len(route.numbers) == 20


def test_a_send_held_up_by_the_generator_counts_from_when_it_was_due(load: Load) -> None:
    times: list[float] = []

    def fire(place: int, at: float) -> None:
        times.append(at)
        if place == 0:
            time.sleep(0.05)

    load.offer(100.0, 0.05, fire)

    assert [round(at - times[0], 2) for at in times[:4]] == [0.0, 0.01, 0.02, 0.03]
