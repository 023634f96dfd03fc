"""The office of this process: opens connections, keeps their acknowledgements, heartbeats and presence, closes them.

It brings together what one connection must not know: the store, the database, the other connections.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import gevent
import orjson
import structlog

from models import positions
from models.database import Database
from models.errors import DatabaseUnavailable, StoreUnavailable
from models.store import inbox, presence
from models.store.inbox import Page
from settings import Settings
from tasks.rebuild import load_inbox
from webapp.auth import Caller
from webapp.services import Redis, offload
from webapp.sockets.connection import Connection
from webapp.sockets.registry import Registry
from webapp.sockets.transport import Transport

log = structlog.get_logger()

_FLUSH_SECONDS = 1.0
_CHECKPOINT_SECONDS = 3.0
_PRESENCE_SECONDS = 30.0


class SocketOffice:
    """Implements `connection.Office`."""

    def __init__(
        self, settings: Settings, process_id: str, registry: Registry, store: Redis, database: Database
    ) -> None:
        self._settings = settings
        self._process_id = process_id
        self._registry = registry
        self._store = store
        self._database = database
        self._acknowledged: set[Connection] = set()  # positions that rose, not yet told to Redis
        self._unchecked: set[int] = set()  # users whose positions rose since the last checkpoint
        self.is_closing = False

    def start(self) -> None:
        for task, seconds in (
            (self._flush_acknowledged, _FLUSH_SECONDS),
            (self._checkpoint, _CHECKPOINT_SECONDS),
            (self._renew_presence, _PRESENCE_SECONDS),
        ):
            gevent.spawn(self._repeat, task, seconds)
        gevent.spawn(self._heartbeats)

    # Opening and closing

    def connect(self, caller: Caller, transport: Transport, protocol: int) -> Connection:
        """Open a connection and write what its device lacks. Returns when it is live; raises StoreUnavailable."""
        connection = Connection(
            self,
            transport,
            number=self._registry.next_number(),
            user_id=caller.user_id,
            role=caller.role,
            device=caller.device,
            session_id=caller.session_id,
            protocol=protocol,
            frame_max_bytes=self._settings.frame_max_bytes,
        )
        # In the registry first: what is published once presence shows us must find us.
        self._registry.add(connection)
        try:
            connected = self._register(connection)
        except (StoreUnavailable, DatabaseUnavailable):
            self._registry.remove(connection)
            transport.abort()
            raise
        connection.begin(connected.epoch or "", connected.acknowledged)
        connection.catch_up()
        return connection

    def _register(self, connection: Connection) -> presence.Connected:
        command = presence.connect_command(connection.user_id, connection.device, self._name(connection))
        connected = presence.Connected.parse(self._store.call(command))
        if connected.epoch is None:
            inbox_max = self._settings.inbox_max_entries
            self._store.call(offload(self._database, load_inbox, self._database, connection.user_id, inbox_max))
            connected = presence.Connected.parse(self._store.call(command))
        return connected

    def closed(self, connection: Connection) -> None:
        self._registry.remove(connection)
        self._acknowledged.discard(connection)
        forget = presence.disconnect_command(connection.user_id, connection.device, self._name(connection))
        self._store.tell(forget)

    def close_all(self) -> None:
        """Drop every socket, so that clients return to another process (ORIG 2.8: without a close frame)."""
        self.is_closing = True
        for connection in self._registry:
            connection.transport.abort()

    # What connections ask for

    def read_inbox(self, connection: Connection, most: int) -> Page:
        command = inbox.read_command(connection.user_id, connection.written, most)
        page = inbox.parse_page(self._store.call(command), connection.written)
        if page.epoch is None:
            self._register(connection)  # opens the inbox anew, and presence with it: both were lost
            page = inbox.parse_page(self._store.call(command), connection.written)
        return page

    def acknowledge(self, connection: Connection, *, urgent: bool) -> None:
        if urgent:
            self._tell_acknowledged(connection)
        else:
            self._acknowledged.add(connection)

    def receive(self, connection: Connection, payload: bytes) -> None:
        """Take one text or binary message of a client: ORIG 2.4."""
        try:
            frame = orjson.loads(payload)
        except orjson.JSONDecodeError:
            if payload == b"ping":
                connection.send_pong()
            return
        if isinstance(frame, dict) and frame.get("type") == "ping":
            connection.send_pong()

    # Housekeeping of this process

    def _tell_acknowledged(self, connection: Connection) -> None:
        self._acknowledged.discard(connection)
        self._unchecked.add(connection.user_id)
        self._store.tell(
            inbox.acknowledge_command(connection.user_id, connection.device, connection.epoch, connection.acknowledged)
        )

    def _flush_acknowledged(self) -> None:
        for connection in list(self._acknowledged):
            self._tell_acknowledged(connection)

    def _checkpoint(self) -> None:
        users, self._unchecked = list(self._unchecked), set()
        if not users:
            return
        try:
            answers = self._store.call_all([inbox.state_command(user_id) for user_id in users])
            rows = []
            for user_id, answer in zip(users, answers, strict=True):
                epoch, devices = inbox.parse_state(answer)
                rows += [
                    positions.Position(user_id, d, epoch or "", s.acknowledged, s.seen) for d, s in devices.items()
                ]
            if rows:
                offload(self._database, self._write_positions, rows)
        except (StoreUnavailable, DatabaseUnavailable) as error:
            self._unchecked.update(users)
            log.warning("checkpoint_failed", error=str(error))

    def _write_positions(self, rows: list[positions.Position]) -> None:
        with self._database.writing() as connection:
            positions.checkpoint(connection, rows)

    def _renew_presence(self) -> None:
        users = self._registry.user_ids()
        if users:
            self._store.call_all(presence.renew_commands(users))

    def _heartbeats(self) -> None:
        """Beat each connection once per interval, spread over it, so that 10,000 sockets are not one burst."""
        slices = 30
        turn = 0
        while True:
            gevent.sleep(self._settings.heartbeat_seconds / slices)
            turn = (turn + 1) % slices
            for connection in list(self._registry):
                if connection.number % slices == turn:
                    connection.heartbeat()

    def _repeat(self, task: Callable[[], None], seconds: float) -> None:
        while True:
            gevent.sleep(seconds * random.uniform(0.8, 1.2))
            try:
                task()
            except StoreUnavailable as error:
                log.warning("housekeeping_failed", task=task.__name__, error=str(error))
            except Exception:
                log.exception("housekeeping_failed", task=task.__name__)

    def _name(self, connection: Connection) -> str:
        return presence.connection_name(self._process_id, connection.number, connection.protocol)
