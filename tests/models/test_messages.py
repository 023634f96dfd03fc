"""What is asked of the messages of a conversation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models import messages, tables
from models.database import Database, open_database

_STEP_LIMIT = 400  # of SQLite's virtual machine; the statement takes 29 for one conversation


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'messages.db'}")
    tables.Message.metadata.create_all(database.engine)
    yield database
    database.engine.dispose()


def _row(number: int, conversation: str, seq: int | None) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(column.name for column in tables.Message.__table__.columns)
    told = {"id": f"m{number}", "conversation": conversation, "seq": seq, "shard": 0, "shard_seq": number}
    required = {"kind": "send", "verdict": messages.STORED, "sender_id": 1, "device": "d", "content_hash": "h"}
    return row | told | required | {"is_recalled": False, "is_to_sender": True, "created_at_ms": 1, "decided_at_ms": 1}


def test_the_newest_seqs_are_told(database: Database) -> None:
    """Of each conversation asked for, 0 where nothing was stored: a refusal and a recall have no `seq`."""
    rows = [_row(1, "a", 1), _row(2, "b", 1), _row(3, "a", 2), _row(4, "a", None), _row(5, "c", None)]
    with database.writing() as connection:
        messages.insert_decisions(connection, rows)

    with database.reading() as connection:
        assert messages.load_last_seqs(connection, ["a", "b", "c", "d"]) == {"a": 2, "b": 1, "c": 0, "d": 0}


def test_the_newest_seq_costs_the_same_after_any_number_of_messages(database: Database) -> None:
    """A drain asks for it for each conversation that is new to it: it must not read the history."""
    with database.writing() as connection:
        messages.insert_decisions(connection, [_row(number, "long", number) for number in range(1, 2_001)])
    steps: list[None] = []

    with database.reading() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: steps.append(None), 1)
        found = messages.load_last_seqs(connection, ["long"])
        driver.set_progress_handler(None, 1)

    assert found == {"long": 2_000}
    assert 0 < len(steps) < _STEP_LIMIT
