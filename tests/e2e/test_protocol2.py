"""Protocol 2: cursors, acknowledgement, resumption, reset, sending over the socket, and the close codes."""

from __future__ import annotations

import json
import secrets
import signal
import time
import uuid
from contextlib import ExitStack
from typing import Any

import pytest

from models.store import inbox, keys
from models.store.connection import connect, run
from tests.conftest import InstanceFactory
from tests.support.acting import (
    add_friends,
    device_state,
    empty_inbox,
    has_acknowledged_all,
    hello_of,
    live_place,
    open_placed,
    open_socket,
    show_marker,
    sign,
    start_session,
)
from tests.support.client import ChatSocket, Frame, HttpClient, message_text
from tests.support.instance import Instance, wait_until
from tests.support.websocket import Opcode, WebSocket

_UNKNOWN_USER = 999_999
_REPLAYED = 10_000


def _cursors(socket: ChatSocket) -> list[int]:
    return [frame.data["cursor"] for frame in list(socket.frames) if frame.data.get("type") == "singleChat"]


def _resets(socket: ChatSocket) -> list[dict[str, Any]]:
    return [frame.data for frame in list(socket.frames) if frame.data.get("type") == "reset"]


def _results(socket: ChatSocket) -> list[dict[str, Any]]:
    return [frame.data for frame in list(socket.frames) if frame.data.get("type") == "sendResult"]


def _wait_for_result(socket: ChatSocket, ref: Any) -> dict[str, Any]:
    return socket.wait_for(lambda frame: frame.data.get("type") == "sendResult" and frame.data["ref"] == ref).data


def _send_frame(to: int, text: str, client_msg_id: str, ref: Any = "r", **fields: Any) -> dict[str, Any]:
    message = {"sendto_id": to, "chatType": "single", "type": "text", "data": {"data": text}, **fields}
    return {"type": "send", "ref": ref, "message": message | {"clientMsgId": client_msg_id}}


def _wait_gone(instance: Instance, user_id: int) -> None:
    assert wait_until(lambda: not live_place(instance, user_id), 5.0)


@pytest.mark.parametrize(
    ("kind", "code"), [("missing", 4401), ("garbage", 4401), ("expired", 4401), ("ended", 4401), ("unknown", 4403)]
)
def test_a_refusal_has_a_close_code(instance: Instance, friends: tuple[int, int], kind: str, code: int) -> None:
    """Who may not come in reads ORIG's failure frame, and the close code that says what to do."""
    if kind == "ended":
        token = start_session(instance, friends[0], "replaced")
        start_session(instance, friends[0], "replaced")
    else:
        token = {
            "missing": "",
            "garbage": "garbage",
            "expired": sign(instance, friends[0], "default", "s", ttl_seconds=-10),
            "unknown": sign(instance, _UNKNOWN_USER, "default", "s"),
        }[kind]

    with ChatSocket(instance.base, token, 2) as socket:
        assert socket.wait_closed() == code

    assert [frame.data["msg"] for frame in socket.frames] == ["fail"]


def test_hello_follows_the_welcome(instance: Instance, friends: tuple[int, int]) -> None:
    """The second frame tells the connection, the device, where the inbox stands, and what the server expects."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)

    with open_socket(instance, reader_id, 2) as socket:
        welcome, hello = (frame.data for frame in socket.frames[:2])
        show_marker(instance, sender_id, reader_id, socket)

    assert welcome["type"] == "system"
    assert list(hello) == ["type", "v", "connection", "device", "cursor", "heartbeat", "maxFrame", "epoch"]
    assert (hello["v"], hello["device"], hello["heartbeat"], hello["maxFrame"]) == (2, "default", 30, 65_536)
    assert hello["cursor"] == device_state(instance, reader_id)[0] - 1
    assert isinstance(hello["epoch"], str)
    assert hello["epoch"]
    assert _cursors(socket) == [hello["cursor"] + 1]


def test_what_is_acknowledged_is_not_replayed(instance: Instance, friends: tuple[int, int]) -> None:
    """Cursors are consecutive; after an ack, coming back shows only what is newer than it."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    newest = device_state(instance, reader_id)[0]

    with open_socket(instance, reader_id, 2) as socket:
        for _ in range(5):
            show_marker(instance, sender_id, reader_id, socket)
        assert _cursors(socket) == [*range(newest + 1, newest + 6)]
        socket.ack(newest + 3)
        assert wait_until(lambda: device_state(instance, reader_id)[1] == newest + 3, 5.0)
    _wait_gone(instance, reader_id)

    with open_socket(instance, reader_id, 2) as socket:
        show_marker(instance, sender_id, reader_id, socket)
        assert _cursors(socket) == [newest + 4, newest + 5, newest + 6]
        socket.ack(newest + 6)
        assert wait_until(lambda: has_acknowledged_all(instance, reader_id), 5.0)
    _wait_gone(instance, reader_id)

    with open_socket(instance, reader_id, 2) as socket:
        show_marker(instance, sender_id, reader_id, socket)
        assert _cursors(socket) == [newest + 7]
        assert _resets(socket) == []


def test_a_cursor_resumes_where_it_stands(instance: Instance, friends: tuple[int, int]) -> None:
    """A client that comes back with its cursor is shown exactly what is newer, acknowledged or not."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    with open_socket(instance, reader_id, 2) as socket:
        epoch = str(hello_of(socket)["epoch"])
        for _ in range(4):
            show_marker(instance, sender_id, reader_id, socket)
        ids = {frame.data["cursor"]: message["id"] for frame in socket.frames if (message := frame.message)}
        first = min(ids)

    for has in (first + 3, first, first + 1):
        # What a cursor says that it has is not kept for it: so each return, but the first, asks for less than that.
        with open_socket(instance, reader_id, 2, cursor=has, epoch=epoch) as socket:
            marker = show_marker(instance, sender_id, reader_id, socket)
            ids[marker.data["cursor"]] = (marker.message or {})["id"]
            resets = _resets(socket)
            got = {frame.data["cursor"]: message["id"] for frame in socket.frames if (message := frame.message)}
            if has == first + 3:
                assert resets == []
                assert got == {cursor: ids[cursor] for cursor in ids if cursor > has}
            else:
                # The server has been told that these are safe, and does not have them any more.
                assert [(reset["from"], reset["to"]) for reset in resets] == [(has + 1, first + 3)]
                assert got == {cursor: ids[cursor] for cursor in ids if cursor > first + 3}
        _wait_gone(instance, reader_id)


@pytest.mark.parametrize("kind", ["future", "other epoch", "no epoch", "no number"])
def test_a_cursor_that_means_nothing_is_answered_by_a_reset(
    instance: Instance, friends: tuple[int, int], kind: str
) -> None:
    """A cursor of the future, of another epoch or of none gets a reset, and then everything unacknowledged."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    with open_socket(instance, reader_id, 2) as socket:
        hello = hello_of(socket)
        for _ in range(2):
            show_marker(instance, sender_id, reader_id, socket)
    _wait_gone(instance, reader_id)
    newest, epoch = int(str(hello["cursor"])) + 2, str(hello["epoch"])
    query = {
        "future": {"cursor": str(newest + 5), "epoch": epoch},
        "other epoch": {"cursor": str(newest), "epoch": "0000"},
        "no epoch": {"cursor": str(newest)},
        "no number": {"cursor": "x", "epoch": epoch},
    }[kind]

    with ChatSocket(instance.base, instance.tokens[reader_id], 2, query=query) as socket:
        show_marker(instance, sender_id, reader_id, socket)
        kinds = [frame.data["type"] for frame in socket.frames]
        resets = _resets(socket)
        cursors = _cursors(socket)

    assert kinds == ["system", "hello", "reset", "singleChat", "singleChat", "singleChat"]
    assert list(resets[0]) == ["type", "epoch", "from", "to"]
    assert resets[0]["epoch"] == epoch
    if kind == "future":
        assert (resets[0]["from"], resets[0]["to"]) == (newest + 1, newest + 5)
    else:
        assert (resets[0]["from"], resets[0]["to"]) == (1, newest - 2)
    assert cursors == [newest - 1, newest, newest + 1]


def test_an_ack_beyond_what_was_written_is_ignored(instance: Instance, friends: tuple[int, int]) -> None:
    """An ack of what the connection has not written, or that is no cursor, acknowledges nothing and disturbs nobody."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    newest = device_state(instance, reader_id)[0]
    with open_socket(instance, reader_id, 2) as socket:
        show_marker(instance, sender_id, reader_id, socket)
        for cursor in (newest + 2, newest + 1_000_000, -1, 0, 2**70, "1", None, True, 1.0, [newest + 1]):
            socket.send_json({"type": "ack", "cursor": cursor})
        socket.send_json({"type": "ack"})
        socket.send_text("ping")
        socket.wait_for(lambda frame: frame.data.get("type") == "pong")
        show_marker(instance, sender_id, reader_id, socket)

        assert device_state(instance, reader_id) == (newest + 2, newest)


def test_an_ack_of_true_is_no_ack_of_one(instance: Instance) -> None:
    """`true` is no cursor, also where it would be the first one: the process goes on serving everybody."""
    reader_id, sender_id = add_friends(instance)
    with open_socket(instance, reader_id, 2) as socket:
        show_marker(instance, sender_id, reader_id, socket)
        socket.send_json({"type": "ack", "cursor": True})
        began = time.monotonic()
        for _ in range(6):  # over either web process
            show_marker(instance, sender_id, reader_id, socket)

        assert time.monotonic() - began < 2.0
        assert device_state(instance, reader_id) == (7, 0)


def test_a_send_over_the_socket_is_answered_by_its_result(instance: Instance, friends: tuple[int, int]) -> None:
    """A stored send gives its ref, id, Message and cursor; the recipient gets it, and the sender gets no second copy."""
    sender_id, recipient_id = friends
    empty_inbox(instance, sender_id)
    newest = device_state(instance, sender_id)[0]
    text, client_msg_id = uuid.uuid4().hex, uuid.uuid4().hex

    with open_socket(instance, sender_id, 2) as socket, open_socket(instance, recipient_id, 2) as other:
        socket.send_json(_send_frame(recipient_id, text, client_msg_id, ref="my ref"))
        result = _wait_for_result(socket, "my ref")
        received = other.wait_for_text(text).data["data"]
        show_marker(instance, recipient_id, sender_id, socket)
        cursors = _cursors(socket)

    assert list(result) == ["type", "ref", "id", "ok", "data", "cursor"]
    assert result["ok"] is True
    assert result["id"] == result["data"]["id"] == received["id"]
    assert result["data"]["clientMsgId"] == client_msg_id
    assert json.loads(result["data"]["data"]) == {"data": text}
    assert result["data"]["seq"] == received["seq"]
    assert result["cursor"] == newest + 1
    assert cursors == [newest + 2]
    assert len(_results(socket)) == 1


@pytest.mark.parametrize("ref", ["r" * 64, "", 17, -1, None, '鸿雁 " \\ \n'])
def test_a_ref_comes_back_as_it_was(instance: Instance, friends: tuple[int, int], ref: Any) -> None:
    """The client's name for a send is a text or a number, and comes back unchanged."""
    with open_socket(instance, friends[0], 2) as socket:
        socket.send_json(_send_frame(friends[1], "x", uuid.uuid4().hex, ref=ref))

        assert _wait_for_result(socket, ref)["ok"] is True


def test_a_ref_that_cannot_come_back_is_refused(instance: Instance, friends: tuple[int, int]) -> None:
    """A ref that is neither a text nor a number, or is long, is refused at once: it would be kept and repeated."""
    nested: Any = []
    for _ in range(400):
        nested = [nested]
    with open_socket(instance, friends[0], 2) as socket:
        for ref in (nested, {"a": 1}, ["a"], "x" * 10_000):
            before = len(_results(socket))
            socket.send_json(_send_frame(friends[1], "x", uuid.uuid4().hex, ref=ref))
            assert wait_until(lambda before=before: len(_results(socket)) == before + 1, 5.0)  # type: ignore[misc]
            assert (_results(socket)[-1]["ok"], _results(socket)[-1]["code"]) == (False, "invalid")
        show_marker(instance, friends[1], friends[0], socket)


def test_a_refused_send_gives_its_code(instance: Instance, friends: tuple[int, int]) -> None:
    """A refusal is a result too: with ref, id, code and ORIG's text, and without a place in the inbox."""
    with open_socket(instance, friends[0], 2) as socket:
        socket.send_json(_send_frame(_UNKNOWN_USER, "x", uuid.uuid4().hex, ref=1))
        result = _wait_for_result(socket, 1)
        show_marker(instance, friends[1], friends[0], socket)

    assert list(result) == ["type", "ref", "id", "ok", "code", "data"]
    assert (result["ok"], result["code"]) == (False, "recipient_unavailable")
    assert result["data"] == "对方不存在或者被禁用，不能发消息"
    assert len(_results(socket)) == 1


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"clientMsgId": ""}, "invalid"),
        ({"clientMsgId": None}, "invalid"),
        ({"clientMsgId": "x" * 65}, "invalid"),
        ({"sendto_id": 0}, "invalid"),
        ({"type": "systemNotice"}, "invalid"),
        ({"data": ""}, "invalid"),
        ({"data": "nul \0"}, "invalid"),
        ({"data": "字" * 6_000}, "message_too_large"),
    ],
)
def test_an_invalid_send_is_refused_at_once(
    instance: Instance, friends: tuple[int, int], fields: dict[str, Any], code: str
) -> None:
    """What a send frame lacks or has too much of is told with its ref, and nothing is accepted."""
    frame = _send_frame(friends[1], "x", uuid.uuid4().hex)
    frame["message"].update(fields)

    with open_socket(instance, friends[0], 2) as socket:
        socket.send_json(frame)
        result = _wait_for_result(socket, "r")

    assert (result["ok"], result["code"]) == (False, code)


def test_a_client_id_may_be_a_number(instance: Instance) -> None:
    """Parameters are turned to text first (ORIG 1.2), in a frame as over HTTP: 0 is an id, and not a missing one."""
    sender_id, recipient_id = add_friends(instance)
    frame = _send_frame(recipient_id, "x", uuid.uuid4().hex)
    frame["message"]["clientMsgId"] = 0

    with open_socket(instance, sender_id, 2) as socket:
        socket.send_json(frame)

        assert _wait_for_result(socket, "r")["data"]["clientMsgId"] == "0"


def test_a_socket_speaks_the_servers_language(fresh_instance: InstanceFactory) -> None:
    """With LANGUAGE=en every text of a failure on a socket is English."""
    english = fresh_instance(LANGUAGE="en")
    english.seed(2, 1)
    unknown, unnamed, untyped = (_send_frame(_UNKNOWN_USER, "x", uuid.uuid4().hex, ref=ref) for ref in (1, 2, 3))
    del unnamed["message"]["clientMsgId"], untyped["message"]["type"]

    with open_socket(english, 1, 2) as socket:
        for frame in (unknown, unnamed, untyped, {"type": "send", "ref": [4], "message": {}}):
            socket.send_json(frame)
        for ref in (1, 2, 3, None):
            assert _wait_for_result(socket, ref)["data"].isascii()
        socket.send_json({"type": "ping", "token": "bad"})
        assert socket.wait_closed() == 4401
        assert socket.frames[-1].data["data"] == "The token is not valid"
    with ChatSocket(english.base, None, 2) as refused:
        assert refused.wait_closed() == 4401
        assert refused.frames[0].data["data"].isascii()


def test_a_socket_speaks_the_language_of_its_handshake(instance: Instance, friends: tuple[int, int]) -> None:
    """`Accept-Language: en` in the handshake gives English texts in the results of sends."""
    address = instance.base.removeprefix("http")
    socket = WebSocket(f"ws{address}/ws?token={instance.tokens[friends[0]]}&v=2", language="en-GB,en;q=0.9")
    try:
        socket.write(Opcode.TEXT, json.dumps(_send_frame(_UNKNOWN_USER, "x", uuid.uuid4().hex)).encode())
        result: dict[str, Any] = {}
        while result.get("type") != "sendResult" and (raw := socket.read()) is not None:
            result = json.loads(raw.payload) if raw.opcode == Opcode.TEXT else {}
    finally:
        socket.drop()

    assert result["data"] == "The recipient does not exist or is disabled"


@pytest.mark.parametrize("message", [None, [], "x", 1, {}])
def test_a_send_without_a_message_is_refused(instance: Instance, friends: tuple[int, int], message: Any) -> None:
    """A send frame without a message, or with one that is no object, is refused with its ref."""
    with open_socket(instance, friends[0], 2) as socket:
        socket.send_json({"type": "send", "ref": "r", "message": message})

        assert _wait_for_result(socket, "r")["code"] == "invalid"


def test_a_repeated_send_is_one_message(instance: Instance, friends: tuple[int, int]) -> None:
    """A repeat with the same clientMsgId gives the first one's verdict and Message; the recipient gets one message."""
    sender_id, recipient_id = friends
    empty_inbox(instance, recipient_id)
    client_msg_id = uuid.uuid4().hex

    with open_socket(instance, sender_id, 2) as socket, open_socket(instance, recipient_id, 2) as other:
        for ref in (1, 2, 3):
            socket.send_json(_send_frame(recipient_id, "once", client_msg_id, ref=ref))
            _wait_for_result(socket, ref)
        status, body = HttpClient(instance.base, instance.tokens[sender_id]).post(
            "/api/chat/socket/sendmessage", _send_frame(recipient_id, "once", client_msg_id)["message"]
        )
        show_marker(instance, sender_id, recipient_id, other)
        results = _results(socket)

    first, *repeats = [result for result in results if result["ref"] is not None]
    assert [result["data"] for result in repeats] == [first["data"]] * 2
    assert (status, body["data"]) == (200, first["data"])
    assert [message["id"] for message in other.messages][:-1] == [first["id"]]


def test_repeats_under_way_are_each_answered(instance: Instance, friends: tuple[int, int]) -> None:
    """Repeats that are sent before the first verdict each get a result under their own ref, and are one message."""
    sender_id, recipient_id = friends
    client_msg_id = uuid.uuid4().hex
    empty_inbox(instance, recipient_id)

    with open_socket(instance, sender_id, 2) as socket, open_socket(instance, recipient_id, 2) as other:
        for ref in range(5):
            socket.send_json(_send_frame(recipient_id, "once", client_msg_id, ref=ref))
        results = [_wait_for_result(socket, ref) for ref in range(5)]
        show_marker(instance, sender_id, recipient_id, other)

    assert len({result["id"] for result in results}) == 1
    assert len(other.messages) == 2


def test_an_id_used_for_other_content_is_a_conflict(instance: Instance, friends: tuple[int, int]) -> None:
    """The same clientMsgId with other content is refused, and the first message stands."""
    sender_id, recipient_id = friends
    client_msg_id = uuid.uuid4().hex

    with open_socket(instance, sender_id, 2) as socket:
        socket.send_json(_send_frame(recipient_id, "first", client_msg_id, ref=1))
        first = _wait_for_result(socket, 1)
        socket.send_json(_send_frame(recipient_id, "second", client_msg_id, ref=2))
        second = _wait_for_result(socket, 2)
        socket.send_json(_send_frame(recipient_id, "first", client_msg_id, ref=3))
        third = _wait_for_result(socket, 3)

    assert (second["ok"], second["code"]) == (False, "idempotency_conflict")
    assert second["data"] == "相同的消息编号已用于其它内容"
    assert third["data"] == first["data"]


def test_a_conflict_over_http_is_told_to_no_socket(instance: Instance, friends: tuple[int, int]) -> None:
    """It has the id of the first message, which would seem to have failed."""
    sender_id, recipient_id = friends
    client, client_msg_id = HttpClient(instance.base, instance.tokens[sender_id]), uuid.uuid4().hex

    with open_socket(instance, sender_id, 2) as socket:
        _, stored = client.send(recipient_id, "first", client_msg_id=client_msg_id)
        status, conflict = client.send(recipient_id, "second", client_msg_id=client_msg_id)
        show_marker(instance, recipient_id, sender_id, socket)
        results = _results(socket)

    assert (status, conflict["code"]) == (409, "idempotency_conflict")
    assert [(result["id"], result["ok"]) for result in results] == [(stored["data"]["id"], True)]


def test_a_send_over_http_is_told_to_the_socket_of_its_device(instance: Instance, friends: tuple[int, int]) -> None:
    """What a device sends over HTTP comes as a result with ref null and the entry's cursor, a refusal too, each once."""
    sender_id, recipient_id = friends
    empty_inbox(instance, sender_id)
    client = HttpClient(instance.base, instance.tokens[sender_id])

    with open_socket(instance, sender_id, 2) as socket:
        first = show_marker(instance, recipient_id, sender_id, socket).data["cursor"]
        _, stored = client.send(recipient_id, "over http")
        status, refused = client.send(_UNKNOWN_USER, "over http", client_msg_id=uuid.uuid4().hex)
        last = show_marker(instance, recipient_id, sender_id, socket).data["cursor"]
        results = _results(socket)

    assert last == first + 2
    assert len(results) == 2
    of_stored = next(result for result in results if result["ok"])
    of_refused = next(result for result in results if not result["ok"])
    assert (of_stored["ref"], of_stored["id"]) == (None, stored["data"]["id"])
    assert (of_stored["data"], of_stored["cursor"]) == (stored["data"], first + 1)
    assert status == 400
    assert (of_refused["ref"], of_refused["code"]) == (None, refused["code"])
    assert of_refused["data"] == refused["data"]


def test_a_refused_send_over_the_socket_is_told_once_to_its_device(
    instance: Instance, friends: tuple[int, int]
) -> None:
    """Wherever the refused request was accepted, its device's socket gets one result."""
    sender_id, recipient_id = friends
    client = HttpClient(instance.base, instance.tokens[sender_id])

    with open_socket(instance, sender_id, 2) as socket:
        for _ in range(10):  # HTTP requests come to either web process
            assert client.send(_UNKNOWN_USER, "x")[0] == 400
            socket.send_json(_send_frame(_UNKNOWN_USER, "x", uuid.uuid4().hex, ref=1))
        assert wait_until(lambda: len(_results(socket)) >= 20, 5.0)
        show_marker(instance, recipient_id, sender_id, socket)
        results = _results(socket)

    assert sorted(str(result["ref"]) for result in results) == ["1"] * 10 + ["None"] * 10
    assert len({result["id"] for result in results}) == 20


def test_other_devices_of_the_sender_get_the_message(instance: Instance, friends: tuple[int, int]) -> None:
    """What a user sends from one device is shown on his others as any message, and counts in their cursors."""
    sender_id, recipient_id = friends
    empty_inbox(instance, sender_id)
    other_token = start_session(instance, sender_id, "second")
    empty_inbox(instance, sender_id, "second", other_token)
    text = uuid.uuid4().hex

    with (
        open_socket(instance, sender_id, 2) as socket,
        open_socket(instance, sender_id, 2, token=other_token) as other,
        open_socket(instance, sender_id, 1, token=start_session(instance, sender_id, "legacy")) as legacy,
    ):
        assert hello_of(other)["device"] == "second"
        socket.send_json(_send_frame(recipient_id, text, uuid.uuid4().hex))
        result = _wait_for_result(socket, "r")
        shown = other.wait_for(lambda frame: frame.data.get("type") == "singleChat").data
        shown_to_legacy = legacy.wait_for_text(text).data

        assert shown["data"] == result["data"] == shown_to_legacy["data"]
        assert shown["cursor"] == result["cursor"]
        assert "cursor" not in shown_to_legacy
        assert _results(other) == []
        assert _cursors(socket) == []


def test_an_own_message_replayed_comes_as_any_other(instance: Instance, friends: tuple[int, int]) -> None:
    """What a device sent and did not acknowledge comes back as a singleChat with its cursor."""
    sender_id, recipient_id = friends
    empty_inbox(instance, sender_id)
    text = uuid.uuid4().hex
    with open_socket(instance, sender_id, 2) as socket:
        socket.send_json(_send_frame(recipient_id, text, uuid.uuid4().hex))
        result = _wait_for_result(socket, "r")
    _wait_gone(instance, sender_id)

    with open_socket(instance, sender_id, 2) as socket:
        replayed = socket.wait_for(lambda frame: frame.data.get("type") == "singleChat").data

    assert (replayed["data"], replayed["cursor"]) == (result["data"], result["cursor"])
    assert _results(socket) == []


@pytest.mark.parametrize("is_same_process", [True, False], ids=["same process", "other process"])
def test_a_newer_connection_replaces_the_older(
    instance: Instance, friends: tuple[int, int], is_same_process: bool
) -> None:
    """A device has one connection: the older is closed with 4409, and the newer gets what comes."""
    reader_id, sender_id = friends
    with open_socket(instance, reader_id, 2) as older:
        process_id = live_place(instance, reader_id).partition(":")[0]
        with ExitStack() as stack:
            newer: ChatSocket | None = None
            for _ in range(200):
                newer = stack.enter_context(open_socket(instance, reader_id, 2))
                assert older.wait_closed() == 4409
                if (str(hello_of(newer)["connection"]).partition(":")[0] == process_id) is is_same_process:
                    break
                older, process_id = newer, str(hello_of(newer)["connection"]).partition(":")[0]
            assert newer is not None
            show_marker(instance, sender_id, reader_id, newer)
            assert newer.is_open


def test_another_device_replaces_nothing(instance: Instance, friends: tuple[int, int]) -> None:
    """Each device of a user has its own connection, and each gets every message."""
    reader_id, sender_id = friends
    token = start_session(instance, reader_id, "second")

    with open_socket(instance, reader_id, 2) as first, open_socket(instance, reader_id, 2, token=token) as second:
        marker = show_marker(instance, sender_id, reader_id, first)
        shown = second.wait_for_text(message_text(marker.message or {}))

        assert shown.data["cursor"] == marker.data["cursor"]
        assert first.is_open


def test_a_stopping_process_says_that_it_restarts(instance: Instance, friends: tuple[int, int]) -> None:
    """A web process that is told to stop closes its connections with 1012; coming back at once works."""
    reader_id, sender_id = friends
    with ExitStack() as stack:
        first = stack.enter_context(open_socket(instance, reader_id, 2))
        process_id = live_place(instance, reader_id).partition(":")[0]
        second = stack.enter_context(open_placed(instance, sender_id, 2, is_on=False, process_id=process_id))
        web_processes = instance.wait_processes("web", 2)

        instance.kill("web", signal.SIGTERM)

        assert wait_until(lambda: not (first.is_open and second.is_open), 2.0)
        closed, kept = (first, second) if not first.is_open else (second, first)
        assert closed.close_code == 1012
        assert kept.is_open
        if closed is first:
            first = stack.enter_context(open_socket(instance, reader_id, 2))
        show_marker(instance, sender_id, reader_id, first)
    assert wait_until(lambda: len(set(instance.processes("web")) - set(web_processes)) == 1, 15.0)
    assert wait_until(lambda: len(instance.processes("web")) == 2, 15.0)
    instance.wait_ready()


@pytest.mark.parametrize("kind", ["one frame", "fragments", "length only"])
def test_a_frame_that_is_too_large_is_refused(instance: Instance, friends: tuple[int, int], kind: str) -> None:
    """More than 64 KiB in one message closes with 1009, also in fragments, and before the bytes have come."""
    url = f"ws://127.0.0.1:{instance.port}/ws?v=2&token={instance.tokens[friends[0]]}"
    socket = WebSocket(url)
    try:
        if kind == "one frame":
            socket.write(Opcode.TEXT, b"x" * 65_537)
        elif kind == "fragments":
            for head in (b"\x01", b"\x00"):
                socket._socket.sendall(head + b"\xff" + (40_000).to_bytes(8, "big") + bytes(4) + b"x" * 40_000)
        else:
            socket._socket.sendall(b"\x81\xff" + (2**40).to_bytes(8, "big"))
        frames = []
        while (frame := socket.read()) is not None:
            frames.append(frame)
    finally:
        socket.drop()

    assert frames[-1].opcode == Opcode.CLOSE
    assert int.from_bytes(frames[-1].payload[:2], "big") == 1009


def test_protocol_1_is_dropped_for_a_frame_that_is_too_large(instance: Instance, friends: tuple[int, int]) -> None:
    """A close frame would log its client out for good (ORIG 2.8)."""
    socket = WebSocket(f"ws://127.0.0.1:{instance.port}/ws?token={instance.tokens[friends[0]]}")
    try:
        socket.write(Opcode.TEXT, b"x" * 65_537)
        opcodes = []
        while (frame := socket.read()) is not None:
            opcodes.append(frame.opcode)
    finally:
        socket.drop()

    assert opcodes
    assert Opcode.CLOSE not in opcodes


@pytest.mark.parametrize(("ref", "told"), [(7, 7), ("seven", "seven"), ("\ud83d", None), (10**30, None)])
def test_a_send_that_is_no_unicode_is_refused(
    instance: Instance, friends: tuple[int, int], ref: Any, told: Any
) -> None:
    """JavaScript writes half an emoji as a lone surrogate: the frame cannot be read, but its client waits for an answer."""
    message = {"chatType": "single", "sendto_id": friends[1], "type": "text", "data": "\ud83d", "clientMsgId": "half"}
    with open_socket(instance, friends[0], 2) as socket:
        socket.send_text(json.dumps({"type": "send", "ref": ref, "message": message}))
        answer = socket.wait_for(lambda frame: frame.data.get("type") == "sendResult").data

    assert (answer["ref"], answer["ok"], answer["code"]) == (told, False, "invalid")


def test_the_largest_frame_is_taken(instance: Instance, friends: tuple[int, int]) -> None:
    """A message of exactly 64 KiB is read."""
    with open_socket(instance, friends[0], 2) as socket:
        socket.send_text(json.dumps({"type": "ping"}).ljust(65_536))

        socket.wait_for(lambda frame: frame.data.get("type") == "pong")


@pytest.mark.parametrize(
    "payload", ["{", "[]", "null", '{"type":"unknown"}', '{"type":{}}', "x" * 60_000, "[" * 60_000]
)
def test_garbage_is_ignored(instance: Instance, friends: tuple[int, int], payload: str) -> None:
    """What a client says that means nothing changes nothing."""
    with open_socket(instance, friends[0], 2) as socket:
        socket.send_text(payload)
        show_marker(instance, friends[1], friends[0], socket)

        kinds = [frame.data["type"] for frame in socket.frames]
        # Messages and heartbeats come by themselves, and so does the presence of a friend who was here in the test before.
        assert [kind for kind in kinds if kind not in ("singleChat", "ping", "presence")] == ["system", "hello"]


def test_a_long_replay_is_whole_and_in_order(instance: Instance, friends: tuple[int, int]) -> None:
    """10,000 messages that came while a client was away are shown once each, in order, in seconds."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    newest = device_state(instance, reader_id)[0]
    _fill_inbox(instance, reader_id, sender_id, _REPLAYED)

    began = time.monotonic()
    with open_socket(instance, reader_id, 2) as socket:
        socket.wait_for_text(str(_REPLAYED - 1), timeout=30.0)
        seconds = time.monotonic() - began
        cursors = _cursors(socket)
        texts = [message_text(message) for message in socket.messages]
        socket.ack(newest + _REPLAYED)
        assert wait_until(lambda: has_acknowledged_all(instance, reader_id), 5.0)

    print(f"{_REPLAYED} messages replayed in {seconds:.2f} s")
    assert cursors == [*range(newest + 1, newest + _REPLAYED + 1)]
    assert texts == [str(number) for number in range(_REPLAYED)]
    assert _resets(socket) == []


def _fill_inbox(instance: Instance, user_id: int, sender_id: int, count: int) -> None:
    """Append messages as a drain would, from a shard that no drain uses."""
    client = connect(f"unix://{instance.redis_socket}?db=0")
    shard = 1_000 + secrets.randbelow(1_000_000)
    for start in range(0, count, 500):
        entries = []
        for number in range(start, start + 500):
            data = json.dumps({"data": str(number), "dataType": False, "otherData": None})
            message = {"id": str(uuid.uuid4()), "from_id": sender_id, "to_id": user_id, "chatType": "single"}
            body = json.dumps(message | {"type": "text", "data": data, "options": None}).encode()
            entries.append(inbox.LogEntry(inbox.Entry(shard, number + 1, None, body), None))
        run(client, [inbox.append_command(user_id, shard, entries, inbox_max=count + 100, log_max=1)])
    client.close()


def _is_pong(frame: Frame) -> bool:
    return frame.data.get("type") == "pong"


def test_heartbeats_are_answered_and_end_with_the_session(instance: Instance, friends: tuple[int, int]) -> None:
    """A ping gets its pong; a ping with the token of an ended session gets the failure frame and 4401."""
    token = start_session(instance, friends[0], "ending")
    with open_socket(instance, friends[0], 2, token=token) as socket:
        socket.send_json({"type": "ping", "token": token})
        socket.wait_for(_is_pong)
        start_session(instance, friends[0], "ending")
        socket.send_json({"type": "ping", "token": token})

        assert socket.wait_closed() == 4401
        assert socket.frames[-1].data["data"] == "Token 不合法"


def test_a_heartbeat_with_an_expired_token_says_so(instance: Instance, friends: tuple[int, int]) -> None:
    """The frame before the close gives the reason, as a refused handshake does (ORIG 2.1)."""
    with open_socket(instance, friends[0], 2) as socket:
        socket.send_json({"type": "ping", "token": sign(instance, friends[0], "default", "any", ttl_seconds=-1)})

        assert socket.wait_closed() == 4401
        assert socket.frames[-1].data == {"msg": "fail", "data": "token 已过期", "code": "token_expired"}


def test_keys_are_where_the_tests_look(instance: Instance) -> None:
    """The inbox of a user holds what he has not read, and is empty in Redis when he has."""
    sender_id, reader_id = add_friends(instance)
    empty_inbox(instance, reader_id)
    assert HttpClient(instance.base, instance.tokens[sender_id]).send(reader_id, "hello")[0] == 200

    with instance.redis() as client:
        assert client.llen(keys.inbox(reader_id)) == 1
        empty_inbox(instance, reader_id)
        assert [name for name in client.hkeys(keys.cursor(reader_id)) if name.startswith("d:")] == ["d:default"]
        assert client.llen(keys.inbox(reader_id)) == 0
