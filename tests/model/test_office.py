"""What the office of a process knows of its connections, and presence with it: who is here stays known, who has left goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from models.errors import StoreUnavailable
from models.store import keys, presence
from models.store import sessions as stored_sessions
from models.store.connection import run
from tests.model.rig import Rig, Socket
from tests.support.instance import wait_until
from webapp.sockets import office
from webapp.sockets.office import Resume

_RENEWED_MS = 80_000  # of the 90 s of a lease that was renewed just now


def _renew(rig: Rig) -> None:
    rig.web.office._renew_presence()
    rig.web.let_run()


def _check_sessions(rig: Rig) -> None:
    rig.web.office.sessions.check_all()
    rig.web.let_run()


def _name(rig: Rig, socket: Socket) -> str:
    connection = rig.web.connection_of(socket)
    assert connection is not None
    return connection.name


def _live(rig: Rig, user_id: int, device: str) -> str | None:
    """Return which connection presence names as the live one of a device."""
    return presence.live_connection(run(rig.client, [presence.find_command(user_id, device)])[0])


def _left_ms(rig: Rig, user_id: int) -> int:
    left: int = rig.client.pttl(keys.online(user_id))
    return left


# Presence


def test_presence_is_renewed_while_a_socket_is_open(rig: Rig) -> None:
    """Each user who is here is renewed, and nobody else: who stays for a day is online for a day (ORIG A3)."""
    for user_id in (1, 2):
        rig.web.connect(user_id, "a", 2)
    rig.web.connect(3, "a", 2).abort()
    rig.client.hset(keys.online(3), "a", "elsewhere:1:2")
    for user_id in (1, 2, 3):
        rig.client.pexpire(keys.online(user_id), 1_000)

    _renew(rig)

    assert [_left_ms(rig, user_id) > _RENEWED_MS for user_id in (1, 2, 3)] == [True, True, False]


@pytest.mark.parametrize("look", [_renew, _check_sessions])
@pytest.mark.parametrize("protocol", [1, 2])
def test_presence_that_ran_out_is_put_there_again(rig: Rig, look: Callable[[Rig], None], protocol: int) -> None:
    """A process that was stalled for longer than its lease, or whose Redis lost its data, finds its sockets unlisted."""
    sockets = {device: rig.web.connect(1, device, protocol) for device in ("a", "b")}
    rig.client.delete(keys.online(1))

    look(rig)

    assert {device: _live(rig, 1, device) for device in sockets} == {
        device: _name(rig, socket) for device, socket in sockets.items()
    }
    assert _left_ms(rig, 1) > _RENEWED_MS
    message = rig.build_send(2, 1, "hello")
    rig.accept(message)
    rig.drain()
    rig.deliver()
    for socket in sockets.values():
        assert [frame["data"]["id"] for frame in socket.texts("singleChat")] == [message.id]


@pytest.fixture
def greenlets(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[gevent.Greenlet[..., Any]]]:
    """Every greenlet that the office spawns; none of them outlives the test."""
    spawned: list[gevent.Greenlet[..., Any]] = []

    def spawn(*arguments: Any) -> gevent.Greenlet[..., Any]:
        spawned.append(gevent.Greenlet.spawn(*arguments))
        return spawned[-1]

    monkeypatch.setattr(gevent, "spawn", spawn)
    yield spawned
    gevent.killall(spawned)


def test_a_process_looks_after_its_sockets_by_itself(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, greenlets: list[gevent.Greenlet[..., Any]]
) -> None:
    """Presence is renewed and sessions are checked over and over, and twice at least in a lease."""
    assert 2 * 1_200 * office._PRESENCE_SECONDS < presence.LEASE_MS  # 1.2: intervals vary by a fifth
    rig.web.connect(1, "a", 2)
    over = rig.web.connect(2, "a", 2)
    monkeypatch.setattr(office, "_PRESENCE_SECONDS", 0.01)

    rig.web.office.start()

    assert greenlets
    for _ in range(2):
        rig.client.pexpire(keys.online(1), 60_000)
        assert wait_until(lambda: _soon(_left_ms(rig, 1) > _RENEWED_MS), 10.0)
    run(rig.client, [stored_sessions.end_all_command(2, None)])
    assert wait_until(lambda: _soon(not over.is_open), 10.0)


def _soon(is_so: bool) -> bool:
    """Let the greenlets go on for a moment."""
    gevent.sleep(0.01)
    return is_so


# The registry


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_socket_that_ended_is_forgotten(rig: Rig, protocol: int) -> None:
    """The end of a socket takes it out of registry and presence, and no other one (ORIG A6)."""
    ended, other, others = (
        rig.web.connect(user_id, device, protocol) for user_id, device in ((1, "a"), (1, "b"), (2, "a"))
    )
    name = _name(rig, other)

    ended.abort()
    rig.web.let_run()

    assert {connection.transport for connection in rig.web.registry} == {other, others}
    assert len(rig.web.registry) == 2
    assert (_live(rig, 1, "a"), _live(rig, 1, "b")) == (None, name)


def test_a_connection_that_failed_is_not_registered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the registry before presence knows of it, so it must leave it where presence does not answer."""

    def fail(*_: object) -> None:
        raise StoreUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(rig.web.office, "_register", fail)
        with pytest.raises(StoreUnavailable):
            rig.web.connect(1, "a", 2)

    assert len(rig.web.registry) == 0


def test_a_connection_that_resumes_while_redis_goes_is_not_left_behind(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client is sent away and comes back. Had it begun already, it would stay in the registry and in presence for ever."""
    first = rig.web.connect(1, "a", 2)
    rig.accept(rig.build_send(2, 1, "hello"))
    rig.drain()
    rig.deliver()
    epoch = first.texts("hello")[0]["epoch"]
    first.abort()
    rig.web.let_run()

    def fail(*_: object) -> None:
        raise StoreUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(rig.web.office, "_note_resumed", fail)
        with pytest.raises(StoreUnavailable):
            rig.web.connect(1, "a", 2, Resume(1, epoch))
    rig.web.let_run()

    assert len(rig.web.registry) == 0
    assert _live(rig, 1, "a") is None


@pytest.mark.parametrize("is_open", [True, False])
def test_what_was_acknowledged_while_redis_was_away_does_not_come_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    """It is told again until Redis has heard it, also of a socket that has ended since (G3)."""
    socket = rig.web.connect(1, "a", 2)
    rig.accept(rig.build_send(2, 1, "hello"))
    rig.drain()
    rig.deliver()
    assert len(socket.texts("singleChat")) == 1

    def fail(*_: object) -> None:
        raise StoreUnavailable("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(rig.web._store, "call", fail)
        socket.say_json({"type": "ack", "cursor": 1})
        if not is_open:
            socket.abort()
        rig.web.office._tell_waiting()
        assert rig.cursor_state(1)["d:a"] == "0"
    for connection in rig.web.office._acknowledged:
        connection.tell_at = 0.0
    rig.web.office._tell_waiting()

    assert rig.cursor_state(1)["d:a"] == "1"
    assert rig.web.office._acknowledged == set()
    assert rig.web.connect(1, "a", 2).texts("singleChat") == []
