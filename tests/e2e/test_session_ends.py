"""A session that is over has no sockets: they close within a second, wherever they live, and no others do."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Literal

import jwt
import pytest
from sqlalchemy import update

from models.sessions import ChatSession
from models.store import keys
from tests.support.acting import Version, device_state, live_place, open_placed, open_socket, sign
from tests.support.client import ChatSocket, HttpClient
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users, befriend, start_session, writing
from webapp.errors import FAILURES

_PASSWORD = "secret1"
_HEARTBEAT_SECONDS = 3
_PROMPTLY_SECONDS = 1.0
_numbers = itertools.count(1)

Cause = Literal["logout", "relogin", "password", "disabled"]


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    """An instance whose sockets beat often and that lets these tests log in as often as they like."""
    environment = {
        "RATE_LIMIT_AUTH": "off",
        "HEARTBEAT_SECONDS": str(_HEARTBEAT_SECONDS),
        "RATE_LIMIT_FRAMES": "40/10second",
    }
    with Instance(environment) as started:
        started.seed(4, 0)
        yield started


@dataclass(frozen=True)
class _Account:
    user_id: int
    username: str


def _enter(instance: Instance, path: str, username: str, device: str) -> dict[str, Any]:
    body = {"username": username, "password": _PASSWORD, "device": device}
    status, answer = HttpClient(instance.base, None).call("POST", path, body)
    assert status == 200, answer
    return dict(answer["data"])


def _register(instance: Instance) -> tuple[_Account, str]:
    """Register somebody on the device `tablet`; return him and his token."""
    username = f"ends{next(_numbers)}{secrets.token_hex(3)}"
    row = _enter(instance, "/api/regChat", username, "tablet")
    return _Account(row["id"], username), row["token"]


def _log_in(instance: Instance, account: _Account, device: str) -> str:
    return str(_enter(instance, "/api/loginChat", account.username, device)["token"])


def _other_process(instance: Instance, stack: ExitStack) -> str:
    """Return the id of some web process, by the place of a socket that stays open."""
    stack.enter_context(open_socket(instance, 1, 2))
    assert wait_until(lambda: bool(live_place(instance, 1)), 5.0)
    return live_place(instance, 1).partition(":")[0]


def _end(instance: Instance, cause: Cause, account: _Account, token: str, tablet: str) -> None:
    """End the session of `phone`, whose token is given; `password` and `disabled` end others too."""
    if cause == "logout":
        answer = HttpClient(instance.base, token).call("POST", "/api/chat/logout")
    elif cause == "relogin":
        _log_in(instance, account, "phone")
        return
    elif cause == "password":
        body = {"oldpassword": _PASSWORD, "newpassword": "secret2", "checknewpassword": "secret2"}
        answer = HttpClient(instance.base, tablet).call("POST", "/api/chat/setPassword", body)
    else:
        with writing(instance) as connection:
            connection.exec_driver_sql('UPDATE "user" SET is_administrator = 1 WHERE id = 3')
        administrator = HttpClient(instance.base, instance.tokens[3])
        answer = administrator.call("POST", f"/api/admin/users/{account.user_id}/status", {"status": 0})
    assert answer[0] == 200, answer


@pytest.mark.parametrize("is_near", [True, False])
@pytest.mark.parametrize("v", [1, 2])
@pytest.mark.parametrize("cause", ["logout", "relogin", "password", "disabled"])
def test_a_session_that_ends_loses_its_sockets(instance: Instance, cause: Cause, v: Version, is_near: bool) -> None:
    """Within a second, on each process and each protocol; other sessions and other users keep theirs (ORIG A7, A13)."""
    account, tablet = _register(instance)
    token = _log_in(instance, account, "phone")
    with ExitStack() as stack:
        process_id = _other_process(instance, stack)
        other_user = stack.enter_context(open_socket(instance, 2, v))
        mine = stack.enter_context(open_socket(instance, account.user_id, 2, token=tablet))
        place = {"is_on": is_near, "process_id": process_id, "device": "phone", "token": token}
        socket = stack.enter_context(open_placed(instance, account.user_id, v, **place))  # type: ignore[arg-type]

        _end(instance, cause, account, token, tablet)

        code = socket.wait_closed(_PROMPTLY_SECONDS)
        assert code == (1000 if v == 1 else 4403 if cause == "disabled" else 4401)
        notices = [f.data["data"] for f in socket.frames if "forceLogout" in str(f.data.get("data"))]
        assert len(notices) == (1 if cause == "relogin" else 0)
        if cause == "disabled":
            assert mine.wait_closed(_PROMPTLY_SECONDS) == 4403
        else:
            assert not mine.has_ended_within(0.3)
        assert other_user.is_open
        with ChatSocket(instance.base, token, v) as again:
            assert again.wait_closed() == (1005 if v == 1 else 4403 if cause == "disabled" else 4401)
        status, body = HttpClient(instance.base, token).get("/api/chat/conversations")
        assert (status, body["code"]) == (400, "user_disabled" if cause == "disabled" else "token_invalid")


def test_the_forced_logout_notice_is_the_originals(instance: Instance) -> None:
    """The notice has the fields and words of ORIG section 4, and no cursor, on both protocols."""
    account, _ = _register(instance)
    for v in (1, 2):
        with open_socket(instance, account.user_id, v, token=_log_in(instance, account, "phone")) as socket:
            _log_in(instance, account, "phone")
            socket.wait_closed(_PROMPTLY_SECONDS)

        frame = socket.frames[-1].data
        assert set(frame) == {"type", "data", "timestamp"}
        message = frame["data"]
        key = f"redirect-forceLogout-{account.user_id}"
        assert (frame["type"], message["from_id"], message["msgidKey"]) == ("singleChat", key, key)
        assert (message["from_name"], message["from_avatar"]) == ("账号异地登录", "/static/media/kefu.png")
        assert message["data"]["data"] == "你的账号在其他设备登录了，您当前设备会下线"
        assert (message["chatType"], message["type"], message["to_id"]) == ("single", "text", account.user_id)
        assert (message["redirect"], message["options"], message["group"], message["isremove"]) == (None, {}, {}, 0)


def test_an_older_socket_that_waits_is_closed_too(instance: Instance) -> None:
    """Of a protocol 1 session all sockets close, not only the live one."""
    account, _ = _register(instance)
    token = _log_in(instance, account, "phone")
    with ExitStack() as stack:
        sockets = [stack.enter_context(open_socket(instance, account.user_id, 1, token=token)) for _ in range(3)]

        _log_in(instance, account, "phone")

        assert [socket.wait_closed(_PROMPTLY_SECONDS) for socket in sockets] == [1000] * 3


def test_a_socket_opened_while_its_session_ends_does_not_survive(instance: Instance) -> None:
    """Whichever comes first, in the end no socket of an ended session is open (ORIG A13)."""
    account, _ = _register(instance)
    for _ in range(12):
        token = _log_in(instance, account, "phone")
        opened: list[ChatSocket] = []
        starts = threading.Barrier(5)

        def connect(v: Version, token: str = token, opened: list[ChatSocket] = opened, starts: Any = starts) -> None:
            starts.wait()
            opened.append(ChatSocket(instance.base, token, v))

        threads = [threading.Thread(target=connect, args=(v,)) for v in (1, 2, 1, 2)]
        for thread in threads:
            thread.start()
        starts.wait()
        assert HttpClient(instance.base, token).call("POST", "/api/chat/logout")[0] == 200
        for thread in threads:
            thread.join()

        assert all(socket.has_ended_within(3.0) for socket in opened)
        assert wait_until(lambda: not live_place(instance, account.user_id, "phone"), 5.0)


def test_logins_at_the_same_time_leave_one_session(instance: Instance) -> None:
    """Of many logins on a device one token is good, and the socket opened with it stays open."""
    account, _ = _register(instance)
    tokens: list[str] = []
    threads = [threading.Thread(target=lambda: tokens.append(_log_in(instance, account, "phone"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    good = [t for t in tokens if HttpClient(instance.base, t).get("/api/chat/conversations")[0] == 200]

    assert len(good) == 1
    with open_socket(instance, account.user_id, 2, token=good[0]) as socket:
        assert not socket.has_ended_within(0.5)


@pytest.mark.parametrize("v", [1, 2])
def test_a_token_that_expires_takes_its_socket_with_it(instance: Instance, v: Version) -> None:
    """Within two seconds of the expiry, unless its session was renewed by then, or the socket has shown a newer token."""
    (user_id,) = add_users(instance)
    newer = start_session(instance, user_id)
    session_id = jwt.decode(newer, options={"verify_signature": False})["sid"]

    def open_for(token_seconds: float, session_seconds: float) -> ChatSocket:
        with writing(instance) as connection:
            until_ms = int((time.time() + session_seconds) * 1000)
            mine = update(ChatSession).where(ChatSession.user_id == user_id)
            connection.execute(mine.values(expires_at_ms=until_ms))
        short = sign(instance, user_id, "default", session_id, ttl_seconds=int(token_seconds))
        return open_socket(instance, user_id, v, token=short)

    with open_for(token_seconds=2, session_seconds=2) as socket:
        assert socket.wait_closed(2 + 2) == (1000 if v == 1 else 4401)
    with open_for(token_seconds=2, session_seconds=60) as socket:
        assert not socket.has_ended_within(2 + 2)
    with open_for(token_seconds=2, session_seconds=2) as socket:
        socket.send_json({"type": "ping", "token": newer})
        assert not socket.has_ended_within(2 + 2)


def test_an_end_that_redis_was_not_told_of_is_told_by_the_repeat(instance: Instance) -> None:
    """SQL has no such session any more: the copy in Redis, which admits, goes with the next logout."""
    account, token = _register(instance)
    session_id = jwt.decode(token, options={"verify_signature": False})["sid"]
    with writing(instance) as connection:
        connection.exec_driver_sql("DELETE FROM chat_session WHERE user_id = ?", (account.user_id,))
    with closing(instance.redis()) as client:
        client.hset(keys.sessions(account.user_id), "tablet", session_id)

    assert HttpClient(instance.base, token).call("POST", "/api/chat/logout")[0] == 200

    assert HttpClient(instance.base, token).get("/api/chat/conversations")[1]["code"] == "token_invalid"


# How many


@pytest.mark.parametrize("v", [1, 2])
def test_the_ninth_connection_is_refused(instance: Instance, v: Version) -> None:
    """Connections are counted over devices and processes, and one that leaves makes room."""
    (user_id,) = add_users(instance)
    devices = [start_session(instance, user_id, device=f"d{number}") for number in range(4)]
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(open_socket(instance, user_id, 1, token=token)) for token in devices for _ in range(2)
        ]

        with ChatSocket(instance.base, instance.tokens[user_id], v) as ninth:
            assert ninth.wait_closed() == (1005 if v == 1 else 4429)
        told = {"msg": "fail", "data": FAILURES["too_many_connections"].zh}
        assert ninth.frames[0].data == (told if v == 1 else told | {"code": "too_many_connections"})
        assert all(socket.is_open for socket in sockets)

        sockets[0].close()

        def is_admitted() -> bool:
            with ChatSocket(instance.base, instance.tokens[user_id], v) as tenth:
                return bool(tenth.wait_for(lambda _: True).data.get("type") == "system")

        assert wait_until(is_admitted, 5.0), "the one that left still counts"


def test_connections_opened_at_the_same_time_are_counted(instance: Instance) -> None:
    """Twenty at once: eight are admitted."""
    (user_id,) = add_users(instance)
    sockets: list[ChatSocket] = []
    starts = threading.Barrier(20)

    def connect() -> None:
        starts.wait()
        sockets.append(ChatSocket(instance.base, instance.tokens[user_id], 1))

    threads = [threading.Thread(target=connect) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert wait_until(lambda: sum(not socket.is_open for socket in sockets) == 12, 5.0)
    finally:
        for socket in sockets:
            socket.close()


def test_connections_of_a_dead_process_do_not_count(instance: Instance) -> None:
    """What a killed process has left behind makes room for those who come back."""
    (user_id,) = add_users(instance)
    with ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(open_socket(instance, user_id, 1))
        for process in instance.processes("web"):
            os.kill(process, signal.SIGKILL)
        instance.wait_ready()
        with closing(instance.redis()) as client:
            assert len(str(client.hget(keys.online(user_id), "default")).split()) == 8

        for _ in range(8):
            stack.enter_context(open_socket(instance, user_id, 1))


@pytest.mark.parametrize("v", [1, 2])
def test_a_socket_that_says_too_much_is_closed(instance: Instance, v: Version) -> None:
    """Frames beyond the rate close it, acknowledgements of nothing new count; answers to the server's pings do not (ORIG A26)."""
    (user_id,) = add_users(instance)
    with open_socket(instance, user_id, v) as socket:
        for _ in range(100):
            socket.pong(b"unasked")
        for _ in range(40):
            socket.send_json({"type": "ack", "cursor": 0})
        assert not socket.has_ended_within(0.3)

        socket.send_json({"type": "ping"})

        assert socket.wait_closed(5.0) == (None if v == 1 else 4429)


# Devices


def test_a_device_misses_nothing_from_its_login_on(instance: Instance) -> None:
    """What comes between the login and the first connection waits for the device, though others have it already."""
    account, tablet = _register(instance)
    befriend(instance, 1, account.user_id)
    with open_socket(instance, account.user_id, 2, token=tablet) as first:
        phone = _log_in(instance, account, "phone")
        assert HttpClient(instance.base, instance.tokens[1]).send(account.user_id, "for both")[0] == 200
        first.ack(first.wait_for_text("for both").data["cursor"])
        assert wait_until(lambda: device_state(instance, account.user_id, "tablet")[1] == 1, 5.0)

    with open_socket(instance, account.user_id, 2, token=phone) as second:
        second.wait_for_text("for both")


def test_a_device_that_logs_out_counts_no_more(instance: Instance) -> None:
    """It holds nothing back any more, in Redis and in SQL; a login on the same device keeps its place."""
    account, tablet = _register(instance)
    befriend(instance, 1, account.user_id)
    with open_socket(instance, account.user_id, 2, token=tablet) as first:
        phone = _log_in(instance, account, "phone")
        phone = _log_in(instance, account, "phone")
        assert HttpClient(instance.base, instance.tokens[1]).send(account.user_id, "unread")[0] == 200
        first.ack(first.wait_for_text("unread").data["cursor"])
        assert wait_until(lambda: device_state(instance, account.user_id, "tablet")[1] == 1, 5.0)
        assert wait_until(lambda: _has_position(instance, account.user_id, "phone"), 10.0)
        assert device_state(instance, account.user_id, "phone")[1] == 0

        assert HttpClient(instance.base, phone).call("POST", "/api/chat/logout")[0] == 200

    assert device_state(instance, account.user_id, "phone")[1] is None
    assert not _has_position(instance, account.user_id, "phone")
    with closing(instance.redis()) as client:
        assert client.hget(keys.cursor(account.user_id), "base") == "1"
        assert not [name for name in client.hkeys(keys.cursor(account.user_id)) if "phone" in name]


def _has_position(instance: Instance, user_id: int, device: str) -> bool:
    with closing(sqlite3.connect(instance.data_dir / "hongyan.db", timeout=10.0)) as database:
        query = "SELECT count(*) FROM device_position WHERE user_id = ? AND device = ?"
        return bool(database.execute(query, (user_id, device)).fetchone()[0])
