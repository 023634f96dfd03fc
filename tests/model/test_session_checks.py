"""What a web process does about sessions of its own accord: a publication that was lost must not keep a socket open."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, cast

import pytest
from sqlalchemy import delete, update

from models import sessions
from models.errors import StoreUnavailable
from models.sessions import ChatSession
from models.store import bus, keys, presence
from models.store import sessions as stored_sessions
from models.store.connection import run
from models.users import User
from tests.model.rig import STRANGER_ID, Rig, Socket
from webapp.accounts import Accounts
from webapp.auth import Caller
from webapp.limiting import LockOut
from webapp.logins import Logins
from webapp.passwords import Passwords
from webapp.session_ends import SessionEnds


def _connect(rig: Rig, device: str, protocol: int) -> Socket:
    """Open a connection whose session stands in SQL."""
    row = {"user_id": 1, "device": device, "session_id": f"session-1-{device}", "created_at_ms": 0, "expires_at_ms": 0}
    with rig.database.writing() as connection:
        sessions.start_sessions(connection, [row])
    return rig.web.connect(1, device, protocol)


def _check(rig: Rig) -> None:
    rig.web.office.sessions.check_all()
    rig.web.let_run()


def _end_in_sql(rig: Rig, cause: str) -> None:
    with rig.database.writing() as connection:
        if cause == "relogin":
            connection.execute(update(ChatSession).values(session_id="newer"))
        else:
            connection.execute(delete(ChatSession))
        if cause == "disabled":
            connection.execute(update(User).where(User.id == 1).values(status=0))


@pytest.mark.parametrize(("cause", "code"), [("logout", 4401), ("relogin", 4401), ("disabled", 4403)])
def test_an_end_that_nobody_told_is_found(rig: Rig, cause: str, code: int) -> None:
    """The sockets close at the next look, as they would have, and not before Redis says so."""
    two, one = _connect(rig, "a", 2), _connect(rig, "b", 1)
    _check(rig)
    assert (two.close_code, one.close_code) == (None, None)

    _end_in_sql(rig, cause)
    run(rig.client, [stored_sessions.end_all_command(1, None)])
    _check(rig)

    assert (two.close_code, one.close_code) == (code, 1000)
    assert len([f for f in two.texts("singleChat") if "forceLogout" in str(f)]) == (cause == "relogin")


def test_a_redis_that_lost_its_data_ends_nothing(rig: Rig) -> None:
    """What Redis does not hold is asked in SQL, and put there again."""
    socket = _connect(rig, "a", 2)
    rig.client.flushall()

    _check(rig)

    assert socket.close_code is None
    held = run(rig.client, [stored_sessions.read_command(1, "a")])[0]
    assert stored_sessions.parse_held(held)[0] == "session-1-a"


def test_a_connection_that_was_replaced_unheard_is_closed(rig: Rig) -> None:
    """Presence names another connection of the device: this one gets nothing any more, so it goes."""
    socket = _connect(rig, "a", 2)
    run(rig.client, [("HSET", keys.online(1), "a", "elsewhere:1:2")])

    _check(rig)

    assert socket.close_code == 4409


def test_a_late_end_spares_the_newer_session(rig: Rig) -> None:
    """An order that was meant for an older session of the device does not close the sockets of the present one."""
    socket = _connect(rig, "a", 2)
    order: Any = next(iter(rig.web.registry))

    rig.web.office.sessions.end(order, "relogin")
    rig.web.let_run()

    assert socket.close_code is None


def test_who_dies_while_he_sets_a_password_leaves_no_session_of_the_old_one(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQL has ended it, and Redis was not told: whoever knows its token would be let in for as long as that lasts."""
    passwords = Passwords()
    with rig.database.writing() as sql:
        sql.execute(update(User).where(User.id == 1).values(password=passwords.hash("secret-1")))
    desk = _connect(rig, "desk", 2)
    store, database, devices = rig.web._store, rig.web.office._database, rig.web.office._devices
    ends = SessionEnds(store, devices)
    accounts = Accounts(rig.settings, database, passwords, LockOut(store), cast(Logins, None), ends)
    caller = Caller(1, "uuid-1", "user", "a", "session-1-a", 0)

    def die(*_: object, **__: object) -> None:
        raise SystemExit

    monkeypatch.setattr(ends, "end_all", die)
    with pytest.raises(SystemExit):
        accounts.change_password(caller, "secret-1", "secret-2", address="192.0.2.1")

    held = run(rig.client, [stored_sessions.read_command(1, "desk")])[0]
    assert stored_sessions.parse_held(held)[0] == ""
    _check(rig)
    assert desk.close_code == 4401


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_socket_ends_with_its_session(rig: Rig, protocol: int) -> None:
    """An expired token closes it within seconds, whatever the heartbeat; a session that was renewed elsewhere keeps it open."""
    socket = _connect(rig, "a", protocol)
    connection = rig.web.connection_of(socket)
    assert connection is not None
    connection.expires_at = rig.web.office.sessions._expires_next = time.time() - 1
    with rig.database.writing() as sql:
        sql.execute(update(ChatSession).values(expires_at_ms=(time.time() + 60) * 1000))

    rig.web.office.sessions.end_expired()
    assert socket.is_open

    connection.expires_at = rig.web.office.sessions._expires_next = time.time() - 1
    with rig.database.writing() as sql:
        sql.execute(update(ChatSession).values(expires_at_ms=(time.time() - 1) * 1000))
    rig.web.office.sessions.end_expired()
    assert socket.close_code == (1000 if protocol == 1 else 4401)


def test_who_comes_while_expired_sessions_are_looked_up_ends_in_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """His token expires sooner than all others, and nobody had looked at him yet."""
    _connect(rig, "a", 2)
    watch = rig.web.office.sessions
    watch.expect(time.time() - 1)
    next(iter(rig.web.registry)).expires_at = time.time() - 1
    came: list[Socket] = []

    def come_meanwhile(*_: object) -> float:
        came.append(rig.web.connect(2, "a", 2))
        connection = rig.web.connection_of(came[0])
        assert connection is not None
        connection.expires_at = time.time() + 0.05
        watch.expect(connection.expires_at)
        return time.time() + 3_600

    with monkeypatch.context() as patch:
        patch.setattr(rig.web.office._devices, "session_expires_at", come_meanwhile)
        watch.end_expired()
    time.sleep(0.06)
    watch.end_expired()

    assert came[0].close_code == 4401


def _live(rig: Rig, device: str = "a") -> str | None:
    return presence.live_connection(run(rig.client, [presence.find_command(1, device)])[0])


def _stand_behind(rig: Rig, name: str) -> Socket:
    """Open a protocol 1 socket, and a newer one of its device in another process."""
    older = _connect(rig, "a", 1)
    connection = rig.web.connection_of(older)
    assert connection is not None
    run(rig.client, [presence.connect_command(1, "a", name, connection.session_id)])
    rig.web.office.obey(bus.Order(1, connection.number, "replace"))
    return older


def _send(rig: Rig, text: str) -> str:
    message = rig.build_send(2, 1, text)
    rig.accept(message)
    rig.drain()
    rig.deliver()
    return message.id


def _shown(socket: Socket) -> list[str]:
    return [frame["data"]["id"] for frame in socket.texts("singleChat")]


def test_a_connection_behind_a_dead_one_goes_on(rig: Rig) -> None:
    """Nobody is left to tell it, so it finds out: once for a process that may only subscribe anew, twice for a dead one."""
    older = _stand_behind(rig, "dead:7:1")
    first = _send(rig, "while nobody listens")

    rig.web.office._revive_orphans()
    rig.web.let_run()
    assert _live(rig) == "dead:7:1"
    rig.web.office._revive_orphans()
    rig.web.let_run()
    second = _send(rig, "now")

    assert _shown(older) == [first, second]


def test_a_connection_behind_a_live_one_waits(rig: Rig) -> None:
    """While the newer one's process listens, the older one gets nothing."""
    older = _stand_behind(rig, "other:7:1")
    listener = bus.Subscription(rig.client, "other")
    listener.open()

    for _ in range(3):
        rig.web.office._revive_orphans()
        rig.web.let_run()

    assert _live(rig) == "other:7:1"
    _send(rig, "to the newer one")
    assert _shown(older) == []
    listener.close()


def test_a_connection_that_was_taken_out_of_the_line_comes_back(rig: Rig) -> None:
    """Taken for dead while its process subscribed anew, it is found nowhere once the newer one has gone."""
    older = _stand_behind(rig, "other:7:1")
    run(rig.client, [("DEL", keys.online(1))])

    rig.web.office._revive_orphans()
    rig.web.let_run()

    message = _send(rig, "hello")
    assert _shown(older) == [message]


@pytest.mark.parametrize("is_heard", [True, False])
def test_a_connection_behind_one_that_ended_while_redis_was_away_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, is_heard: bool
) -> None:
    """Of the end Redis has heard nothing, or has heard it and nobody got its answer: both are made up for once it is back."""
    older, newer = (_connect(rig, "a", 1) for _ in range(2))
    hear = rig.web._store.tell

    def tell(command: Any, then: object = None) -> None:
        if is_heard:
            hear(command)

    with monkeypatch.context() as patch:
        patch.setattr(rig.web._store, "tell", tell)
        newer.abort()
    rig.web.let_run()

    rig.web.office._forget_ended()
    rig.web.office._revive_orphans()
    rig.web.let_run()

    message = _send(rig, "hello")
    assert _shown(older) == [message]
    assert rig.web.office._ended == {}


def test_ends_that_redis_does_not_confirm_are_kept_within_a_bound(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is away clients come and go; the ends of the last of them are enough, since what it holds runs out."""
    monkeypatch.setattr(rig.web.office, "_settings", replace(rig.settings, web_max_connections=2))
    names = []
    with monkeypatch.context() as patch:
        patch.setattr(rig.web._store, "tell", lambda *_: None)
        for _ in range(4):
            socket = _connect(rig, "a", 2)
            names += [connection.name for connection in rig.web.registry]
            socket.abort()

    assert list(rig.web.office._ended) == names[-2:]
    rig.web.office._forget_ended()
    assert rig.web.office._ended == {}
    assert _live(rig) is None


def test_a_connection_that_ends_while_it_is_put_into_presence_again_is_forgotten(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name would be renewed for as long as its user has another connection."""
    socket = _connect(rig, "a", 2)
    rig.web.connect(1, "b", 2)
    run(rig.client, [("DEL", keys.online(1))])
    register = rig.web.office._devices.register
    rig.client.hdel(keys.cursor(1), "d:a")  # so that SQL and Redis are asked before it can be put there

    def register_late(user_id: int, device: str) -> None:
        socket.abort()
        register(user_id, device)

    with monkeypatch.context() as patch:
        patch.setattr(rig.web.office._devices, "register", register_late)
        rig.web.office._renew_presence()
    assert _live(rig) is not None

    rig.web.office._forget_ended()
    assert _live(rig) is None
    assert _live(rig, "b") is not None


def test_a_dead_process_leaves_no_device_online(rig: Rig) -> None:
    """Its places would be renewed for ever with those of the user's other devices (ORIG A1, A21)."""
    _connect(rig, "a", 2)
    other = bus.Subscription(rig.client, "other")
    other.open()
    run(rig.client, [("HSET", keys.online(1), "b", "dead:7:2", "c", "other:8:2")])

    rig.web.office._renew_presence()
    assert _live(rig, "b") == "dead:7:2"  # perhaps it only subscribes anew
    rig.web.office._renew_presence()

    assert _live(rig, "b") is None
    assert _live(rig, "c") == "other:8:2"
    assert _live(rig, "a") is not None
    other.close()


def test_a_process_that_is_about_to_end_takes_nobody(rig: Rig) -> None:
    """Whoever comes is sent on to another process, and is nowhere registered."""
    rig.web.office.close_all()

    with pytest.raises(StoreUnavailable):
        rig.web.connect(1, "a", 2)

    assert len(rig.web.registry) == 0


def test_a_connection_that_cannot_be_opened_leaves_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails on the way: it is neither in the registry nor in presence."""

    def fail(*_: object) -> bytes:
        raise RuntimeError("a bug")

    monkeypatch.setattr(rig.web.office, "_opening", fail)
    with pytest.raises(RuntimeError):
        rig.web.connect(1, "a", 2)
    rig.web.let_run()

    assert len(rig.web.registry) == 0
    assert _live(rig) is None


def test_a_lost_order_is_made_up_for_when_redis_is_back(rig: Rig) -> None:
    """Sessions that ended while this process heard nothing are found as soon as it listens again."""
    socket = _connect(rig, "a", 2)
    _end_in_sql(rig, "disabled")
    run(rig.client, [stored_sessions.end_all_command(1, None)])

    rig.web.office.recover()
    rig.web.let_run()

    assert socket.close_code == 4403


def test_a_refusal_that_nobody_heard_is_told_when_redis_is_back(rig: Rig) -> None:
    """It leaves no entry in an inbox, so the sends that wait are looked up: each is answered, once (G6)."""
    socket = rig.web.connect(STRANGER_ID, "a", 2)
    for ref in (1, 2):
        message = {"sendto_id": 1, "chatType": "single", "type": "text", "data": "hello", "clientMsgId": f"m{ref}"}
        socket.say_json({"type": "send", "ref": ref, "message": message})
    rig.drain()
    rig.lose()
    assert socket.texts("sendResult") == []

    for _ in range(2):
        rig.web.office.recover()

    answers = [(answer["ref"], answer["code"]) for answer in socket.texts("sendResult")]
    assert answers == [(1, "friends_only"), (2, "friends_only")]
    assert rig.web.connection_of(socket).undecided_count == 0  # type: ignore[union-attr]  # it stands
