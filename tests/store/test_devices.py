"""Devices that are forgotten by housekeeping, on a real Redis and a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models import positions, sessions
from models.database import Database, insert_missing, open_database
from models.store import inbox, keys, presence
from models.store import sessions as stored_sessions
from models.store.connection import Client, run
from models.users import User
from tasks.devices import UNSEEN_MS, forget_unseen
from tests.model.rig import migrate

_NOW_MS = 1_800_000_000_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'devices.db'}"
    migrate(url)
    opened = open_database(url)
    yield opened
    opened.engine.dispose()


def _add(
    database: Database, client: Client, user_id: int, device: str, seen_at_ms: int, *, session: bool = True
) -> None:
    """Let a device count, checkpointed, seen at that time."""
    with database.writing() as connection:
        user = {"id": user_id, "uuid": f"u{user_id}", "username": f"name{user_id}", "password": ""}
        insert_missing(connection, User, [user], key=("id",))
        positions.checkpoint(connection, [positions.Position(user_id, device, "e", 0, {})])
        if session:
            row = {"user_id": user_id, "device": device, "session_id": "s", "created_at_ms": 0, "expires_at_ms": 0}
            sessions.start_sessions(connection, [row])
    run(client, [inbox.open_command(user_id, {}, {}, []), inbox.register_command(user_id, device)])
    run(client, [("HSET", keys.cursor(user_id), f"n:{device}", seen_at_ms)])


def _counting(database: Database, client: Client, user_id: int) -> tuple[set[str], set[str]]:
    """Return the user's devices according to Redis and to SQL."""
    state = inbox.parse_state(run(client, [inbox.state_command(user_id)])[0])[1]
    with database.reading() as connection:
        return set(state), {position.device for position in positions.load(connection, user_id)}


def test_devices_unseen_for_a_month_are_forgotten(database: Database, client: Client, user_id: int) -> None:
    """One that was seen since, or that is connected, stays; one whose session is gone goes at once."""
    _add(database, client, user_id, "recent", _NOW_MS - UNSEEN_MS + 1)
    _add(database, client, user_id, "unseen", _NOW_MS - UNSEEN_MS - 1)
    _add(database, client, user_id, "logged out", _NOW_MS, session=False)
    _add(database, client, user_id, "connected", _NOW_MS)
    connect = presence.connect_command(user_id, "connected", "p:1:2", "s")
    run(client, [stored_sessions.replace_command(user_id, "connected", "s"), connect])
    run(client, [("HSET", keys.cursor(user_id), "n:connected", 1)])

    assert forget_unseen(database, client, _NOW_MS) == 2

    assert _counting(database, client, user_id) == ({"recent", "connected"}, {"recent", "connected"})
    assert forget_unseen(database, client, _NOW_MS) == 0


def test_a_device_rebuilt_from_sql_gets_its_month(database: Database, client: Client, user_id: int) -> None:
    """After Redis has lost its data nobody knows when a device was seen: its time runs from the next look."""
    _add(database, client, user_id, "a", 1)
    run(client, [("HDEL", keys.cursor(user_id), "n:a")])

    assert forget_unseen(database, client, _NOW_MS) == 0
    assert forget_unseen(database, client, _NOW_MS + UNSEEN_MS) == 0
    assert forget_unseen(database, client, _NOW_MS + UNSEEN_MS + 1) == 1


def test_what_sql_keeps_for_a_lost_inbox_stays(database: Database, client: Client, user_id: int) -> None:
    """While Redis has no inbox, the positions in SQL are all there is."""
    _add(database, client, user_id, "a", _NOW_MS)
    run(client, [("DEL", keys.cursor(user_id))])

    assert forget_unseen(database, client, _NOW_MS) == 0
    assert _counting(database, client, user_id)[1] == {"a"}
