"""SQLite: everybody gets a turn to write, and what was committed is on the disk before anybody is told."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from models import database as database_module
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


# Syncing


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[os.stat_result]:
    """The files that we have synced ourselves."""
    files: list[os.stat_result] = []
    sync = database_module._sync

    def note(descriptor: int) -> None:
        files.append(os.fstat(descriptor))
        sync(descriptor)

    monkeypatch.setattr(database_module, "_sync", note)
    return files


def _count_up(database: Database, *, sync: bool = True) -> int:
    """Write, and return how SQLite syncs by itself: 1 is NORMAL, not at a commit; 2 is FULL."""
    with database.writing(sync=sync) as connection:
        connection.execute(text("UPDATE counter SET count = count + 1"))
        return int(connection.execute(text("PRAGMA synchronous")).scalar_one())


def test_who_keeps_his_connection_syncs_as_soon_as_it_is_committed_or_when_he_asks(
    database: Database, synced: list[os.stat_result], tmp_path: Path
) -> None:
    """It is SQLite's log that has to be on the disk; elsewhere SQLite sees to it, also once the connection is given back."""
    with database.keeping():
        assert _count_up(database) == 1
        (first,) = synced
        assert os.path.samestat(first, (tmp_path / "contended.db-wal").stat())
        assert _count_up(database, sync=False) == 1
        assert len(synced) == 1
        database.sync()
        assert len(synced) == 2

    assert _count_up(database, sync=False) == 2
    assert len(synced) == 2


def test_a_disk_that_cannot_sync_is_a_database_that_is_away(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(database_module, "_sync", fail)

    with pytest.raises(DatabaseUnavailable, match="cannot be synced"), database.keeping():
        _count_up(database)


def test_a_log_that_was_closed_has_nothing_to_sync(database: Database, synced: list[os.stat_result]) -> None:
    """SQLite moves what it holds into the database and removes it when its last connection goes."""
    with database.keeping():
        _count_up(database)
    database.engine.dispose()

    database.sync()

    assert len(synced) == 1
