"""The session watch: ends the connections of this process whose session is over, whoever has told it, or nobody."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import structlog

from models import users
from models.database import Database
from models.errors import DatabaseUnavailable, ModelError
from models.store import presence, sessions
from webapp.devices import Devices
from webapp.services import Redis, offload
from webapp.session_ends import Cause
from webapp.sockets.closing import CloseCode
from webapp.sockets.connection import Connection
from webapp.sockets.greetings import forced_logout_frame
from webapp.sockets.registry import Registry

log = structlog.get_logger()

_SESSIONS_PER_TRIP = 200


class SessionWatch:
    """register_again: makes a connection known again which presence has lost"""

    def __init__(
        self,
        registry: Registry,
        store: Redis,
        database: Database,
        devices: Devices,
        media_url: str,
        register_again: Callable[[Connection], None],
    ) -> None:
        self._registry = registry
        self._store = store
        self._database = database
        self._devices = devices
        self._media_url = media_url
        self._register_again = register_again
        self._expires_next = math.inf  # before then no connection's token expires

    def expect(self, expires_at: float) -> None:
        """Look at the connections when one has come whose token expires at this time, in seconds since 1970."""
        self._expires_next = min(self._expires_next, expires_at)

    def stands(self, connection: Connection) -> bool:
        """Ask SQL whether the connection's session is its device's, and let Redis know again if it is."""
        user_id, device = connection.user_id, connection.device
        _, generation = sessions.parse_held(self._store.call(sessions.read_command(user_id, device)))
        if self._devices.session_id(user_id, device) != connection.session_id:
            return False
        self._store.call(sessions.remember_command(user_id, device, generation, connection.session_id))
        return True

    def end(self, connection: Connection, cause: Cause) -> None:
        """Close a socket whose session is over."""
        try:
            if cause != "disabled" and self.stands(connection):
                return  # what was ended was an older session than this one
        except ModelError as error:
            # Fails closed: somebody has said that it is over. The client finds out when it comes back.
            log.warning("session_end_unchecked", user_id=connection.user_id, error=str(error))
        self._close_ended(connection, cause)

    def check_all(self) -> None:
        """End the local connections whose session is over though nobody told us: a lost publication must not last."""
        open_ones = [connection for connection in self._registry if connection.epoch]
        for start in range(0, len(open_ones), _SESSIONS_PER_TRIP):
            some = open_ones[start : start + _SESSIONS_PER_TRIP]
            reads = [sessions.read_command(connection.user_id, connection.device) for connection in some]
            places = [presence.find_command(connection.user_id, connection.device) for connection in some]
            answers = self._store.call_all(reads + places)
            for connection, held, place in zip(some, answers[: len(some)], answers[len(some) :], strict=True):
                if sessions.parse_held(held)[0] != connection.session_id:
                    self.check(connection)
                elif connection.protocol == 2 and place and connection.name not in place.decode().split():
                    connection.end(CloseCode.REPLACED)
                elif not place and connection.is_live and connection.transport.is_open:
                    self._register_again(connection)

    def check(self, connection: Connection) -> None:
        """Ask SQL about a session that Redis does not hold, and end it as its end was meant."""
        if self.stands(connection):
            return

        def load() -> int | None:
            with self._database.reading() as reading:
                return users.load_status(reading, connection.user_id)

        is_disabled = offload(self._database, load) != users.ACTIVE
        is_relogin = self._devices.session_id(connection.user_id, connection.device) is not None
        self._close_ended(connection, "disabled" if is_disabled else "relogin" if is_relogin else "logout")

    def end_expired(self) -> None:
        """End the connections whose session has expired. One whose token was renewed elsewhere goes on."""
        now = time.time()
        if now < self._expires_next:
            return
        for connection in self._registry:
            if connection.expires_at <= now and not self._is_renewed(connection, now):
                connection.end(CloseCode.SESSION_ENDED)
        # Afterwards, and at once: while SQL was asked others may have come, whose tokens expire sooner.
        left = (connection.expires_at for connection in self._registry if connection.transport.is_open)
        self._expires_next = min(left, default=math.inf)

    def _is_renewed(self, connection: Connection, now: float) -> bool:
        try:
            until = self._devices.session_expires_at(connection.user_id, connection.device, connection.session_id)
        except DatabaseUnavailable as error:
            # Fails closed: the newest token that we know of has expired.
            log.warning("session_expiry_unchecked", user_id=connection.user_id, error=str(error))
            return False
        connection.expires_at = max(connection.expires_at, until)
        return until > now

    def _close_ended(self, connection: Connection, cause: Cause) -> None:
        if cause == "relogin":
            self._write_forced_logout(connection)
        log.info("socket_session_ended", user_id=connection.user_id, connection=connection.name, cause=cause)
        connection.end(CloseCode.DISABLED if cause == "disabled" else CloseCode.SESSION_ENDED)

    def _write_forced_logout(self, connection: Connection) -> None:
        def load() -> bytes | None:
            with self._database.reading() as reading:
                return forced_logout_frame(reading, connection.user_id, self._media_url)

        try:
            notice = offload(self._database, load)
        except DatabaseUnavailable as error:
            log.warning("forced_logout_notice_left_out", user_id=connection.user_id, error=str(error))
            return
        if notice is not None:
            connection.send_text(notice)
