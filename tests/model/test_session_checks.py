"""What a web process does about sessions of its own accord: a publication that was lost must not keep a socket open."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete, update

from models import sessions
from models.sessions import ChatSession
from models.store import keys
from models.store import sessions as stored_sessions
from models.store.connection import run
from models.users import User
from tests.model.rig import Rig, Socket


def _connect(rig: Rig, device: str, protocol: int) -> Socket:
    """Open a connection whose session stands in SQL."""
    row = {"user_id": 1, "device": device, "session_id": f"session-1-{device}", "created_at_ms": 0, "expires_at_ms": 0}
    with rig.database.writing() as connection:
        sessions.start_sessions(connection, [row])
    return rig.web.connect(1, device, protocol)


def _check(rig: Rig) -> None:
    rig.web.office._check_sessions()
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

    rig.web.office._end_session(order, "relogin")
    rig.web.let_run()

    assert socket.close_code is None
