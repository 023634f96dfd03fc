"""Reading: raises read markers and tells of it, for the route and for the `read` frame alike.

What is read at the same time is written in one transaction, since a crowd reads more often than it writes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from models import read_markers
from models.database import Database
from models.errors import DatabaseUnavailable, StoreUnavailable
from models.requests import ChatType, conversation_key
from models.store.batching import Batcher
from schemas import frames
from schemas.history import READ_PARAMS
from schemas.params import InvalidParams
from webapp.services import offload
from webapp.sockets.connection import Connection
from webapp.sockets.receipts import receipt
from webapp.sockets.signals import Outgoing, SignalPost

log = structlog.get_logger()

_MAX_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class Reading:
    """A user has read a conversation up to `seq`, on that device."""

    user_id: int
    device: str
    chat_type: ChatType
    peer_id: int
    seq: int

    @property
    def conversation(self) -> str:
        return conversation_key(self.chat_type, self.user_id, self.peer_id)


class ReadMarks:
    def __init__(self, database: Database, post: SignalPost) -> None:
        self._database = database
        self._post = post
        self._batcher: Batcher[Reading, DatabaseUnavailable | None] = Batcher(self._handle, patience_seconds=0)

    def start(self) -> None:
        self._batcher.start()

    def mark(self, reading: Reading) -> None:
        """Raise the marker, unless it stands there, and not beyond the newest message. Raises DatabaseUnavailable."""
        failure = self._batcher.call(reading)
        if failure is not None:
            raise failure

    def receive(self, connection: Connection, frame: dict[str, Any]) -> None:
        """Take a `read` frame. What is malformed is ignored. Never blocks."""
        try:
            params = READ_PARAMS.read(frame)
        except InvalidParams:
            return
        user_id, device = connection.user_id, connection.device
        self.mark_soon(Reading(user_id, device, params["chatType"], params["peer_id"], params["seq"]))

    def mark_soon(self, reading: Reading) -> None:
        """As `mark`, without waiting. What fails is logged: the client's next frame makes up for it."""
        if self._batcher.waiting_count >= _MAX_WAITING:
            log.warning("reading_dropped", user_id=reading.user_id)
            return

        def done(failure: DatabaseUnavailable | None, error: StoreUnavailable | None) -> None:
            if failure is not None or error is not None:
                log.warning("reading_lost", user_id=reading.user_id, error=str(failure or error))

        self._batcher.submit(reading, done)

    def _handle(self, readings: Sequence[Reading]) -> Sequence[DatabaseUnavailable | None]:
        try:
            wanted: dict[tuple[int, str], int] = {}
            for reading in readings:
                key = (reading.user_id, reading.conversation)
                wanted[key] = max(reading.seq, wanted.get(key, 0))
            raised = offload(self._database, self._write, wanted)
        except DatabaseUnavailable as error:
            return [error] * len(readings)
        # The device that has read furthest is the one that needs not be told.
        for reading in sorted(readings, key=lambda reading: -reading.seq):
            seq = raised.pop((reading.user_id, reading.conversation), None)
            if seq is not None:
                self._tell(reading, seq)
        return [None] * len(readings)

    def _write(self, wanted: dict[tuple[int, str], int]) -> dict[tuple[int, str], int]:
        with self._database.reading() as connection:
            allowed = read_markers.bound(connection, wanted)
        if not allowed:
            return {}
        with self._database.writing() as connection:
            return read_markers.raise_all(connection, allowed)

    def _tell(self, reading: Reading, seq: int) -> None:
        frame = frames.read(reading.chat_type, reading.peer_id, seq)
        mark = f"read:{reading.chat_type}:{reading.peer_id}"
        signals = [Outgoing("read", reading.user_id, frame, reading.device, mark, seq)]
        if reading.chat_type == "single" and reading.peer_id != reading.user_id:
            signals.append(receipt("read", reading.user_id, reading.peer_id, seq, time.time_ns() // 1_000_000))
        self._post.tell(signals)
