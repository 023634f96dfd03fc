"""Session ends: a session that is over admits nobody, and its sockets close wherever they live (ORIG A13, contract 8)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import gevent
import structlog

from models.errors import ModelError, StoreUnavailable
from models.store import bus, presence, sessions
from models.store.connection import Command
from webapp.devices import Devices
from webapp.services import Redis

log = structlog.get_logger()

# relogin: the same device has logged in again; its older sockets get the forced-logout notice first (ORIG 2.7, A7).
Cause = Literal["logout", "relogin", "password", "disabled"]

_PAUSES_SECONDS = (1, 2, 5, 10, 30, 60, 120, 300)


class SessionEnds:
    """Ends sessions that SQL has ended already: call it after the commit, before the answer.

    Whoever owns a socket asks SQL once more before he closes it, so that ending twice, or late, spares a newer session.
    """

    def __init__(self, store: Redis, devices: Devices) -> None:
        self._store = store
        self._devices = devices

    def prepare_end_all(self, user_id: int, *, but_device: str) -> None:
        """Have SQL asked about each session of the user's other devices, before it ends them: if this process dies between
        the two, whoever would repeat the change may not be able to. Raises StoreUnavailable: nothing has changed.
        """
        self._store.call(sessions.end_all_command(user_id, but_device))

    def end(self, user_id: int, device: str, cause: Cause) -> None:
        """End the device's session. Raises StoreUnavailable: ended or not is unknown, repeating is safe."""
        self._end(user_id, sessions.end_command(user_id, device), cause)
        self._forget_devices(user_id, [device])

    def end_all(self, user_id: int, cause: Cause, *, but_device: str | None = None) -> None:
        """End the sessions of all the user's devices but one. Raises StoreUnavailable."""
        self._end(user_id, sessions.end_all_command(user_id, but_device), cause)
        self._forget_devices(user_id, None)

    def _end(self, user_id: int, command: Command, cause: Cause) -> None:
        try:
            ended = sessions.parse_ended(self._store.call(command))
            self._order(user_id, ended, cause)
        except StoreUnavailable:
            # SQL has ended it, and Redis may still admit it: somebody must go on trying when the caller has given up.
            gevent.spawn(self._repeat, lambda: self._end_once(user_id, command, cause))
            raise
        log.info("sessions_ended", user_id=user_id, cause=cause, sockets=len(ended))

    def _end_once(self, user_id: int, command: Command, cause: Cause) -> None:
        self._order(user_id, sessions.parse_ended(self._store.call(command)), cause)

    def _order(self, user_id: int, ended: Iterable[tuple[str, str]], cause: Cause) -> None:
        """Tell the processes of these connections to close them, and forget those whose process has died."""
        orders: dict[str, bus.Publication] = {}
        names: dict[str, list[tuple[str, str]]] = {}
        for device, name in ended:
            process_id = presence.process_of(name)
            order = bus.Order(user_id, presence.number_of(name), cause)
            orders.setdefault(process_id, bus.Publication()).orders.append(order)
            names.setdefault(process_id, []).append((device, name))
        for process_id, news in orders.items():
            if not self._store.call(bus.publish_command(process_id, news)):
                for device, name in names[process_id]:
                    self._store.tell(presence.disconnect_command(user_id, device, name))

    def _forget_devices(self, user_id: int, devices: Sequence[str] | None) -> None:
        """Let devices without a session count no more. Its failure costs space only, so nobody waits for it."""
        try:
            self._devices.forget_without_session(user_id, devices)
        except ModelError as error:
            log.warning("devices_not_forgotten", user_id=user_id, error=str(error))

    @staticmethod
    def _repeat(task: Callable[[], None]) -> None:
        for pause in _PAUSES_SECONDS:
            gevent.sleep(pause)
            try:
                task()
            except StoreUnavailable as error:
                log.warning("session_end_not_told", error=str(error))
            else:
                return
