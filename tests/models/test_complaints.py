"""Complaints on both databases: parallel ones stay within the bound, and a change meets an administrator's."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select

from models import complaints, tables
from models.complaints import Complaint
from models.database import Database, open_database
from models.users import User

_GIVEN: dict[str, Any] = {
    "target_id": 2,
    "target_type": "single",
    "target_name": "user2",
    "reason": "r",
    "images": [],
    "complaint_chatinfo": [{"n": 1}],
}


@pytest.fixture
def database(database_url: str, tmp_path: Path) -> Iterator[Database]:
    """Users 1 and 2."""
    database = open_database(database_url or f"sqlite:///{tmp_path / 'complaints.db'}")
    tables.User.metadata.create_all(database.engine)
    with database.writing() as connection:
        people = [{"id": i, "uuid": f"u{i}", "username": f"user{i}", "password": ""} for i in (1, 2)]
        connection.execute(insert(User), people)
    yield database
    database.engine.dispose()


def test_parallel_complaints_stay_within_the_bound(database: Database) -> None:
    """None sees what another has not committed, so each waits for the one before it."""

    def make(_: int) -> int | None:
        with database.writing() as connection:
            return complaints.make(connection, 1, 3, **_GIVEN)

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(make, range(8)))

    assert sum(each is not None for each in made) == 3
    with database.reading() as connection:
        rows = connection.execute(select(Complaint.images, Complaint.complaint_chatinfo)).all()
    assert [tuple(row) for row in rows] == [([], [{"n": 1}])] * 3


def test_a_change_does_not_overtake_who_handles_it(database: Database) -> None:
    """Whoever is first: a complaint in hand is not changed under the administrator's eyes."""
    with database.writing() as connection:
        complaint_id = complaints.make(connection, 1, 3, **_GIVEN)
    assert complaint_id is not None

    def change() -> complaints.Refusal | None:
        with database.writing() as connection:
            return complaints.change(connection, complaint_id, 1, {"content": "new"})

    with ThreadPoolExecutor(1) as thread:
        with database.writing() as connection:
            assert complaints.lock(connection, complaint_id) is not None
            changing = thread.submit(change)
            complaints.handle(connection, complaint_id, complaints.PROCESSING, None)
        assert changing.result(10) == "closed"
