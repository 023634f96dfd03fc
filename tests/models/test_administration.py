"""Status changes by administrators, on both databases: what each touches, and ids that no column can hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from models import administration, friendships, groups, sessions, tables
from models.database import Database, open_database
from models.friendships import Friendship
from models.groups import Group
from models.sessions import ChatSession
from models.users import User

_NOBODY = (3, 2**31 - 1, 2**31, 2**63, 10**16)


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """Users 1 and 2, friends of each other, in group 1."""
    database = open_database(database_url or f"sqlite:///{tmp_path / 'administration.db'}")
    tables.User.metadata.create_all(database.engine)
    with database.writing() as connection:
        people = [{"id": i, "uuid": f"u{i}", "username": f"user{i}", "password": ""} for i in (1, 2)]
        connection.execute(insert(User), people)
        friendships.befriend(connection, [(1, 2)])
        connection.execute(insert(Group), [{"id": 1, "uuid": "g1", "user_id": 1, "name": "group"}])
        groups.add_members(connection, 1, [1, 2])
        times = {"created_at_ms": 0, "expires_at_ms": 10**15}
        held = [(1, "phone"), (1, "tablet"), (2, "phone")]
        sessions.start_sessions(
            connection, [{"user_id": i, "device": device, "session_id": device, **times} for i, device in held]
        )
    yield database
    database.engine.dispose()


def _one(database: Database, *columns: Any) -> Any:
    """Return the only row of a query, without its tuple where it has one column."""
    with database.reading() as connection:
        row = connection.execute(select(*columns[:-1]).where(columns[-1])).one()
    return row[0] if len(row) == 1 else tuple(row)


def _devices(database: Database) -> list[tuple[int, str]]:
    with database.reading() as connection:
        query = select(ChatSession.user_id, ChatSession.device).order_by(ChatSession.user_id, ChatSession.device)
        return [(row.user_id, row.device) for row in connection.execute(query)]


@pytest.mark.parametrize("status", [0, 2])
def test_a_disabled_user_has_no_sessions_and_new_facts(database: Database, status: int) -> None:
    """Any status but 1 ends all of his sessions and nobody else's; workers see that his facts have changed."""
    before = _one(database, User.facts_version, User.id == 1)
    with database.writing() as connection:
        assert administration.set_user_status(connection, 1, status)

    assert _one(database, User.status, User.id == 1) == status
    assert _devices(database) == [(2, "phone")]
    assert _one(database, User.facts_version, User.id == 1) > before


def test_enabling_a_user_ends_nothing(database: Database) -> None:
    """The sessions of a user who was active all the time go on."""
    with database.writing() as connection:
        assert administration.set_user_status(connection, 1, 1)

    assert _devices(database) == [(1, "phone"), (1, "tablet"), (2, "phone")]


def test_a_relation_is_one_row(database: Database) -> None:
    """Only the row that was named changes, and its owner's facts."""
    before = _one(database, User.facts_version, User.id == 2)
    with database.writing() as connection:
        assert administration.set_relation_status(connection, 2, 1, 0)

    assert _one(database, Friendship.status, (Friendship.user_id == 2) & (Friendship.friend_id == 1)) == 0
    assert _one(database, Friendship.status, (Friendship.user_id == 1) & (Friendship.friend_id == 2)) == 1
    assert _one(database, User.facts_version, User.id == 2) > before


def test_a_group_has_new_facts(database: Database) -> None:
    """A group's status changes with its facts version."""
    before = _one(database, Group.facts_version, Group.id == 1)
    with database.writing() as connection:
        assert administration.set_group_status(connection, 1, 2)

    status, version = _one(database, Group.status, Group.facts_version, Group.id == 1)
    assert status == 2
    assert version > before


@pytest.mark.parametrize("unknown", _NOBODY)
def test_what_does_not_exist_is_told(database: Database, unknown: int) -> None:
    """An id that no row has, or that no integer column can hold, is no error."""
    with database.writing() as connection:
        assert not administration.set_user_status(connection, unknown, 0)
        assert not administration.set_relation_status(connection, 1, unknown, 0)
        assert not administration.set_relation_status(connection, unknown, 1, 0)
        assert not administration.set_group_status(connection, unknown, 0)


def test_administrators_are_granted_and_revoked(database: Database) -> None:
    """Granting and revoking are repeatable; visitors, disabled and unknown users are refused."""
    with database.writing() as connection:
        connection.execute(update(User).where(User.id == 2).values(role="visitor"))
        assert [administration.grant(connection, name) for name in ("user1", "user1", "user2", "user3")] == [
            "changed",
            "unchanged",
            "visitor",
            "no_such_user",
        ]
        assert [each.username for each in administration.load_administrators(connection)] == ["user1"]
        assert [administration.revoke(connection, name) for name in ("user1", "user1", "user3")] == [
            "changed",
            "unchanged",
            "no_such_user",
        ]
        assert administration.load_administrators(connection) == []
        administration.set_user_status(connection, 1, 0)
        assert administration.grant(connection, "user1") == "disabled"
