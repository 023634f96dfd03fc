"""SQLite's one writer at a time: everybody gets a turn."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from models.database import Database, _take_write_lock, _Turnstile, open_database
from models.errors import DatabaseUnavailable

_WRITERS = 3
_TURNS = 30
_LONGEST_SECONDS = 0.9  # after a second it is given up
_ONE_AFTER_THE_OTHER = """
import sys, time
from sqlalchemy import text
from models.database import open_database
database = open_database(sys.argv[1])
print("ready", flush=True)
while True:
    with database.writing() as connection:
        connection.execute(text("UPDATE counter SET count = count + 1"))
        time.sleep(0.01)
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'contended.db'}"


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = open_database(url)
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE counter (count INTEGER)"))
        connection.execute(text("INSERT INTO counter VALUES (0)"))
    yield database
    database.engine.dispose()


def test_who_writes_now_and_then_is_not_starved_by_who_writes_all_the_time(database: Database, url: str) -> None:
    """Processes that write one transaction after the other leave gaps of microseconds only."""
    command = [sys.executable, "-c", _ONE_AFTER_THE_OTHER, url]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(_WRITERS)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        waits = []
        for _ in range(_TURNS):
            started = time.monotonic()
            with database.writing() as connection:
                waits.append(time.monotonic() - started)
                connection.execute(text("UPDATE counter SET count = count + 1"))
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()

    assert max(waits) < _LONGEST_SECONDS


def test_what_is_no_lock_is_told_at_once(database: Database) -> None:
    """Asking again for a second would only burn the processor."""
    started = time.monotonic()
    with pytest.raises(DatabaseUnavailable, match="within a transaction"), database.writing() as connection:
        _take_write_lock(connection, _Turnstile(None))
    assert time.monotonic() - started < 0.5


def test_a_lock_that_is_never_free_is_waited_for_a_second(database: Database, url: str) -> None:
    other = open_database(url)
    with other.writing():
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable), database.writing():
            pass
        assert 0.9 < time.monotonic() - started < 3.0
    other.engine.dispose()

    with database.writing() as connection:
        connection.execute(text("UPDATE counter SET count = count + 1"))
