"""Signals: what protocol 2 tells besides messages. Found by presence, published to the processes that hold the user's
protocol 2 sockets, written to those; nothing stores or repeats them, so a lost one is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import structlog

from models.errors import StoreUnavailable
from models.store import bus, presence
from models.store.batching import Batcher
from webapp.services import Redis
from webapp.sockets.connection import Connection
from webapp.sockets.registry import Registry

log = structlog.get_logger()

_PATIENCE_SECONDS = 3.0
_MAX_WAITING = 50_000  # signals not published yet, some 20 MB
_USERS_PER_TRIP = 500
_MAX_MARKS = 5_000  # per socket; beyond it the memory starts anew
_BUSY_BYTES = 16_384  # unsent: a reader that is so far behind is spared what has no meaning later


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A signal on its way to all live protocol 2 sockets of a user; the other fields as in `bus.Signal`."""

    kind: str
    user_id: int
    frame: bytes
    but_device: str | None = None
    mark: str | None = None
    level: int = 0


class SignalPost:
    """Carries signals to sockets of this process and of others."""

    def __init__(self, process_id: str, registry: Registry, store: Redis) -> None:
        self._process_id = process_id
        self._registry = registry
        self._store = store
        self._batcher: Batcher[Outgoing, None] = Batcher(self.deliver, patience_seconds=_PATIENCE_SECONDS)

    def start(self) -> None:
        self._batcher.start()

    def tell(self, signals: Iterable[Outgoing]) -> None:
        """Send signals soon; those of a moment share their round trips. Never blocks, never raises."""
        for signal in signals:
            if self._batcher.waiting_count >= _MAX_WAITING:
                log.warning("signals_dropped", kind=signal.kind, waiting=_MAX_WAITING)
                return
            self._batcher.submit(signal, _note_loss)

    def deliver(self, signals: Sequence[Outgoing]) -> Sequence[None]:
        """Look up where the users are and publish there. Raises StoreUnavailable: some may have arrived."""
        processes = self._find_processes({signal.user_id for signal in signals})
        publications: dict[str, bus.Publication] = {}
        for signal in signals:
            for process_id in processes.get(signal.user_id, ()):
                news = publications.setdefault(process_id, bus.Publication())
                place = news.place(signal.frame)
                news.signals.append(
                    bus.Signal(signal.kind, signal.user_id, place, signal.but_device, signal.mark, signal.level)
                )
        mine = publications.pop(self._process_id, None)
        if publications:
            self._store.call_all(bus.publish_commands(publications.items()))
        if mine is not None:
            self.take(mine)
        return [None] * len(signals)

    def _find_processes(self, user_ids: Iterable[int]) -> dict[int, set[str]]:
        """Return which processes hold protocol 2 sockets of each user; absent = none does."""
        todo, found = list(user_ids), {}
        for start in range(0, len(todo), _USERS_PER_TRIP):
            some = todo[start : start + _USERS_PER_TRIP]
            answers = self._store.call_all([presence.find_all_command(user_id) for user_id in some])
            for user_id, answer in zip(some, answers, strict=True):
                live = (presence.live_connection(connections) for connections in answer)
                places = {presence.process_of(name) for name in live if name and presence.protocol_of(name) == 2}
                if places:
                    found[user_id] = places
        return found

    def take(self, news: bus.Publication) -> None:
        """Write a publication's signals to the sockets of this process."""
        for kind, user_id, place, but_device, mark, level in news.signals:
            frame = news.bodies[place].encode()
            for connection in self._registry.of_user(user_id):
                if connection.device != but_device:
                    self.show(connection, Outgoing(kind, user_id, frame, but_device, mark, level))

    def show(self, connection: Connection, *signals: Outgoing) -> None:
        """Write signals to one socket, where it takes any and was not told as much before."""
        if connection.protocol != 2 or not connection.is_live or not connection.is_greeted:
            return
        connection.send_texts(signal.frame for signal in signals if _is_news(connection, signal))


def _is_news(connection: Connection, signal: Outgoing) -> bool:
    if signal.kind == "typing" and connection.transport.unsent_bytes > _BUSY_BYTES:
        return False
    if signal.mark is not None:
        # Two processes may tell of the same reader: what a socket is told must never go back.
        if signal.level <= connection.marks.get(signal.mark, 0):
            return False
        if len(connection.marks) >= _MAX_MARKS:
            connection.marks.clear()
        connection.marks[signal.mark] = signal.level
    return True


def _note_loss(_: None, error: StoreUnavailable | None) -> None:
    if error is not None:
        log.warning("signal_lost", error=str(error))
