"""The schema that the migrations make is the one the models name, and holds what parallel requests must not double."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, inspect
from sqlalchemy.exc import IntegrityError

from models import tables
from models.database import Database, open_database
from tests.model.rig import migrate

_USERS = (1, 2)
_GROUP_ID = 1


@pytest.fixture
def migrated(tmp_path: Path, database_url: str) -> Iterator[Database]:
    """Each database in turn, fresh and migrated."""
    url = database_url or f"sqlite:///{tmp_path / 'migrated.db'}"
    migrate(url)
    database = open_database(url)
    yield database
    database.engine.dispose()


def test_the_migrations_make_what_the_models_name(migrated: Database) -> None:
    """No table, column, index or unique key more or less, and each type as far as the database tells it."""
    metadata = tables.Message.metadata
    with migrated.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})

        assert compare_metadata(context, metadata) == []


def test_indexes_of_some_rows_are_of_the_same_rows(migrated: Database) -> None:
    """The condition of each partial index, which the comparison above leaves out, is the one the models name."""
    metadata = tables.Message.metadata
    by_migrations = _conditions(migrated)

    metadata.drop_all(migrated.engine)
    metadata.create_all(migrated.engine)

    assert by_migrations == _conditions(migrated)
    assert len(set(by_migrations.values())) > 1


def _conditions(database: Database) -> dict[str | None, str]:
    """Return the condition of each index, empty where it holds all rows."""
    inspector, option = inspect(database.engine), f"{database.engine.dialect.name}_where"
    indexes = [index for table in inspector.get_table_names() for index in inspector.get_indexes(table)]
    return {index["name"]: str(index.get("dialect_options", {}).get(option, "")) for index in indexes}


@pytest.fixture
def peopled(migrated: Database) -> Database:
    """Two users and a group of the first."""
    with migrated.writing() as connection:
        rows = [{"id": user_id, "uuid": f"u{user_id}", "username": f"u{user_id}", "password": ""} for user_id in _USERS]
        connection.execute(insert(tables.User), rows)
        connection.execute(insert(tables.Group), [{"id": _GROUP_ID, "uuid": "g", "user_id": _USERS[0], "name": "g"}])
    return migrated


@pytest.mark.parametrize(
    ("table", "row"),
    [
        (tables.Friendship, {"user_id": _USERS[0], "friend_id": _USERS[1]}),
        (tables.FriendApplication, {"user_id": _USERS[0], "friend_id": _USERS[1], "status": "pending"}),
        (tables.GroupMember, {"group_id": _GROUP_ID, "user_id": _USERS[1]}),
        (tables.FirstContact, {"sender_id": 1, "recipient_id": 2, "message_id": "m", "created_at_ms": 0}),
        (
            tables.AskAnswer,
            {"type": "single", "owner_id": 1, "ask": "a", "answer": "b", "created_at_ms": 0, "updated_at_ms": 0},
        ),
    ],
    ids=["friendship", "pending application", "group member", "first contact", "question"],
)
def test_a_second_row_of_the_same_is_refused(peopled: Database, table: Any, row: dict[str, Any]) -> None:
    """By the database itself: of parallel requests none sees what the other has not committed (ORIG F1, C3)."""
    with peopled.writing() as connection:
        connection.execute(insert(table), [row])

    with peopled.engine.connect() as connection, pytest.raises(IntegrityError):
        connection.execute(insert(table), [row])


def test_an_application_that_was_answered_stands_beside_the_next(peopled: Database) -> None:
    """Only what waits for an answer is unique."""
    row = {"user_id": _USERS[0], "friend_id": _USERS[1]}
    with peopled.writing() as connection:
        for status in ("refuse", "refuse", "pending"):
            connection.execute(insert(tables.FriendApplication), [{**row, "status": status}])
