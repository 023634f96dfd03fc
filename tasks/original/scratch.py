"""The scratch file: what was read of an original, on disk, since it may be more than memory holds, and in any order.

A database of SQLite that lives as long as one import: the dump's rows as they came, the cleaned rows in the order in which
they are written, and what rows are checked against. It holds what people wrote, so its folder is its owner's alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

_FOLDER = "import-original"
# Characters, since MySQL's TEXT holds as many bytes. Of a longer value one more is kept, to tell it by.
TEXT_MAX = 65_535
_CLEAN_ROWS = 200  # a batch that is written in one transaction

# The original's tables, and those of their columns that ours have too, or that a rule looks at.
TABLES: dict[str, tuple[str, ...]] = {
    "user": (
        *("id", "uuid", "username", "password", "nickname", "avatar", "devicefingeruuid", "uniplatform", "devicemodel"),
        *("deviceos", "devicebrand", "userset", "invite_confirm", "mobile", "email", "status", "last_login"),
        *("last_login_ip", "register_time", "register_ip", "is_deleted", "role", "order", "create_time", "update_time"),
    ),
    "user_info": (
        *("id", "user_id", "gender", "birthday", "bio", "location", "website", "order", "create_time", "update_time"),
    ),
    "goodfriend": (
        *("id", "user_id", "friend_id", "nickname", "friendlookme", "melookfriend", "ismystarfriend", "isblack"),
        *("status", "order", "create_time", "update_time"),
    ),
    "goodfriendapply": (
        *("id", "user_id", "friend_id", "nickname", "friendlookme", "melookfriend", "ismystarfriend", "isblack"),
        *("status", "order", "create_time", "update_time"),
    ),
    "group": (
        *("id", "uuid", "user_id", "name", "avatar", "remark", "invite_confirm", "status", "order"),
        *("create_time", "update_time"),
    ),
    "group_user": (
        *("id", "group_id", "user_id", "nickname", "avatar", "status", "order", "create_time", "update_time"),
    ),
}

_SCHEMA = """
CREATE TABLE clean (of_table TEXT, place INTEGER, row TEXT, PRIMARY KEY (of_table, place)) WITHOUT ROWID;
CREATE TABLE taken (kind TEXT, value TEXT, PRIMARY KEY (kind, value)) WITHOUT ROWID;
CREATE TABLE person (id INTEGER PRIMARY KEY, uuid TEXT, name TEXT);
CREATE TABLE room (id INTEGER PRIMARY KEY, summary TEXT, owner_id INTEGER);
CREATE TABLE membership (group_id INTEGER, user_id INTEGER, status INTEGER, PRIMARY KEY (group_id, user_id)) WITHOUT ROWID;
CREATE TABLE friend (owner_id INTEGER, friend_id INTEGER, PRIMARY KEY (owner_id, friend_id)) WITHOUT ROWID;
CREATE TABLE waiting (applicant_id INTEGER, target_id INTEGER, PRIMARY KEY (applicant_id, target_id)) WITHOUT ROWID;
CREATE TABLE queue (user_id INTEGER PRIMARY KEY, name BLOB);
CREATE TABLE message (id TEXT PRIMARY KEY, said TEXT, at_ms INTEGER, place INTEGER, item TEXT) WITHOUT ROWID;
CREATE TABLE hearer (message_id TEXT, user_id INTEGER, PRIMARY KEY (message_id, user_id)) WITHOUT ROWID;
CREATE TABLE recalled (target_id TEXT, sender_id INTEGER, PRIMARY KEY (target_id, sender_id)) WITHOUT ROWID;
"""


class ScratchBusy(Exception):
    """Another import is at work on this data folder."""


class Scratch:
    """As a context manager: made at the beginning, removed at the end, as is what an import that was killed has left."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / _FOLDER

    def __enter__(self) -> Scratch:
        """Raises ScratchBusy."""
        self._lock = os.open(self._folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ScratchBusy from error
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(mode=0o700)
        self._db = sqlite3.connect(self._folder / "scratch.db", isolation_level=None)
        self._db.row_factory = sqlite3.Row
        # Nothing of it outlives the process.
        self._db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE;" + _SCHEMA)
        for table, columns in TABLES.items():
            names = ", ".join(f'"{name}"' for name in columns)
            self._db.execute(f'CREATE TABLE "raw_{table}" (n INTEGER PRIMARY KEY, {names})')
        self._db.execute("BEGIN")
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)

    def add_raw(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Keep rows as they came, in the order of `TABLES`."""
        columns = TABLES[table]
        names = ", ".join(f'"{name}"' for name in columns)
        marks = ", ".join("?" * len(columns))
        self._db.executemany(f'INSERT INTO "raw_{table}" ({names}) VALUES ({marks})', rows)

    def raw(self, table: str, *order: str) -> Iterator[sqlite3.Row]:
        """Give the rows of a table, by these columns as numbers, then as they came."""
        by = ", ".join([*(f'CAST("{name}" AS INTEGER)' for name in order), "n"])
        return self._select(f'SELECT * FROM "raw_{table}" ORDER BY {by}')

    def take(self, kind: str, value: object) -> bool:
        """Say that a value of a kind is in use. False: it was before."""
        return self.execute("INSERT OR IGNORE INTO taken VALUES (?, ?)", kind, str(value)) == 1

    def add_clean(self, table: str, place: int, row: Mapping[str, Any]) -> None:
        """Keep a row that is to be written; `place` orders them."""
        self._db.execute("INSERT INTO clean VALUES (?, ?, ?)", (table, place, orjson.dumps(row).decode()))

    def clean(
        self, table: str, after: int, *, is_descending: bool = False
    ) -> Iterator[list[tuple[int, dict[str, Any]]]]:
        """Give the rows to be written that come after a place, in batches, each with its place."""
        sign, by = ("<", "DESC") if is_descending else (">", "ASC")
        query = f"SELECT place, row FROM clean WHERE of_table = ? AND place {sign} ? ORDER BY place {by} LIMIT ?"
        while True:
            found = self._db.execute(query, (table, after, _CLEAN_ROWS)).fetchall()
            if not found:
                return
            yield [(row["place"], orjson.loads(row["row"])) for row in found]
            after = found[-1]["place"]

    def count_clean(self, table: str) -> int:
        return int(self._db.execute("SELECT count(*) FROM clean WHERE of_table = ?", (table,)).fetchone()[0])

    def execute(self, statement: str, *values: Any) -> int:
        """Execute a statement and return how many rows it has changed."""
        return self._db.execute(statement, values).rowcount

    def first(self, query: str, *values: Any) -> Any | None:
        """Return the first column of the first row, None where there is none."""
        row = self._db.execute(query, values).fetchone()
        return None if row is None else row[0]

    def select(self, query: str, *values: Any) -> Iterable[sqlite3.Row]:
        return self._select(query, *values)

    def _select(self, query: str, *values: Any) -> Iterator[sqlite3.Row]:
        yield from self._db.execute(query, values)
