"""Questions and answers on both databases: parallel ones double nothing and stay within the bound."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from models import askanswers, tables
from models.database import Database, open_database
from models.groups import Group
from models.requests import ChatType
from models.users import User


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """User 1, who owns group 1."""
    database = open_database(database_url or f"sqlite:///{tmp_path / 'askanswers.db'}")
    tables.User.metadata.create_all(database.engine)
    with database.writing() as connection:
        connection.execute(insert(User), [{"id": 1, "uuid": "u1", "username": "user1", "password": ""}])
        connection.execute(insert(Group), [{"id": 1, "uuid": "g1", "user_id": 1, "name": "group"}])
    yield database
    database.engine.dispose()


def _put(database: Database, kind: ChatType, ask: str, answer: str = "a", most: int = 99) -> Any | None:
    with database.writing() as connection:
        return askanswers.put(connection, kind, 1, ask, answer, now_ms=1, most=most)


@pytest.mark.parametrize("kind", ["single", "group"])
def test_parallel_questions_stay_within_the_bound(database: Database, kind: ChatType) -> None:
    """None sees what another has not committed, so each waits for the one before it; of the same there is one."""
    with ThreadPoolExecutor(8) as threads:
        same = list(threads.map(lambda number: _put(database, kind, "same", str(number)), range(8)))
        others = list(threads.map(lambda number: _put(database, kind, f"q{number}", most=4), range(8)))

    assert len({row.id for row in same if row is not None}) == 1
    assert sum(row is not None for row in others) == 3
    assert _put(database, kind, "same", "newest", most=4).answer == "newest"  # type: ignore[union-attr]
    with database.reading() as connection:
        kept = askanswers.load_all(connection, kind, 1)
    assert len(kept) == 4
    assert kept[-1].answer == "newest"


def test_a_question_cannot_become_another_one(database: Database) -> None:
    """Its transaction is undone, so nothing of it stands."""
    _put(database, "single", "one")
    other = _put(database, "single", "other")

    with pytest.raises(askanswers.Doubled), database.writing() as connection:
        askanswers.change(connection, other.id, 1, "one", "x", 2)  # type: ignore[union-attr]

    with database.reading() as connection:
        assert [(row.ask, row.answer) for row in askanswers.load_all(connection, "single", 1)] == [
            ("other", "a"),
            ("one", "a"),
        ]
