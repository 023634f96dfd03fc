"""Protocol 1, for clients that exist: refusals, heartbeats, acknowledgement by pong, and several connections of a session."""

from __future__ import annotations

import http.client
import json
import signal
import socket as sockets
import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing

import pytest

from tests.support.acting import (
    device_state,
    empty_inbox,
    has_acknowledged_all,
    live_place,
    open_placed,
    open_socket,
    show_marker,
    sign,
    start_session,
)
from tests.support.client import ChatSocket, HttpClient, message_text
from tests.support.instance import Instance, wait_until
from webapp.tokens import Tokens

_UNKNOWN_USER = 999_999
_DISABLED_USER = 20  # a member of the group whom no test here writes to


def _ended_session(instance: Instance, user_id: int) -> str:
    """Return the token of a session that a newer login on its device has ended."""
    former = start_session(instance, user_id, "replaced")
    start_session(instance, user_id, "replaced")
    return former


def _disabled(instance: Instance, _: int) -> str:
    with closing(sqlite3.connect(instance.data_dir / "hongyan.db", timeout=10.0)) as database:
        database.execute('UPDATE "user" SET status = 0 WHERE id = ?', (_DISABLED_USER,))
        database.commit()
    return sign(instance, _DISABLED_USER, "never seen", "s")


def _forged(instance: Instance, user_id: int) -> str:
    return Tokens("another secret, long enough for HS256", 60).sign(
        user_id=user_id, uuid="u", role="user", session_id="s", device="default"
    )


_BAD_TOKENS: dict[str, tuple[Callable[[Instance, int], str | None], str]] = {
    "missing": (lambda instance, user_id: None, "缺少 token 参数"),
    "empty": (lambda instance, user_id: "", "缺少 token 参数"),
    "garbage": (lambda instance, user_id: "garbage", "Token 不合法"),
    "not text": (lambda instance, user_id: "\x00\ufffd鸿雁", "Token 不合法"),
    "forged": (_forged, "Token 不合法"),
    "expired": (lambda instance, user_id: sign(instance, user_id, "default", "s", ttl_seconds=-10), "token 已过期"),
    "ended session": (_ended_session, "Token 不合法"),
    "unknown user": (lambda instance, user_id: sign(instance, _UNKNOWN_USER, "default", "s"), "用户不存在"),
    "disabled user": (_disabled, "你已被管理员禁用"),
}


@pytest.mark.parametrize("kind", _BAD_TOKENS)
def test_a_refusal_is_a_frame_and_a_close_without_a_code(
    instance: Instance, friends: tuple[int, int], kind: str
) -> None:
    """Who may not come in reads ORIG's failure frame, and then a close frame that carries no code."""
    make, text = _BAD_TOKENS[kind]

    with ChatSocket(instance.base, make(instance, friends[0])) as socket:
        assert socket.wait_closed() == 1005

    assert [frame.data for frame in socket.frames] == [{"msg": "fail", "data": text}]
    assert socket.error is None


def _pongs(socket: ChatSocket) -> int:
    return sum(frame.data.get("type") == "pong" for frame in list(socket.frames))


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_each_kind_of_ping_is_answered(instance: Instance, friends: tuple[int, int], kind: str) -> None:
    """A ping is answered with a pong, bare or as JSON, with a valid token or none, as text or as bytes."""
    token = instance.tokens[friends[0]]
    pings = [
        "ping",
        '{"type":"ping"}',
        '{"type":"ping","token":""}',
        '{"type":"ping","token":null}',
        json.dumps({"type": "ping", "token": token, "timestamp": 1}),
    ]
    before_ms = int(time.time() * 1000)

    with open_socket(instance, friends[0]) as socket:
        for count, ping in enumerate(pings, 1):
            if kind == "text":
                socket.send_text(ping)
            else:
                socket.send_binary(ping.encode())
            assert wait_until(lambda count=count: _pongs(socket) == count, 5.0), ping  # type: ignore[misc]
        pongs = [frame.data for frame in socket.frames if frame.data.get("type") == "pong"]

    for pong in pongs:
        assert list(pong) == ["type", "timestamp"]
        assert before_ms - 1_000 <= pong["timestamp"] <= time.time() * 1000 + 1_000


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_what_is_no_ping_is_ignored(instance: Instance, friends: tuple[int, int], kind: str) -> None:
    """A pong, other JSON and what is no JSON change nothing: the next ping gets the only pong."""
    ignored = [
        '{"type":"pong","timestamp":1}',
        '{"type":"hello"}',
        '{"type":["ping"]}',
        '{"type":"send","ref":"r","message":{"clientMsgId":"x"}}',
        '{"type":"ack","cursor":1}',
        '"ping"',
        "[]",
        "[" * 3_000,
        "null",
        "17",
        "",
        "undefined",
        "pinging",
        "{",
    ]

    with open_socket(instance, friends[0]) as socket:
        for payload in ignored:
            if kind == "text":
                socket.send_text(payload)
            else:
                socket.send_binary(payload.encode())
        socket.send_binary(b"\xff\xfe" if kind == "binary" else b"\x00")
        socket.send_text("ping")
        socket.wait_for(lambda frame: frame.data.get("type") == "pong")

        assert _pongs(socket) == 1
        assert [frame.data for frame in socket.frames if "msg" in frame.data] == []
        assert socket.is_open


def test_a_heartbeat_with_a_bad_token_ends_the_connection(instance: Instance, friends: tuple[int, int]) -> None:
    """A token that does not hold any more is answered in the heartbeat by the failure frame and close code 1000."""
    with open_socket(instance, friends[0]) as socket:
        socket.send_json({"type": "ping", "token": _ended_session(instance, friends[0]), "timestamp": 1})

        assert socket.wait_closed() == 1000
        assert socket.frames[-1].data == {"msg": "fail", "data": "Token 不合法"}
        assert _pongs(socket) == 0


def test_a_device_never_gets_its_own_messages(instance: Instance, friends: tuple[int, int]) -> None:
    """What a device has sent is not shown to it, neither at once nor after it has come back."""
    sender_id, friend_id = friends
    empty_inbox(instance, sender_id)
    client = HttpClient(instance.base, instance.tokens[sender_id])

    with open_socket(instance, sender_id) as socket:
        for number in range(3):
            assert client.send(friend_id, f"mine {number}")[0] == 200
        show_marker(instance, friend_id, sender_id, socket)
        assert [message["from_id"] for message in socket.messages] == [friend_id]
    assert client.send(friend_id, "mine while away")[0] == 200

    with open_socket(instance, sender_id) as socket:
        show_marker(instance, friend_id, sender_id, socket)
        assert {message["from_id"] for message in socket.messages} == {friend_id}


def test_a_pong_acknowledges_what_was_read(instance: Instance, friends: tuple[int, int]) -> None:
    """Who has answered the pings is shown nothing again, and the inbox keeps nothing for him."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    with open_socket(instance, reader_id) as socket:
        for _ in range(5):
            show_marker(instance, sender_id, reader_id, socket)
        assert wait_until(lambda: has_acknowledged_all(instance, reader_id), 5.0)

    with open_socket(instance, reader_id) as socket:
        show_marker(instance, sender_id, reader_id, socket)
        assert len(socket.messages) == 1


def test_what_was_not_acknowledged_comes_again(instance: Instance, friends: tuple[int, int]) -> None:
    """A client that answers no ping is shown its tail again after coming back, with the same ids, on each connection once."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    seen: list[list[str]] = []

    for _ in range(3):
        with open_socket(instance, reader_id, answer_pings=False) as socket:
            show_marker(instance, sender_id, reader_id, socket)
            seen.append([message["id"] for message in socket.messages])
        assert wait_until(lambda: not live_place(instance, reader_id), 5.0)

    first, second, third = seen
    assert [len(ids) for ids in seen] == [1, 2, 3]
    assert third[:2] == second
    assert second[:1] == first


def test_a_foreign_pong_acknowledges_nothing(instance: Instance, friends: tuple[int, int]) -> None:
    """Only the payload of this connection's own ping counts: what was never sent, or to an earlier connection, is ignored."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    before = device_state(instance, reader_id)[1]
    with open_socket(instance, reader_id, answer_pings=False) as socket:
        show_marker(instance, sender_id, reader_id, socket)
        former = socket.wait_for_ping().payload
    assert wait_until(lambda: not live_place(instance, reader_id), 5.0)

    with open_socket(instance, reader_id, answer_pings=False) as socket:
        show_marker(instance, sender_id, reader_id, socket)
        own = socket.wait_for_ping().payload
        nonce, _, cursor = own.partition(b":")
        for payload in (b"", b"x" * 125, former, cursor, b"%s:%d" % (nonce, int(cursor) + 1), own + b"0"):
            socket.pong(payload)
        socket.send_text("ping")
        socket.wait_for(lambda frame: frame.data.get("type") == "pong")
    assert wait_until(lambda: not live_place(instance, reader_id), 5.0)

    assert device_state(instance, reader_id)[1] == before
    with open_socket(instance, reader_id) as socket:
        show_marker(instance, sender_id, reader_id, socket)
        assert len(socket.messages) == 3


@pytest.mark.parametrize("acknowledges", [True, False], ids=["acknowledged", "unacknowledged"])
@pytest.mark.parametrize("is_same_process", [True, False], ids=["same process", "other process"])
def test_an_older_connection_waits_behind_the_newer(
    instance: Instance, friends: tuple[int, int], is_same_process: bool, acknowledges: bool
) -> None:
    """The older connection of a session stays open and silent, and goes on where the newer one has stopped."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    with open_socket(instance, reader_id) as older:
        show_marker(instance, sender_id, reader_id, older)
        assert wait_until(lambda: has_acknowledged_all(instance, reader_id), 5.0)
        place = live_place(instance, reader_id)
        process_id = place.partition(":")[0]
        newer = open_placed(instance, reader_id, 1, is_on=is_same_process, process_id=process_id)
        with newer:
            for _ in range(3):
                show_marker(instance, sender_id, reader_id, newer)
            assert wait_until(lambda: has_acknowledged_all(instance, reader_id), 5.0)
            newer_place = live_place(instance, reader_id)
            assert len(older.messages) == 1
            older.send_text("ping")
            older.wait_for(lambda frame: frame.data.get("type") == "pong")
        if not acknowledges:
            # A second newer one that is written something and vanishes before it says that it has it.
            assert wait_until(lambda: live_place(instance, reader_id) == place, 5.0)
            with open_socket(instance, reader_id, answer_pings=False) as deaf:
                show_marker(instance, sender_id, reader_id, deaf)
                newer_place = live_place(instance, reader_id)
        assert wait_until(lambda: live_place(instance, reader_id) not in ("", newer_place), 5.0)
        assert live_place(instance, reader_id) == place

        show_marker(instance, sender_id, reader_id, older)

        ids = [message["id"] for message in older.messages]
        assert len(ids) == len(set(ids)) == (2 if acknowledges else 3)


def test_a_stopping_process_drops_its_connections(instance: Instance, friends: tuple[int, int]) -> None:
    """A web process that is told to stop drops its connections within 2 s without a close frame, and nobody else's."""
    with ExitStack() as stack:
        first = stack.enter_context(open_socket(instance, friends[0]))
        process_id = live_place(instance, friends[0]).partition(":")[0]
        second = stack.enter_context(open_placed(instance, friends[1], 1, is_on=False, process_id=process_id))
        web_processes = instance.wait_processes("web", 2)

        instance.kill("web", signal.SIGTERM)

        assert wait_until(lambda: not (first.is_open and second.is_open), 2.0)
        dropped, kept = (first, second) if not first.is_open else (second, first)
        assert dropped.close_code is None
        assert dropped.error is None
        kept.send_text("ping")
        kept.wait_for(lambda frame: frame.data.get("type") == "pong")
    assert wait_until(lambda: len(set(instance.processes("web")) - set(web_processes)) == 1, 15.0)
    assert wait_until(lambda: len(instance.processes("web")) == 2, 15.0)
    instance.wait_ready()


@pytest.mark.parametrize(
    "offer",
    ["permessage-deflate", "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame", "foo; bar=1"],
)
def test_compression_is_never_negotiated(instance: Instance, friends: tuple[int, int], offer: str) -> None:
    """Whatever extensions a client offers, the answer to the handshake names none."""
    request = (
        f"GET /ws?token={instance.tokens[friends[0]]} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: {offer}\r\n\r\n"
    )
    with sockets.create_connection(("127.0.0.1", instance.port), timeout=10.0) as connection:
        connection.sendall(request.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += connection.recv(4096)
        head, _, frame = answer.partition(b"\r\n\r\n")
        while not frame:
            frame += connection.recv(4096)

    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-extensions" not in head.lower()
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455 section 1.3's example
    assert frame[0] == 0x81  # a whole text frame, no reserved bits


_HANDSHAKE = {
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize("missing", [*_HANDSHAKE, "everything"])
def test_what_is_no_handshake_is_a_bad_request(instance: Instance, friends: tuple[int, int], missing: str) -> None:
    """A request for /ws that does not ask for a websocket is answered with 400 in the envelope, without a version 426."""
    headers = {name: value for name, value in _HANDSHAKE.items() if missing not in (name, "everything")}
    headers["Connection"] = "Upgrade"
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=10.0)

    with closing(connection):
        connection.request("GET", f"/ws?token={instance.tokens[friends[0]]}", headers=headers)
        response = connection.getresponse()
        body = json.loads(response.read())

    expected = (426, "upgrade_required") if missing == "Sec-WebSocket-Version" else (400, "bad_request")
    assert (response.status, body["msg"], body["code"]) == (expected[0], "fail", expected[1])


def test_messages_of_an_offline_time_come_before_live_ones(instance: Instance, friends: tuple[int, int]) -> None:
    """While a client connects, others go on writing: it is shown everything once and in order."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    sender = HttpClient(instance.base, instance.tokens[sender_id])
    run = uuid.uuid4().hex
    expected: list[str] = []

    def send() -> None:
        expected.append(f"{run} {len(expected)}")
        assert sender.send(reader_id, expected[-1], respond_async=True)[0] == 202

    for _ in range(20):
        send()
    with ChatSocket(instance.base, instance.tokens[reader_id]) as socket:
        for _ in range(20):
            send()
        socket.wait_for_text(expected[-1])
        assert [message_text(message) for message in socket.messages] == expected
