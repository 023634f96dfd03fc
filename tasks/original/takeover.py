"""The takeover of an original: read everything into the scratch file, clean it, and then write it, step by step.

Each batch is written together with how far that is, so an import that was killed goes on where it was. Users and groups are
held back until all is there (`models/takeovers.py`), so the system may run meanwhile, and sees nothing by halves.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import orjson
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from models import takeovers
from models.accounts import UNUSABLE_PASSWORD
from models.applications import FriendApplication
from models.database import Database
from models.errors import DatabaseUnavailable
from models.friendships import Friendship
from models.groups import Group, GroupMember
from models.profiles import UserInfo
from models.store.original import OriginalRedis
from models.takeovers import Place
from models.users import MAX_ID, User, now_utc
from settings import Settings
from tasks.original import waiting
from tasks.original.dump import Dump, DumpError, Value
from tasks.original.queues import Bounds, QueueReader
from tasks.original.report import Report
from tasks.original.scratch import TABLES, TEXT_MAX, Scratch
from tasks.original.tables import Cleaner, Terms, columns_of_time

LEFT_FILE = "import-original-left.jsonl"

_SYSTEM_DATABASES = frozenset(("mysql", "sys", "information_schema", "performance_schema"))
_RAW_BATCH, _RAW_CHARACTERS = 500, 1_000_000  # rows, or texts in them, that are held until they are written
_TRIES = 20
_PAUSE_SECONDS = 0.25
_FIRST = -(2**62)
_Result = TypeVar("_Result")

# What is written, in this order; users with the greatest id first, since whoever registers meanwhile gets a greater one.
_STEPS = (
    "user",
    "user_info",
    "goodfriend",
    "goodfriendapply",
    "group",
    "group_user",
    "messages",
    "groups out",
    "users out",
)
_MODELS = {
    "user_info": UserInfo,
    "goodfriendapply": FriendApplication,
    "group_user": GroupMember,
}
_NAMES = {
    "user": "users",
    "user_info": "profiles",
    "goodfriend": "friend rows",
    "goodfriendapply": "friend applications",
    "group": "groups",
    "group_user": "group members",
}


class Refused(Exception):
    """This system cannot take that over. Nothing was written."""


@dataclass(frozen=True, slots=True)
class Source:
    """What is taken over. database: where the dump holds several. ahead: of UTC, the clock that its times are by."""

    dump: Path
    redis_url: str | None
    database: str | None
    ahead: timedelta


@dataclass(frozen=True, slots=True)
class Outcome:
    """report: None where everything had been taken over before, at `finished_at_ms`."""

    report: Report | None
    finished_at_ms: int = 0


Tell = Callable[[str, int, int], None]  # what is being done, how far it is, of how much (0: not known)


class Takeover:
    """One import. wrap: makes of the original's hash of a password what is stored here; takes long, and holds no lock."""

    def __init__(self, settings: Settings, database: Database, wrap: Callable[[str], str], tell: Tell) -> None:
        self._settings = settings
        self._database = database
        self._wrap = wrap
        self._tell = tell
        self._report = Report()
        self._meanwhile: dict[tuple[int, str], None] = {}  # who gave way, by id, and in what

    def run(self, source: Source, *, is_dry_run: bool) -> Outcome:
        """Take everything over, or only say what would be.

        Raises Refused, DumpError, OSError, ScratchBusy: nothing was written. StoreUnavailable, DatabaseUnavailable,
        Overtaken: what was written stands, and the next run goes on from there.
        """
        with self._database.reading() as connection:
            standing, is_empty = takeovers.load(connection), takeovers.is_empty(connection)
        if standing is not None and standing.finished_at_ms is not None:
            return self._already(standing, source)
        if standing is None and not is_empty:
            raise Refused("there are users already: an original is taken over into an empty system, since ids are kept")
        dump = Dump(source.dump)
        original = None
        if source.redis_url is not None:
            original = _connect(source.redis_url)
            original.ping()  # before all the reading
        with Scratch(self._settings.data_dir) as scratch:
            self._read_dump(scratch, dump, source)
            if standing is not None and (standing.dump_sha256, standing.has_queues) != (
                dump.sha256,
                original is not None,
            ):
                raise Refused(
                    "an import of another dump has begun here, or one with queues from Redis where this is without: "
                    "repeat that one as it was, or begin with an empty database"
                )
            self._tell("cleaning", 0, 0)
            terms = Terms(self._settings.media_url, self._settings.group_max_members, source.ahead, _whole_second())
            Cleaner(scratch, self._report, terms).clean()
            for table, name in _NAMES.items():
                self._report.taken[name] = scratch.count_clean(table)
            if original is not None:
                self._read_queues(scratch, original, keeps=not is_dry_run)
            for batch in waiting.drafts(scratch, self._report):
                self._report.taken["messages"] += len(batch)
            if not is_dry_run:
                self._write(scratch, dump.sha256, standing, has_queues=original is not None)
        return Outcome(self._report)

    def _already(self, standing: Any, source: Source) -> Outcome:
        if Dump(source.dump).checksum() != standing.dump_sha256:
            raise Refused("another dump was taken over here: a system takes over one original, while it is empty")
        if source.redis_url is not None and not standing.has_queues:
            raise Refused(
                "this dump was taken over without queues, and its users may have come since: too late for these"
            )
        return Outcome(None, standing.finished_at_ms)

    # Reading

    def _read_dump(self, scratch: Scratch, dump: Dump, source: Source) -> None:
        total = source.dump.stat().st_size
        raw: dict[str, list[list[Any]]] = {table: [] for table in TABLES}
        databases: set[str] = set()
        characters = 0
        for row in dump:
            table = row.table.lower()
            is_meant = row.database == (source.database or row.database) or not row.database
            if table not in TABLES or not is_meant or row.database.lower() in _SYSTEM_DATABASES:
                name = f"{row.database}.{row.table}".removeprefix(".")
                self._report.note("table_unknown", name)
                self._report.tables_left[name] += 1
                continue
            databases.add(row.database)
            if len(databases) > 1:
                raise DumpError(f"it holds {sorted(databases)}: say which is the original's with --database")
            if row.columns is None:
                raise DumpError(f"it does not name the columns of {table}: write it with --complete-insert")
            values = dict(zip(row.columns, row.values, strict=True))
            for name in values.keys() - set(TABLES[table]):
                if values[name] not in (None, "", 0):
                    self._report.note("column_unknown", f"{table}.{name}")
            plain = [self._plain(values.get(name), table, values.get("id")) for name in TABLES[table]]
            raw[table].append(plain)
            characters += sum(len(value) for value in plain if isinstance(value, str))
            if len(raw[table]) == _RAW_BATCH or characters > _RAW_CHARACTERS:
                _add_raw(scratch, raw)
                characters = 0
                self._tell("reading the dump", dump.bytes_read, total)
        _add_raw(scratch, raw)
        if scratch.first('SELECT 1 FROM "raw_user"') is None:
            raise DumpError("it has no rows of a table `user`: it is not an original's")
        self._report.source = {"dump": source.dump.name, "sha256": dump.sha256, "queues": source.redis_url is not None}
        if not dump.is_complete:
            self._report.warnings.append("the dump has no last line `-- Dump completed`: make sure that it is whole")
        if source.redis_url is None:
            self._report.warnings.append("without --redis nothing of what waits for users is taken over")

    def _plain(self, value: Value, table: str, row_id: object) -> Value:
        """Give a value as the scratch file can hold it."""
        if isinstance(value, bytes):
            value = value.decode("utf-8", "surrogateescape") if len(value) > 1 else int.from_bytes(value)
        if isinstance(value, int):
            return value if abs(value) < 2**63 else str(value)
        if value in ("\0", "\1"):
            return ord(value)  # a BIT as MariaDB spells it
        if value is not None:
            value = value[: TEXT_MAX + 1]  # no rule looks at more, and of a hostile dump more would fill the memory
        if value is None or (value.isascii() and "\0" not in value):
            return value
        if "\0" in value:
            self._report.note("text_with_nul", f"{table} {row_id}")
            value = value.replace("\0", "")
        readable = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if readable != value:
            self._report.note("text_not_utf8", f"{table} {row_id}")
        return readable

    def _read_queues(self, scratch: Scratch, original: OriginalRedis, *, keeps: bool) -> None:
        bounds = Bounds(self._settings.message_max_bytes, self._settings.inbox_max_entries, time.time_ns() // 1_000_000)
        with _left_file(self._settings.data_dir) if keeps else open(os.devnull, "wb") as left:

            def keep(code: str, user_id: int, raw: bytes) -> None:
                left.write(orjson.dumps({"why": code, "user_id": user_id, **_readable(raw)}) + b"\n")

            for key, user_id in original.queues():
                if user_id is None:
                    self._report.note("queue_unreadable", key.decode("utf-8", "replace"))
                else:
                    scratch.execute("INSERT OR IGNORE INTO queue VALUES (?, ?)", user_id, key)
            reader = QueueReader(scratch, self._report, bounds, keep)
            read_count = 0
            for queue in scratch.select("SELECT user_id, name FROM queue ORDER BY user_id"):
                reader.begin(queue["user_id"])
                for raw in original.entries(queue["name"]):
                    reader.take(raw)
                    read_count += 1
                self._tell("reading queues", read_count, 0)
        history = original.count_log_entries()
        if history:
            self._report.note("history_left", "chatlog:*", history)
        original.close()

    # Writing

    def _write(self, scratch: Scratch, dump_sha256: str, standing: Any, *, has_queues: bool) -> None:
        place = Place(_STEPS[0], MAX_ID + 1)
        if standing is None:
            users, groups = self._greatest(scratch)
            begin = partial(takeovers.begin, users=users, groups=groups, has_queues=has_queues)
            if not self._persist(begin, dump_sha256, place):
                raise Refused("somebody has registered meanwhile: an original is taken over into an empty system")
        else:
            place = Place(standing.step, standing.place)
        for step in _STEPS[_STEPS.index(place.step) :]:
            if place.step != step:
                place = self._move(place, Place(step, _FIRST))
            for after, write in self._batches(scratch, step, place.at):
                place = self._move(place, Place(step, after), write)
        for user_id, code in self._meanwhile:
            self._report.note(code, user_id)
        self._persist(takeovers.finish, orjson.dumps(self._report.as_json()).decode())

    def _greatest(self, scratch: Scratch) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Give the user and the group of the greatest ids, and the owner of that group."""
        groups = next(scratch.clean("group", MAX_ID + 1, is_descending=True), [])[:1]
        users = dict(next(scratch.clean("user", MAX_ID + 1, is_descending=True))[:1])
        for _, group in groups:
            users.update(next(scratch.clean("user", group["user_id"] - 1))[:1])
        return [self._user(row) for row in users.values()], [_timed(Group, row) for _, row in groups]

    def _batches(self, scratch: Scratch, step: str, at: int) -> Iterator[tuple[int, Callable[[Connection], None]]]:
        """Give what is left of a step: how far it is after each batch, and what writes that."""
        done = 0
        if step == "messages":
            for number, some in enumerate(waiting.drafts(scratch, Report()), 1):
                # By id, not by place: what stands in Redis may have changed since the try before.
                yield number, partial(waiting.write, batch=some, shard_count=self._settings.outbox_shards)
                done += len(some)
                self._tell("writing messages", done, self._report.taken["messages"])
            return
        table = {"groups out": "group", "users out": "user"}.get(step, step)
        total = scratch.count_clean(table)
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for batch in scratch.clean(table, at, is_descending=step == "user"):
                rows = [row for _, row in batch]
                if step == "user":
                    rows = list(threads.map(self._user, rows))
                yield batch[-1][0], self._writer(step, rows)
                done += len(rows)
                self._tell(f"writing {_NAMES[table]}" if step in _NAMES else "letting them in", done, total)

    def _writer(self, step: str, rows: list[dict[str, Any]]) -> Callable[[Connection], None]:
        ids = [row.get("id", 0) for row in rows]
        if step == "user":
            return lambda connection: takeovers.add_users(connection, self._renamed(connection, rows))
        if step == "group":
            return lambda connection: takeovers.add_groups(connection, [_timed(Group, row) for row in rows])
        if step == "goodfriend":
            return lambda connection: takeovers.add_friends(connection, [_timed(Friendship, row) for row in rows])
        if step in _MODELS:
            timed = [_timed(_MODELS[step], row) for row in rows]
            return lambda connection: takeovers.add(connection, _MODELS[step], timed)
        return lambda connection: takeovers.release(connection, Group if step == "groups out" else User, ids)

    def _move(self, before: Place, after: Place, write: Callable[[Connection], None] | None = None) -> Place:
        """Write a batch and how far it is, both or neither."""

        def moved(connection: Connection) -> None:
            takeovers.advance(connection, before, after)
            if write is not None:
                write(connection)

        self._persist(moved)
        return after

    def _persist(self, operation: Callable[..., _Result], *args: Any) -> _Result:
        """Do something in a transaction, again where others were in the way. Raises DatabaseUnavailable: for long."""
        for left in reversed(range(_TRIES)):
            try:
                with self._database.writing() as connection:
                    return operation(connection, *args)
            except (DatabaseUnavailable, IntegrityError):
                # Somebody took a name in this very moment; the next try sees it.
                if not left:
                    raise
                time.sleep(_PAUSE_SECONDS)
        raise AssertionError("unreachable")

    # Users

    def _user(self, row: dict[str, Any]) -> dict[str, Any]:
        """Give a user as he is written. His hash is wrapped here: as it was, it would be known as soon as it leaked."""
        timed = _timed(User, row)
        hashed = timed.pop("digest")
        return timed | {"password": UNUSABLE_PASSWORD if hashed is None else self._wrap(hashed)}

    def _renamed(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give way to those who have registered while the import ran."""
        names = takeovers.find_names(connection, [row["username"] for row in rows])
        devices = [row["devicefingeruuid"] for row in rows if row["devicefingeruuid"] is not None]
        fingerprints = takeovers.find_fingerprints(connection, devices)
        given = []
        for row in rows:
            changes: dict[str, Any] = {}
            if names.get(row["username"], row["id"]) != row["id"]:
                self._meanwhile[row["id"], "username_taken_meanwhile"] = None
                changes["username"] = f"{row['username'][:38]}_{row['id']}"
            if fingerprints.get(row["devicefingeruuid"], row["id"]) != row["id"]:
                self._meanwhile[row["id"], "fingerprint_taken_meanwhile"] = None
                changes["devicefingeruuid"] = None
            given.append(row | changes)
        return given


def _add_raw(scratch: Scratch, raw: dict[str, list[list[Any]]]) -> None:
    """Keep the rows that are held, and hold them no longer."""
    for table, batch in raw.items():
        scratch.add_raw(table, batch)
        batch.clear()


def _connect(redis_url: str) -> OriginalRedis:
    try:
        return OriginalRedis(redis_url)
    except ValueError as error:
        raise Refused(f"the URL of the original's Redis is none: {error}") from error


def _timed(model: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Give a row of the scratch file with its times as times."""
    found = dict(row)
    for name in columns_of_time(model):
        if found.get(name) is not None:
            found[name] = datetime.fromisoformat(found[name])
    return found


def _whole_second() -> datetime:
    return now_utc().replace(microsecond=0)


def _left_file(data_dir: Path) -> IO[bytes]:
    """Open the file of what was left: it holds what people wrote, so it is its owner's alone."""
    descriptor = os.open(data_dir / LEFT_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    return os.fdopen(descriptor, "wb")


def _readable(raw: bytes) -> dict[str, str]:
    try:
        return {"entry": raw.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(raw).decode()}
