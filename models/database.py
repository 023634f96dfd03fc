"""The SQL database: one engine per process, a way to read and a way to write.

Flask-SQLAlchemy declares the tables and serves the migrations; operations use Core connections handed to them, so that no
session outlives the statement it was opened for (a websocket lives for days).
"""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Connection,
    Dialect,
    Engine,
    MetaData,
    Text,
    TypeDecorator,
    bindparam,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeEngine

from models.errors import DatabaseUnavailable

_BUSY_TIMEOUT_MS = 1_000
_LOCK_POLL_MS = 1
_BEGIN = "BEGIN IMMEDIATE"
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has but the latter
_EVERYWHERE = {"hide_parameters": True}  # an error's text goes to the log, and parameters hold what people write (G8)
# The last one ends the transaction of a process that was stopped in the middle of it, and frees what it has locked.
_POSTGRESQL_OPTIONS = "-c statement_timeout=1000 -c lock_timeout=1000 -c idle_in_transaction_session_timeout=2000"


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


db = SQLAlchemy(model_class=Base, disable_autonaming=True)


class Database:
    """Hands out connections. `reading()` sees committed rows, statement by statement; `writing()` is one transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        # SQLite's connections are in that state already (`prepare_engine`), and to be put into it each time would cost a
        # statement before and one after each look.
        self._reader = engine.execution_options(
            **({"hongyan_reads": True} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"})
        )
        self._writer = engine.execution_options(hongyan_writes=True)
        self._is_keeping = False
        self._kept: Connection | None = None
        self._log: str | None = None  # SQLite's, where what we commit has to be synced by us

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Raises DatabaseUnavailable."""
        with _translated(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, sync: bool = True) -> Iterator[Connection]:
        """Commit at the end of the block, roll back on any exception. Raises DatabaseUnavailable.

        sync: False leaves it to the caller to call `sync` before anybody is told of what was committed
        IntegrityError passes through: the operation that can meet one knows what it means.
        """
        with _translated():
            if not self._is_keeping:
                with self._writer.begin() as connection:
                    yield connection
                return
            if self._kept is None:
                self._kept = self._writer.connect()
                self._sync_ourselves(self._kept)
            with self._kept.begin():
                yield self._kept
        if sync:
            self.sync()

    def sync(self) -> None:
        """Have the disk hold what was committed. Raises DatabaseUnavailable: it is not known whether it does."""
        if self._log is None:
            return
        try:
            descriptor = os.open(self._log, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _sync(descriptor)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            pass  # whoever closed it as the last has moved what it held
        except OSError as error:
            raise DatabaseUnavailable(f"{self._log} cannot be synced: {error}") from error

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Write over one connection as long as the block lasts, if only one thread does: to take and return it costs as much
        as several statements. One that has failed fails until then.
        """
        self._is_keeping = True
        try:
            yield
        finally:
            kept, self._kept, self._is_keeping = self._kept, None, False
            if kept is not None:
                try:
                    if self._log is not None:
                        _driver_of(kept).execute("PRAGMA synchronous=FULL").close()
                finally:
                    kept.close()

    def _sync_ourselves(self, connection: Connection) -> None:
        """Let SQLite no longer sync what is committed over this connection, where we can."""
        if not self.is_sqlite:
            return
        driver = _driver_of(connection)
        try:
            _, _, file = driver.execute("PRAGMA database_list").fetchone()
            (mode,) = driver.execute("PRAGMA journal_mode").fetchone()
            if file and mode == "wal":
                driver.execute("PRAGMA synchronous=NORMAL").close()
                self._log = f"{file}-wal"
        except sqlite3.Error as error:
            raise DatabaseUnavailable(str(error)) from error


def _driver_of(connection: Connection) -> Any:
    return connection.connection.driver_connection


def engine_options(database_url: str, *, in_one_thread: bool) -> dict[str, Any]:
    """Options of `create_engine`. `in_one_thread`: all calls come from one thread, so SQLite needs one connection."""
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        options: dict[str, Any] = {
            **_EVERYWHERE,
            "connect_args": {"timeout": _BUSY_TIMEOUT_MS / 1000, "check_same_thread": False},
        }
        if in_one_thread:
            options["poolclass"] = StaticPool
        return options
    return {
        **_EVERYWHERE,
        "pool_size": 5,
        "max_overflow": 5,
        "pool_timeout": 2,
        "pool_pre_ping": True,
        "connect_args": {"connect_timeout": 2, "options": _POSTGRESQL_OPTIONS},
    }


def open_database(database_url: str) -> Database:
    """Give the database of a process without Flask (a Celery worker, a test)."""
    engine = create_engine(database_url, **engine_options(database_url, in_one_thread=False))
    prepare_engine(engine)
    return Database(engine)


def prepare_engine(engine: Engine) -> None:
    """Set what SQLite needs on each connection. Nothing to do elsewhere."""
    if engine.dialect.name != "sqlite":
        return

    turnstile = _Turnstile(engine.url.database)

    @event.listens_for(engine, "connect")
    def _on_connect(dbapi_connection: Any, _record: Any) -> None:
        # The driver's own transaction handling begins too late and never IMMEDIATE, so we begin ourselves.
        dbapi_connection.isolation_level = None
        cursor = dbapi_connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        # FULL: a commit is on the disk when it returns. NORMAL survives our kill -9, but not the machine's, without `sync`.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if options.get("hongyan_writes"):
            _take_write_lock(connection, turnstile)
        elif not options.get("hongyan_reads"):
            connection.exec_driver_sql("BEGIN")


class _Turnstile:
    """Where processes that wait for SQLite's write lock stand, one at a time, those who come later behind him.

    Without it whoever writes one transaction after the other takes the lock again before anybody else has asked.
    """

    def __init__(self, database: str | None) -> None:
        self._path = f"{database}-turn" if database and database != ":memory:" else None
        self._descriptor: int | None = None

    def enter(self) -> bool:
        """Return whether it is free, and ours now. It is left by `leave`, and by the end of the process."""
        if self._path is None:
            return True
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def leave(self) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)


def _take_write_lock(connection: Connection, turnstile: _Turnstile) -> None:
    """Begin as SQLite's only writer. Raises OperationalError: others were for a second.

    Taking the lock first avoids the upgrade deadlock that SQLite answers with "locked" at once. Left to itself SQLite asks
    every 100 ms after a while, which is hardly ever a good moment.
    """
    deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while not turnstile.enter() and time.monotonic() < deadline:
        _pause(_LOCK_POLL_MS / 1000)
    driver = _driver_of(connection)
    try:
        driver.execute(f"PRAGMA busy_timeout={_LOCK_POLL_MS}").close()
        while True:
            try:
                driver.execute(_BEGIN).close()
                return
            except sqlite3.Error as error:
                if not getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY") or time.monotonic() >= deadline:
                    connection.exec_driver_sql(_BEGIN)  # so that SQLAlchemy's error is raised
                    return
    finally:
        turnstile.leave()
        driver.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}").close()


def _pause(seconds: float) -> None:
    """Let the thread itself sleep: in a web process `time.sleep` is gevent's, which would make the thread a hub."""
    if sys.platform == "darwin":
        time.sleep(seconds)  # macOS has no other pause that gevent leaves alone: a hub in vain is better than none
    else:
        signal.sigtimedwait((), seconds)


def insert_missing(connection: Connection, table: Any, rows: Sequence[dict[str, Any]], *, key: Sequence[str]) -> None:
    """Insert the rows whose `key` columns are not there yet; leave the others as they are."""
    if rows:
        connection.execute(
            dialect_insert(connection, table).on_conflict_do_nothing(index_elements=list(key)), list(rows)
        )


def insert_or_update(
    connection: Connection, table: Any, rows: Sequence[dict[str, Any]], *, key: Sequence[str], update: Sequence[str]
) -> None:
    """Insert the rows; where `key` exists, set the `update` columns to the new values."""
    if rows:
        insert = dialect_insert(connection, table)
        changes = {name: insert.excluded[name] for name in update}
        connection.execute(insert.on_conflict_do_update(index_elements=list(key), set_=changes), list(rows))


def dialect_insert(connection: Connection, table: Any) -> Any:
    """Give an insert statement that knows `on_conflict_do_update`, which SQLAlchemy has per dialect."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


class _Listed(TypeDecorator[list[Any]]):
    """A list of numbers or texts as one parameter: JSON for SQLite, an array for PostgreSQL."""

    impl = Text
    cache_ok = True

    def __init__(self, item_type: type[TypeEngine[Any]]) -> None:
        super().__init__()
        self.item_type = item_type

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else ARRAY(self.item_type))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return orjson.dumps(list(value)).decode() if dialect.name == "sqlite" else list(value)


class _Each(FunctionElement[str]):
    """A table of the texts given as a parameter."""

    inherit_cache = True


def each_text(name: str) -> ColumnElement[str]:
    """Give the column of a table that has a row for each text given as parameter `name`, a sequence."""
    return _Each(bindparam(name, type_=_Listed(Text))).table_valued("value", name="value").c.value


@compiles(_Each, "sqlite")
def _each_sqlite(element: _Each, compiler: Any, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(_Each, "postgresql")
def _each_postgresql(element: _Each, compiler: Any, **options: Any) -> str:
    # Its only column has the name that the table is given.
    return f"unnest({compiler.process(element.clauses, **options)})"


class among(ColumnElement[bool]):
    """`among(column, "ids")`: the column's value is one of the ids given as parameter `ids`, a sequence.

    Unlike `in_` the statement is the same text whatever the number of ids, so that it is built and prepared once: with a
    hundred ids the expansion takes longer than the query.
    """

    inherit_cache = True
    type = Boolean()
    # Else SQLite, which has no truth values of its own, would be asked `… = 1`, and read the whole table instead of the index.
    _is_implicitly_boolean = True
    _traverse_internals = [  # noqa: RUF012  SQLAlchemy's protocol
        ("column", InternalTraversal.dp_clauseelement),
        ("ids", InternalTraversal.dp_clauseelement),
    ]

    def __init__(self, column: Any, name: str) -> None:
        self.column = column.__clause_element__() if hasattr(column, "__clause_element__") else column
        self.ids = bindparam(name, type_=_Listed(BigInteger))


@compiles(among, "sqlite")
def _among_sqlite(element: among, compiler: Any, **options: Any) -> str:
    column, ids = compiler.process(element.column, **options), compiler.process(element.ids, **options)
    return f"{column} IN (SELECT value FROM json_each({ids}))"


@compiles(among, "postgresql")
def _among_postgresql(element: among, compiler: Any, **options: Any) -> str:
    column, ids = compiler.process(element.column, **options), compiler.process(element.ids, **options)
    return f"{column} = ANY({ids})"


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (OperationalError, InterfaceError, InternalError, PoolTimeout) as error:
        raise DatabaseUnavailable(str(error.__cause__ or error)) from error
