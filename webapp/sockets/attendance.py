"""Attendance: tells friends who has come and who has gone (contract section 5, `presence`).

What changes is collected and handled once a second in one batch, so that a storm of reconnects costs little. Gone is who
has had no connection anywhere for two seconds; of all processes that notice it, the store lets one tell.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import gevent
import structlog

from models import acquaintances
from models.database import Database
from models.errors import ModelError
from models.store import attendance, presence
from schemas import frames
from webapp.services import Redis, offload
from webapp.sockets.connection import Connection, now_ms
from webapp.sockets.registry import Registry
from webapp.sockets.signals import Outgoing, SignalPost

log = structlog.get_logger()

_TURN_SECONDS = 1.0
_GONE_SECONDS = 2.0  # a client that reconnects is back by then, and nobody needs to know
_CLOCK_SECONDS = 0.2  # by which two clocks of one machine may disagree on how long that is
_RENEW_SECONDS = 30.0
_OVERDUE_SECONDS = 10.0
_PER_TRIP = 500
_USERS_AT_ONCE = 100  # whose friends are told together: some 20 ms of this process
_SIGNALS_AT_ONCE = 1_000

Item = TypeVar("Item")


class Attendance:
    def __init__(self, registry: Registry, store: Redis, database: Database, post: SignalPost) -> None:
        self._registry = registry
        self._store = store
        self._database = database
        self._post = post
        self._came: set[int] = set()
        self._left: dict[int, float] = {}  # users without a connection here, since when
        self._changed: dict[int, tuple[bool, int]] = {}  # users whose friends are to be told: online, when
        self._new: list[Connection] = []  # protocol 2: to be told which friends are online
        self._new_friends: set[tuple[int, int]] = set()  # to be told of each other

    def start(self) -> None:
        gevent.spawn(self._turn_for_ever)

    def opened(self, connection: Connection) -> None:
        if not connection.transport.is_open:
            return  # gone already, and so was told
        self._came.add(connection.user_id)
        self._left.pop(connection.user_id, None)
        if connection.protocol == 2:
            self._new.append(connection)

    def closed(self, connection: Connection) -> None:
        if not self._registry.of_user(connection.user_id):
            self._left[connection.user_id] = time.monotonic()
            self._store.tell(attendance.leave_command(connection.user_id, now_ms()))

    def befriended(self, user_id: int, friend_id: int) -> None:
        """Take that two have become friends: what was told of each until now was told to others."""
        self._new_friends.add((user_id, friend_id))

    def _turn_for_ever(self) -> None:
        renewed_at = looked_at = time.monotonic()
        while True:
            gevent.sleep(_TURN_SECONDS)
            now = time.monotonic()
            try:
                if now - renewed_at > _RENEW_SECONDS:
                    renewed_at = now
                    self._renew()
                if now - looked_at > _OVERDUE_SECONDS:
                    looked_at = now
                    self._find_overdue()
                self._turn()
            except ModelError as error:
                log.warning("attendance_delayed", error=str(error))
            except Exception:
                log.exception("attendance_failed")

    def _turn(self) -> None:
        """Handle what has changed since the last turn. Raises ModelError: what is left is done in the next."""
        self._announce()
        self._withdraw()
        new, self._new = self._new, []
        waiting: dict[int, list[Connection]] = {}
        for connection in new:
            if connection.transport.is_open:
                waiting.setdefault(connection.user_id, []).append(connection)
        told_at = {user_id: at for user_id, (_, at) in self._changed.items()}
        shown: dict[int, Outgoing] = {}
        try:
            for pairs in _chunks(list(self._new_friends), _USERS_AT_ONCE // 2):
                self._introduce(pairs)
            for some in _chunks(list(self._changed.keys() | waiting.keys()), _USERS_AT_ONCE):
                here = self._find_friends_here(some)
                for user_id in some:
                    for connection in waiting.get(user_id, ()):
                        self._show_friends(connection, here[user_id], told_at, shown)
                        gevent.sleep(0)
                changes = [signal for user_id in some for signal in self._changes(user_id, here[user_id])]
                for signals in _chunks(changes, _SIGNALS_AT_ONCE):
                    self._post.deliver(signals)
                for user_id in some:
                    self._changed.pop(user_id, None)
                    waiting.pop(user_id, None)
        finally:
            self._new += [connection for connections in waiting.values() for connection in connections]

    def _announce(self) -> None:
        """Find who was not online anywhere until he came here."""
        at = now_ms()
        for some in _chunks(list(self._came)):
            answers = self._store.call_all([attendance.announce_command(user_id, at) for user_id in some])
            self._came.difference_update(some)
            self._changed.update((user_id, (True, at)) for user_id, is_new in zip(some, answers, strict=True) if is_new)

    def _withdraw(self) -> None:
        """Find who has no connection anywhere any more."""
        now = time.monotonic()
        long_ago = now - _GONE_SECONDS
        due = [user_id for user_id, since in self._left.items() if since <= long_ago]
        for some in _chunks(due):
            *places, scores = self._store.call_all(
                [*(presence.find_all_command(user_id) for user_id in some), attendance.find_command(some)]
            )
            latest = now_ms() - int((_GONE_SECONDS - _CLOCK_SECONDS) * 1000)
            gone = []
            for user_id, found, score in zip(some, places, scores, strict=True):
                if found:
                    continue
                if attendance.left_after(score, latest):
                    self._left[user_id] = now  # another process had him since he left here
                else:
                    gone.append(user_id)
            # Asked again afterwards: he may have come back in between, to a process that found him announced.
            commands = [
                command
                for user_id in gone
                for command in (attendance.withdraw_command(user_id), presence.find_all_command(user_id))
            ]
            answers = self._store.call_all(commands) if commands else []
            at = now_ms()
            for user_id, was_announced, found in zip(gone, answers[::2], answers[1::2], strict=True):
                if found:
                    self._came.add(user_id)
                elif was_announced:
                    self._changed[user_id] = (False, at)
            for user_id in some:
                if self._left.get(user_id, long_ago + 1) <= long_ago:
                    del self._left[user_id]

    def _introduce(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Tell new friends of each other, where they are here and may know.

        Who has only just come may be announced to his new friend as well, by another process: the same time makes it one.
        """
        user_ids = [user_id for pair in pairs for user_id in pair]
        here, came_at = self._find_friends_here(user_ids), self._find_online(user_ids)
        signals = [
            _presence(to_id, user_id, came_at[user_id], is_online=True)
            for pair in pairs
            for to_id, user_id in (pair, pair[::-1])
            if user_id in here[to_id] and user_id in came_at
        ]
        self._post.deliver(signals)
        self._new_friends.difference_update(pairs)

    def _find_friends_here(self, user_ids: Sequence[int]) -> dict[int, list[int]]:
        """Return of each user the friends who may know of him and are online."""
        friends = offload(self._database, self._load_friends, user_ids)
        online = self._find_online({friend for ids in friends.values() for friend in ids})
        return {user_id: [i for i in friends.get(user_id, ()) if i in online] for user_id in user_ids}

    def _load_friends(self, user_ids: Sequence[int]) -> dict[int, list[int]]:
        with self._database.reading() as connection:
            return acquaintances.load(connection, user_ids)

    def _find_online(self, user_ids: Iterable[int]) -> dict[int, int]:
        """Return of those who are online when that was said last."""
        online: dict[int, int] = {}
        for some in _chunks(list(user_ids)):
            [scores] = self._store.call_all([attendance.find_command(some)])
            found = zip(some, scores, strict=True)
            online.update((user_id, attendance.said_at(score)) for user_id, score in found if score is not None)
        return online

    def _changes(self, user_id: int, friends_here: Sequence[int]) -> Iterator[Outgoing]:
        if user_id in self._changed:
            is_online, at = self._changed[user_id]
            for friend_id in friends_here:
                yield _presence(friend_id, user_id, at, is_online=is_online)

    def _show_friends(
        self,
        connection: Connection,
        friends_here: Sequence[int],
        told_at: dict[int, int],
        shown: dict[int, Outgoing],
    ) -> None:
        """Tell a new socket which friends are here. told_at: when whoever is announced in this turn has come.

        shown: what others were told of them in this turn.
        """
        # Of whom it was told already, another process has announced him meanwhile: that was one coming, not two.
        friends_here = [friend_id for friend_id in friends_here if _mark(friend_id) not in connection.marks]
        for friend_id in friends_here:
            if friend_id not in shown:
                # Who has come in this very turn is announced to this socket as well: the same time makes it one.
                at = told_at.get(friend_id) or now_ms()
                shown[friend_id] = _presence(connection.user_id, friend_id, at, is_online=True)
        self._post.show(connection, *(shown[friend_id] for friend_id in friends_here))

    def _renew(self) -> None:
        """Renew the leases of who is here, but for those who are still to be announced."""
        at = now_ms()
        for some in _chunks([user_id for user_id in self._registry.user_ids() if user_id not in self._came]):
            self._store.call_all([attendance.renew_command(some, at)])

    def _find_overdue(self) -> None:
        """Find whom a process that died has left behind, or a Redis that was away."""
        [overdue] = self._store.call_all([attendance.overdue_command(now_ms(), _PER_TRIP)])
        long_ago = time.monotonic() - 2 * _GONE_SECONDS
        for user_id in map(int, overdue):
            if not self._registry.of_user(user_id):
                self._left.setdefault(user_id, long_ago)


def _presence(to_id: int, user_id: int, at_ms: int, *, is_online: bool) -> Outgoing:
    frame = frames.presence(user_id, at_ms, is_online=is_online)
    return Outgoing("presence", to_id, frame, mark=_mark(user_id), level=at_ms)


def _mark(user_id: int) -> str:
    return f"presence:{user_id}"


def _chunks(items: Sequence[Item], size: int = _PER_TRIP) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
