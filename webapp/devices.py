"""Devices: which of a user's devices count, that is, for which the inbox keeps what they have not acknowledged.

A device counts from its login until its session is gone or it was unseen for 30 days (`tasks/devices.py`). Redis knows it;
the checkpoints in SQL (`models/positions.py`) are for the case that Redis loses its data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from models import positions, sessions
from models.database import Database
from models.errors import StoreUnavailable
from models.store import inbox, presence
from settings import Settings
from tasks.rebuild import load_inbox
from webapp.services import Redis, offload

_USERS_PER_TRIP = 500


class Devices:
    """`on_new(user_id)` is called when a device is new: its position must be checkpointed soon."""

    def __init__(
        self, settings: Settings, store: Redis, database: Database, on_new: Callable[[int], None] = lambda _: None
    ) -> None:
        self._settings = settings
        self._store = store
        self._database = database
        self.on_new = on_new

    def register(self, user_id: int, device: str) -> None:
        """Let a device count, opening the user's inbox where there is none; one that counts keeps its position.

        Raises StoreUnavailable, DatabaseUnavailable; connecting does it again.
        """
        command = inbox.register_command(user_id, device)
        answer = self._store.call(command)
        if answer < 0:
            inbox_max = self._settings.inbox_max_entries
            self._store.call(offload(self._database, load_inbox, self._database, user_id, inbox_max))
            answer = self._store.call(command)
        if answer < 0:
            raise StoreUnavailable("the inbox was lost while it was opened")
        if answer:
            self.on_new(user_id)

    def register_all(self, user_ids: Sequence[int], device: str) -> None:
        """Do for many users what a login does for one, their positions in SQL included. Raises as `register`."""
        for start in range(0, len(user_ids), _USERS_PER_TRIP):
            some = user_ids[start : start + _USERS_PER_TRIP]
            answers = self._store.call_all([inbox.register_command(user_id, device) for user_id in some])
            closed = [user_id for user_id, answer in zip(some, answers, strict=True) if answer < 0]
            inbox_max = self._settings.inbox_max_entries
            self._store.call_all([load_inbox(self._database, user_id, inbox_max) for user_id in closed])
            self._store.call_all([inbox.register_command(user_id, device) for user_id in closed])
            self.checkpoint(some)

    def checkpoint(self, user_ids: Sequence[int]) -> None:
        """Keep in SQL how far the users' devices have acknowledged. Raises StoreUnavailable, DatabaseUnavailable."""
        answers = self._store.call_all([inbox.state_command(user_id) for user_id in user_ids])
        rows = []
        for user_id, answer in zip(user_ids, answers, strict=True):
            epoch, devices = inbox.parse_state(answer)
            rows += [positions.Position(user_id, d, epoch or "", s.acknowledged, s.seen) for d, s in devices.items()]
        if rows:
            offload(self._database, self._write_positions, rows)

    def forget(self, user_id: int, device: str) -> None:
        """Let a device count no more. Raises StoreUnavailable, DatabaseUnavailable; repeating is safe."""
        self._store.call(inbox.forget_command(user_id, device))
        offload(self._database, self._forget_position, user_id, device)

    def forget_without_session(self, user_id: int, devices: Sequence[str] | None = None) -> None:
        """Forget those of the devices (None: of all) that have no session in SQL. Raises as `forget`."""
        if devices is None:
            devices = list(inbox.parse_state(self._store.call(inbox.state_command(user_id)))[1])
        for device in devices:
            if self.session_id(user_id, device) is None:
                self.forget(user_id, device)

    def session_id(self, user_id: int, device: str) -> str | None:
        """Return the id of the device's session according to SQL, None where it has none. Raises DatabaseUnavailable."""
        return offload(self._database, self._load_session_id, user_id, device)

    def session_expires_at(self, user_id: int, device: str, session_id: str) -> float:
        """Return when a session ends by itself, in seconds since 1970; 0 where it is over. Raises DatabaseUnavailable."""
        return offload(self._database, self._load_expires_at_ms, user_id, device, session_id) / 1000

    def least_recent(self, user_id: int, devices: Sequence[str]) -> str:
        """Return which of the devices was seen least recently; a connected one is being seen. Raises StoreUnavailable."""
        seen_at = inbox.parse_seen_at(self._store.call(inbox.state_command(user_id)))
        connected = {name.decode() for name in self._store.call(presence.find_devices_command(user_id))}
        return min(devices, key=lambda device: (device in connected, seen_at.get(device, 0)))

    def _load_session_id(self, user_id: int, device: str) -> str | None:
        with self._database.reading() as connection:
            return sessions.load_session_id(connection, user_id, device)

    def _load_expires_at_ms(self, user_id: int, device: str, session_id: str) -> int:
        with self._database.reading() as connection:
            return sessions.load_expires_at_ms(connection, user_id, device, session_id)

    def _write_positions(self, rows: list[positions.Position]) -> None:
        with self._database.writing() as connection:
            positions.checkpoint(connection, rows)

    def _forget_position(self, user_id: int, device: str) -> None:
        with self._database.writing() as connection:
            positions.forget(connection, user_id, [device])
