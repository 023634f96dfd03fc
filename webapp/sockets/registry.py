"""The registry of this process: who is connected here, and who waits here for a verdict."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

from gevent.event import AsyncResult

from models.store.bus import Verdict
from webapp.counts import counts
from webapp.services import Failure
from webapp.sockets.connection import Connection

OnVerdict = Callable[[Verdict, "bytes | None"], None]  # verdict, and the Message where it was stored


class Registry:
    def __init__(self) -> None:
        self._connections: dict[int, dict[int, Connection]] = {}  # user -> number -> connection
        self._waits: dict[int, OnVerdict] = {}
        self._numbers = itertools.count(1)
        self._connection_count = 0

    # Connections

    def next_number(self) -> int:
        return next(self._numbers)

    def add(self, connection: Connection) -> None:
        counts.sockets[connection.protocol] += 1
        self._connection_count += 1
        self._connections.setdefault(connection.user_id, {})[connection.number] = connection

    def remove(self, connection: Connection) -> None:
        """Remove this connection, and only this one: a newer one of the same user stays (ORIG A5, A6)."""
        mine = self._connections.get(connection.user_id)
        if mine is None or mine.pop(connection.number, None) is None:
            return
        counts.sockets[connection.protocol] -= 1
        self._connection_count -= 1
        if not mine:
            del self._connections[connection.user_id]

    def of_user(self, user_id: int) -> Iterable[Connection]:
        # Copy first: a socket may leave while the caller writes to it.
        return tuple(self._connections.get(user_id, {}).values())

    def by_number(self, user_id: int, number: int) -> Connection | None:
        return self._connections.get(user_id, {}).get(number)

    def user_ids(self) -> list[int]:
        return list(self._connections)

    def __iter__(self) -> Iterator[Connection]:
        for user_id in self.user_ids():
            yield from self.of_user(user_id)

    def __len__(self) -> int:
        return self._connection_count

    # Verdicts

    def open_wait(self, on_verdict: OnVerdict) -> int:
        """Call `on_verdict` once when the verdict comes; the number goes with the request."""
        number = next(self._numbers)
        self._waits[number] = on_verdict
        return number

    def close_wait(self, number: int) -> None:
        self._waits.pop(number, None)

    def settle(self, verdict: Verdict, body: bytes | None) -> None:
        on_verdict = self._waits.pop(verdict.wait, None)
        if on_verdict is not None:
            on_verdict(verdict, body)


class VerdictWait:
    """A wait that a greenlet sits in for what becomes of a request: HTTP's. A context manager, so that none stays behind.

    number: goes with the request
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._verdict: AsyncResult[tuple[Verdict, bytes | None]] = AsyncResult()
        self._acceptance: AsyncResult[None] = AsyncResult()
        self.number = registry.open_wait(lambda verdict, body: self._verdict.set((verdict, body)))

    def accepted(self, failure: Failure | None) -> None:
        """Take what `Acceptor.submit` has to tell: the request is durable, or what failed."""
        if failure is None:
            self._acceptance.set()
        else:
            self._acceptance.set_exception(failure)
            if not self._verdict.ready():
                self._verdict.set_exception(failure)

    def get(self, seconds: float) -> tuple[Verdict, bytes | None] | None:
        """Return the verdict; None: it did not come in time, but the request is durable. Raises what `accepted` was told.

        One wait for both: most verdicts come so soon that to wake up for the acceptance first would cost a twentieth of a send.
        """
        if seconds > 0:
            self._verdict.wait(seconds)
        if self._verdict.ready():
            return self._verdict.get()
        self._acceptance.get()
        return None

    def __enter__(self) -> VerdictWait:
        return self

    def __exit__(self, *_: object) -> None:
        self._registry.close_wait(self.number)
