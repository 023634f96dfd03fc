"""Group commit for gevent processes: what is asked for while a round trip is under way goes out with the next one.

One greenlet serves a batcher; there is no timer. A lone caller waits for nobody, a crowd shares one round trip.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import Generic, TypeVar

import gevent
import structlog
from gevent.event import AsyncResult, Event

from models.errors import StoreUnavailable

log = structlog.get_logger()

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Done = Callable[["Answer | None", "StoreUnavailable | None"], None]

_MAX_ITEMS_PER_TRIP = 512
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.02, 0.25


class Batcher(Generic[Item, Answer]):
    """Calls `handle(items) -> answers` for all items that have gathered, one call at a time.

    `handle` must be safe to repeat: while it raises StoreUnavailable it is called again for up to `patience_seconds`
    counted from an item's arrival, so that a Redis that restarts within that time is noticed by nobody. An answer that is
    a StoreUnavailable is the error of its item alone, and final.
    """

    def __init__(
        self, handle: Callable[[Sequence[Item]], Sequence[Answer | StoreUnavailable]], *, patience_seconds: float
    ) -> None:
        self._handle = handle
        self._patience_seconds = patience_seconds
        self._waiting: list[tuple[Item, float, Done[Answer]]] = []
        self._arrived = Event()

    def start(self) -> None:
        gevent.spawn(self._serve)

    def submit(self, item: Item, done: Done[Answer]) -> None:
        """Queue an item. `done(answer, error)` is called later, from the batcher's greenlet, and must not block."""
        self._waiting.append((item, time.monotonic(), done))
        self._arrived.set()

    def call(self, item: Item) -> Answer:
        """Queue an item and wait for its answer. Raises StoreUnavailable."""
        result: AsyncResult[Answer] = AsyncResult()

        def done(answer: Answer | None, error: StoreUnavailable | None) -> None:
            if error is None:
                result.set(answer)
            else:
                result.set_exception(error)

        self.submit(item, done)
        return result.get()  # type: ignore[return-value]  # set only together with an answer

    @property
    def waiting_count(self) -> int:
        return len(self._waiting)

    def _serve(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            self._arrived.wait()
            batch, self._waiting = self._waiting[:_MAX_ITEMS_PER_TRIP], self._waiting[_MAX_ITEMS_PER_TRIP:]
            if not batch:
                self._arrived.clear()
                continue
            try:
                answers = self._handle([item for item, _, _ in batch])
                if len(answers) != len(batch):
                    raise ValueError(f"{len(answers)} answers to {len(batch)} items")
            except StoreUnavailable as error:
                self._put_back(batch, error)
                gevent.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
                continue
            except Exception as error:
                # A bug: these fail, and the process goes on serving the others.
                log.exception("batch_failed", items=len(batch))
                _settle(batch, repeat(StoreUnavailable(repr(error))))
                continue
            pause = _FIRST_PAUSE_SECONDS
            _settle(batch, answers)

    def _put_back(self, batch: list[tuple[Item, float, Done[Answer]]], error: StoreUnavailable) -> None:
        """Let a batch wait again, and give up all that have waited long enough: those behind the batch as well.

        Giving up a batch at a time, each after a timeout of its own, a queue would grow for as long as Redis hangs.
        """
        oldest = time.monotonic() - self._patience_seconds
        waiting = batch + self._waiting
        self._waiting = [entry for entry in waiting if entry[1] > oldest]
        _settle([entry for entry in waiting if entry[1] <= oldest], repeat(error))


def _settle(batch: Sequence[tuple[Item, float, Done[Answer]]], answers: Iterable[Answer | StoreUnavailable]) -> None:
    """Give each its answer or its error. A `done` that fails is a bug that costs the others nothing."""
    for (_, _, done), answer in zip(batch, answers, strict=False):
        try:
            if isinstance(answer, StoreUnavailable):
                done(None, answer)
            else:
                done(answer, None)
        except Exception:
            log.exception("batch_answer_failed")
