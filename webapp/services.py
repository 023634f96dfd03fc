"""What all of a web process shares: Redis for its greenlets, the way to accept a request, SQL off the hub's thread."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, cast

import gevent
import structlog
from celery import Celery
from gevent.threadpool import ThreadPool
from sqlalchemy import Connection

from models.database import Database
from models.errors import Overloaded, StoreUnavailable
from models.requests import Request, shard_of
from models.store import outbox
from models.store.batching import Batcher
from models.store.connection import Client, Command, connect, run, run_each
from models.store.counters import parse_rate
from settings import Settings
from tasks.celery_app import DRAIN_QUEUE
from webapp.counts import counts

log = structlog.get_logger()

Result = TypeVar("Result")

_PATIENCE_SECONDS = 3.0  # a Redis that restarts within it is noticed by nobody
_PROBE_SECONDS = 0.1  # between two looks at full shards


class Redis:
    """Redis for the greenlets of this process: what they ask for at the same time shares a round trip."""

    def __init__(self, client: Client) -> None:
        self.client = client
        # Those who share a round trip have nothing to do with each other: a command that is refused, as all writes are where
        # Redis has no memory or disk left, fails no other one.
        self._batcher: Batcher[Command, Any] = Batcher(
            lambda commands: run_each(client, commands), patience_seconds=_PATIENCE_SECONDS
        )
        self._once: Batcher[Command, Any] = Batcher(lambda commands: run_each(client, commands), patience_seconds=0)

    def start(self) -> None:
        self._batcher.start()
        self._once.start()

    def call(self, command: Command) -> Any:
        """Ask for what may be repeated, and is while Redis does not answer. Raises StoreUnavailable."""
        return self._batcher.call(command)

    def call_once(self, command: Command) -> Any:
        """Ask for what must not be repeated: it counts, or takes something away. Raises StoreUnavailable at once."""
        return self._once.call(command)

    def call_all(self, commands: Sequence[Command]) -> list[Any]:
        """Send many commands at once, apart from what others ask for. Raises StoreUnavailable."""
        return run(self.client, commands)

    def tell(
        self, command: Command, then: Callable[[Any], None] | None = None, otherwise: Callable[[], None] | None = None
    ) -> None:
        """Send a command without waiting; `then` gets its answer. Where it may be lost `otherwise` is called, or that is logged."""

        def done(answer: Any, error: StoreUnavailable | None) -> None:
            if error is None:
                if then is not None:
                    then(answer)
            elif otherwise is not None:
                otherwise()
            else:
                log.warning("store_write_lost", error=str(error))

        self._batcher.submit(command, done)


@dataclass(frozen=True, slots=True)
class Terms:
    """What must hold for a request to be accepted, asked in the same step.

    session: (user id, device, session id) that must stand; is_counted: against the rate of his sends, as he may not exceed it
    """

    session: tuple[int, str, str] | None = None
    is_counted: bool = False


class SessionUnknown(Exception):
    """Not accepted: its session does not stand in Redis. SQL knows whether it has ended."""


class RateExceeded(Exception):
    """Not accepted: its sender has sent too much. left_ms: until he may send again"""

    def __init__(self, left_ms: int) -> None:
        super().__init__(left_ms)
        self.left_ms = left_ms


Failure = SessionUnknown | RateExceeded | StoreUnavailable
NO_TERMS = Terms()


@dataclass(slots=True)
class _Waiting:
    request: Request
    terms: Terms
    was_tried: bool = False  # and whether it was appended then is not known
    failure: Failure | None = None


class Acceptor:
    """Accepts requests: durable in the outbox when `accept` returns. Requests that arrive together share one write.

    A shard is full while it was last seen with OUTBOX_MAX_ENTRIES entries or more: then nothing is taken for it (decision
    0004). Each append tells the length; of a full shard, to which nothing is appended, it is asked for ten times a second.
    """

    def __init__(self, settings: Settings, client: Client, celery: Celery) -> None:
        self._shards = settings.outbox_shards
        self._client = client
        self._celery = celery
        self._most = settings.outbox_max_entries
        self._rate = parse_rate(settings.rate_limit_sends)
        self._full: set[int] = set()
        self._batcher: Batcher[_Waiting, Failure | None] = Batcher(self._write, patience_seconds=_PATIENCE_SECONDS)

    def start(self) -> None:
        self._batcher.start()

    def accept(self, request: Request) -> None:
        """Raises Overloaded: not accepted; StoreUnavailable: accepted or not is unknown."""
        self._check_room(request)
        self._batcher.call(_Waiting(request, NO_TERMS))

    def submit(self, request: Request, done: Callable[[Failure | None], None], terms: Terms = NO_TERMS) -> None:
        """Accept without waiting; `done` is called once the request is durable, or with what failed. Raises Overloaded."""
        self._check_room(request)
        self._batcher.submit(_Waiting(request, terms), lambda failure, error: done(error or failure))

    def _check_room(self, request: Request) -> None:
        # What waits here for a Redis that does not answer is memory of ours.
        if shard_of(request.conversation, self._shards) in self._full or self._batcher.waiting_count >= self._most:
            counts.bounds["OUTBOX_MAX_ENTRIES"] += 1
            raise Overloaded(f"{self._most} requests wait for a verdict")

    def _write(self, waiting: Sequence[_Waiting]) -> Sequence[Failure | None]:
        by_shard: dict[int, list[_Waiting]] = {}
        for one in waiting:
            by_shard.setdefault(shard_of(one.request.conversation, self._shards), []).append(one)
        try:
            offers = {shard: [self._offer(one) for one in some] for shard, some in by_shard.items()}
            appended = outbox.accept(self._client, offers, self._rate)
        except StoreUnavailable:
            for one in waiting:
                one.was_tried = True
            raise
        if not appended.is_heard:
            gevent.spawn(self._ring)
        self._note_full(shard for shard, length in appended.lengths.items() if length >= self._most)
        for shard, some in by_shard.items():
            for one, refusal in zip(some, appended.refusals[shard], strict=True):
                one.failure = _failure_of(refusal, one.was_tried)
                if one.failure is None:
                    counts.accepted[one.request.kind] += 1
        return [one.failure for one in waiting]

    def _offer(self, one: _Waiting) -> outbox.Offer:
        # Counted once: a try that Redis has not answered may have counted already.
        is_counted = one.terms.is_counted and self._rate is not None and not one.was_tried
        counted_as = one.request.sender_id if is_counted else None
        return outbox.Offer(one.request.encode(), one.terms.session, counted_as)

    def _note_full(self, full: Iterable[int]) -> None:
        news = set(full) - self._full
        if news:
            log.warning("outbox_full", shards=sorted(news), entries=self._most)
            if not self._full:
                gevent.spawn(self._watch_full)
            self._full |= news

    def _watch_full(self) -> None:
        """Look at the full shards until none is full."""
        while self._full:
            gevent.sleep(_PROBE_SECONDS)
            try:
                lengths = outbox.lengths(self._client, sorted(self._full))
            except StoreUnavailable:
                continue
            except Exception:
                log.exception("full_shards_not_seen")  # a bug; without another look they would be full for ever
                continue
            self._full -= {shard for shard, length in lengths.items() if length < self._most}
        log.info("outbox_has_room")

    def _ring(self) -> None:
        try:
            if outbox.ring(self._client):
                self._celery.send_task("drain", queue=DRAIN_QUEUE, expires=1)
        except Exception as error:
            # The broker is away. Nothing is lost: beat rings when it is back.
            log.warning("bell_not_rung", error=str(error))


def _failure_of(refusal: int, was_tried: bool) -> Failure | None:
    if refusal == outbox.APPENDED:
        return None
    if was_tried:
        return StoreUnavailable("refused at a later try: whether an earlier one took place is not known")
    return SessionUnknown() if refusal == outbox.NO_SESSION else RateExceeded(refusal)


def new_process_id() -> str:
    return secrets.token_hex(6)


def offload(database: Database, function: Callable[..., Result], *args: Any) -> Result:
    """Call a function that talks to SQL. SQLite would block the whole process, so it has a native thread of its own.

    One thread, not several: gevent has replaced the locks that SQLAlchemy takes, and two native threads that meet at such
    a lock may wait for ever (seen when forty users connected to a process that had just started).
    """
    if not database.is_sqlite:
        return function(*args)
    return call_in(_sql_thread(), function, *args)


def read_sql(database: Database, question: Callable[[Connection], Result]) -> Result:
    """Return the answer to a question, whatever it raises passed on. Raises DatabaseUnavailable."""

    def run_it() -> Result:
        with database.reading() as connection:
            return question(connection)

    return offload(database, run_it)


def write_sql(database: Database, change: Callable[[Connection], Result]) -> Result:
    """Run a change as one transaction, which whatever it raises undoes. Raises DatabaseUnavailable."""

    def run_it() -> Result:
        with database.writing() as connection:
            return change(connection)

    return offload(database, run_it)


def call_in(threads: ThreadPool, function: Callable[..., Result], *args: Any) -> Result:
    """Call a function in a native thread, so that what it waits for holds up no greenlet but this one."""
    result, error = threads.apply(_caught, (function, args))
    if error is not None:
        try:
            raise error
        finally:
            del error  # which holds this frame
    return cast(Result, result)


def _caught(function: Callable[..., Result], args: tuple[Any, ...]) -> tuple[Result | None, Exception | None]:
    """Carry what a call raises over as a value: gevent would log it as a crash of the thread, and most are refusals."""
    try:
        return function(*args), None
    except Exception as error:
        return None, error


@cache
def _sql_thread() -> ThreadPool:
    return ThreadPool(1)


def open_store(settings: Settings) -> Redis:
    return Redis(connect(settings.redis_url))
