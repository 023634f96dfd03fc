"""The office of this process: opens connections, keeps their acknowledgements, heartbeats and presence, closes them.

It brings together what one connection must not know: the store, the database, the other connections and processes.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import gevent
import structlog
from gevent.event import Event

from models import messages
from models.database import Database
from models.errors import DatabaseUnavailable, ModelError, StoreUnavailable
from models.store import bus, chatlog, inbox, presence
from models.store.counters import parse_rate
from models.store.inbox import Entry, Page
from schemas import frames
from settings import Settings
from webapp.auth import Caller
from webapp.counts import counts
from webapp.devices import Devices
from webapp.services import Redis, offload
from webapp.session_ends import Cause
from webapp.sockets.closing import CloseCode
from webapp.sockets.connect_rate import ConnectRate
from webapp.sockets.connection import Connection, now_ms
from webapp.sockets.greetings import greeting_frames
from webapp.sockets.registry import Registry
from webapp.sockets.session_watch import SessionWatch
from webapp.sockets.transport import Transport
from webapp.sockets.wire import encode_frame

log = structlog.get_logger()

_GATHER_SECONDS = 0.05  # in which acknowledgements come together: what writes to Redis has it sync the disk
_TELL_SECONDS = 0.25  # between two that are told of the same connection
_TELL_AGAIN_SECONDS = 1.0  # after Redis has not answered
_PING_SECONDS = 0.25
_CHECKPOINT_SECONDS = 3.0
_PRESENCE_SECONDS = 30.0
_HEARTBEAT_SLICES = 30
_EXPIRY_SECONDS = 1.0
_ORPHANS_SECONDS = 2.0
_RESUMED_ENTRIES = 500
_EAGER_CONNECTS = 8  # of a user in one window of RATE_LIMIT_CONNECTS: as many as he may have by default
_CALM_SECONDS = 1.0  # beyond which his inbox is read so much later
_CONNECT_TRIES = 4  # each of the reasons to try again is met once
_MESSAGES_PER_QUERY = 500
_ENDED_PER_TRIP = 500


@dataclass(frozen=True, slots=True)
class Resume:
    """What a protocol 2 client says it has: everything up to `cursor` of `epoch`."""

    cursor: int
    epoch: str


class ConnectionRefused(Exception):
    """A connection cannot be opened. `code` is one of the catalogue of failures.

    is_passing: it is our moment, not the client, that is wrong, so that one of protocol 1 should come back by itself
    seconds: for how long the same user is refused whatever else is true; 0 where that is not known
    """

    def __init__(self, code: str, *, is_passing: bool = False, seconds: float = 0.0) -> None:
        super().__init__(code)
        self.code = code
        self.is_passing = is_passing
        self.seconds = seconds


class SocketOffice:
    """Implements `connection.Office`."""

    def __init__(
        self,
        settings: Settings,
        process_id: str,
        registry: Registry,
        store: Redis,
        database: Database,
        devices: Devices,
        receive: Callable[[Connection, bytes], None],
    ) -> None:
        self._settings = settings
        self._process_id = process_id
        self._registry = registry
        self._store = store
        self._database = database
        self._devices = devices
        devices.on_new = self._checkpoint_soon
        self.sessions = SessionWatch(registry, store, database, devices, settings.media_url, self._register_again)
        self._frame_rate = parse_rate(settings.rate_limit_frames)
        self._connect_rate = ConnectRate(parse_rate(settings.rate_limit_connects))
        self.receive = receive
        self._acknowledged: set[Connection] = set()  # positions that rose, not yet told to Redis
        self._has_acknowledged = Event()
        self._unpinged: set[Connection] = set()  # have written what no ping covers yet
        self._unchecked: set[int] = set()  # users whose positions rose since the last checkpoint
        self._behind: set[Connection] = set()  # protocol 1, open behind a newer one of their device
        # Processes that did not listen when they were looked at last, for whom each of the two looks for.
        self._silent_ahead: set[str] = set()
        self._silent_beside: set[str] = set()
        # Connections that have ended, by name, until Redis has said that presence has forgotten them: user and device.
        self._ended: dict[str, tuple[int, str]] = {}
        self._beat_slice = 0
        self.is_closing = False
        # Those who follow what becomes of connections, and must not block.
        self.on_open: list[Callable[[Connection], None]] = []
        self.on_closed: list[Callable[[Connection], None]] = []
        self.on_acknowledged: list[Callable[[Connection], None]] = []

    def start(self) -> None:
        for task, seconds in (
            (self._tell_waiting, _GATHER_SECONDS),
            (self._ping_waiting, _PING_SECONDS),
            (self._checkpoint, _CHECKPOINT_SECONDS),
            (self._renew_presence, _PRESENCE_SECONDS),
            (self.sessions.check_all, _PRESENCE_SECONDS),
            (self.sessions.end_expired, _EXPIRY_SECONDS),
            (self._forget_ended, _ORPHANS_SECONDS),
            (self._revive_orphans, _ORPHANS_SECONDS),
        ):
            gevent.spawn(self._repeat, task, seconds)
        beat_seconds = self._settings.heartbeat_seconds / _HEARTBEAT_SLICES
        gevent.spawn(self._repeat, self._beat, beat_seconds)

    # Opening and closing

    def connect(
        self,
        caller: Caller,
        transport: Transport,
        protocol: int,
        resume: Resume | None,
        *,
        wants_notices: bool,
        language: str = "zh",
    ) -> None:
        """Open a connection and write what its device lacks. Returns when it is live.

        Raises ConnectionRefused, ModelError.
        """
        self._check_room(caller.user_id)
        number = self._registry.next_number()
        connection = Connection(
            self,
            transport,
            number=number,
            name=presence.connection_name(self._process_id, number, protocol),
            user_id=caller.user_id,
            role=caller.role,
            device=caller.device,
            session_id=caller.session_id,
            language=language,
            expires_at=caller.expires_at,
            protocol=protocol,
            frame_max_bytes=self._settings.frame_max_bytes,
            frame_rate=self._frame_rate,
        )
        # In the registry first: what is published once presence shows us must find us.
        self._registry.add(connection)
        for other in self._registry.of_user(caller.user_id):
            if other.device == caller.device and other in self._acknowledged:
                self._tell_acknowledged(other)  # before it is read what this one lacks
        try:
            connected = self._register(connection, self._settings.sockets_per_user)
            if connected.former is not None:
                self._order(connection.user_id, connected.former, "replace")
            start, gaps = _starting_point(connected, resume)
            if connected.base > (connected.acknowledged if resume is None else resume.cursor):
                counts.bounds["INBOX_MAX_ENTRIES"] += 1
            opening = self._opening(connection, connected, gaps) + (self._greetings(caller) if wants_notices else b"")
            if resume is not None and not gaps and start > connected.acknowledged:
                self._note_resumed(connection, connected.acknowledged, start)
        except BaseException:
            self.closed(connection)
            raise
        connection.begin(connected.epoch, connected.acknowledged, start, connected.newest, opening)
        self.sessions.expect(connection.expires_at)
        for follow in self.on_open:
            follow(connection)
        if resume is not None and not gaps:
            connection.acknowledge(start)
        if self._connect_rate.count(caller.user_id) > _EAGER_CONNECTS:
            # Each of them would read the whole inbox to him, and be gone before it is through.
            gevent.spawn_later(_CALM_SECONDS, connection.catch_up)
        else:
            connection.catch_up()

    def _check_room(self, user_id: int) -> None:
        """Raises ConnectionRefused: he connects too often, or this process has as many sockets as it may; StoreUnavailable."""
        if self.is_closing:
            raise StoreUnavailable("this process is about to end")
        if not self._connect_rate.admits(user_id):
            counts.bounds["RATE_LIMIT_CONNECTS"] += 1
            raise ConnectionRefused("too_many_connections", is_passing=True, seconds=self._connect_rate.seconds_left)
        if len(self._registry) >= self._settings.web_max_connections:
            counts.bounds["WEB_MAX_CONNECTIONS"] += 1
            raise ConnectionRefused("too_many_connections", is_passing=True)

    def _note_resumed(self, connection: Connection, acknowledged: int, start: int) -> None:
        """Note what an earlier connection has written and this one is to acknowledge, for the receipts of it."""
        command = inbox.read_command(connection.user_id, acknowledged, min(start - acknowledged, _RESUMED_ENTRIES))
        page = inbox.parse_page(self._store.call(command), acknowledged)
        for cursor, entry in enumerate(page.entries, page.first):
            if entry is not None and entry.own_device is None and entry.reference is None:
                connection.unacknowledged.note(cursor, entry.body)

    def _greetings(self, caller: Caller) -> bytes:
        def load() -> list[bytes]:
            with self._database.reading() as connection:
                return greeting_frames(connection, caller.user_id, caller.role, self._settings.media_url)

        try:
            return b"".join(map(encode_frame, offload(self._database, load)))
        except DatabaseUnavailable as error:
            # They come again at the next connect; the messages must not wait for them.
            log.warning("greetings_left_out", user_id=caller.user_id, error=str(error))
            return b""

    def _opening(self, connection: Connection, connected: presence.Connected, gaps: Sequence[tuple[int, int]]) -> bytes:
        greetings = encode_frame(frames.welcome(now_ms()))
        if connection.protocol == 2:
            epoch = connected.epoch
            hello = frames.hello(
                connection=connection.name,
                device=connection.device,
                cursor=connected.newest,
                epoch=epoch,
                heartbeat_seconds=self._settings.heartbeat_seconds,
                frame_max_bytes=self._settings.frame_max_bytes,
            )
            greetings += encode_frame(hello)
            greetings += b"".join(encode_frame(frames.reset(epoch, *gap)) for gap in gaps)
        return greetings

    def _register(self, connection: Connection, most: int = presence.NO_LIMIT) -> presence.Connected:
        """Make the connection the live one of its device. Raises ConnectionRefused: its session is over, or `most` reached."""
        user_id, device = connection.user_id, connection.device
        for _ in range(_CONNECT_TRIES):
            command = presence.connect_command(user_id, device, connection.name, connection.session_id, most=most)
            connected = presence.Connected.parse(self._store.call(command))
            if connected.outcome == "live":
                return connected
            if connected.outcome == "new":
                self._devices.register(user_id, device)
            elif connected.outcome == "full":
                if not self._forget_dead(user_id):
                    counts.bounds["SOCKETS_PER_USER"] += 1
                    raise ConnectionRefused("too_many_connections")
            elif not self.sessions.stands(connection):
                raise ConnectionRefused("token_invalid")
        raise StoreUnavailable("what a connection needs does not stand still")

    def _forget_dead(self, user_id: int) -> bool:
        """Forget the user's connections that processes have left behind which do not listen any more. False: none has."""
        found = presence.parse_connections(self._store.call(presence.find_connections_command(user_id)))
        if not found:
            return True
        silent = self._find_silent(presence.process_of(name) for _, name in found)
        dead = [(device, name) for device, name in found if presence.process_of(name) in silent]
        for device, name in dead:
            self._store.call(presence.disconnect_command(user_id, device, name))
        return bool(dead)

    def _find_silent(self, process_ids: Iterable[str]) -> set[str]:
        """Return which of the processes do not listen: they have died, or subscribe anew at this moment."""
        others = sorted(set(process_ids) - {self._process_id})
        if not others:
            return set()
        return set(others) - bus.parse_listening(self._store.call(bus.listening_command(others)), others)

    def closed(self, connection: Connection) -> None:
        self._registry.remove(connection)
        self._unpinged.discard(connection)
        self._behind.discard(connection)
        if connection in self._acknowledged:
            self._tell_acknowledged(connection)  # what was acknowledged does not come again
        for wait in connection.waits:
            self._registry.close_wait(wait)  # a verdict that was lost would keep it, and this connection, for ever
        user_id, device, name = connection.user_id, connection.device, connection.name
        self._note_ended(name, user_id, device)

        def hand_back(answer: bytes | None) -> None:
            self._ended.pop(name, None)
            if answer:
                gevent.spawn(self._revive_next, user_id, device, answer.decode())

        self._store.tell(presence.disconnect_command(user_id, device, name), hand_back)
        for follow in self.on_closed:
            follow(connection)

    def _note_ended(self, name: str, user_id: int, device: str) -> None:
        while len(self._ended) >= self._settings.web_max_connections:
            del self._ended[next(iter(self._ended))]  # Redis is away for long, and its lease runs out meanwhile
        self._ended[name] = (user_id, device)

    def close_all(self) -> None:
        """Send every client to another process: it comes back by itself."""
        self.is_closing = True
        for connection in self._registry:
            connection.leave(CloseCode.RESTARTING)

    # Orders between processes

    def _order(self, user_id: int, name: str, what: str) -> bool:
        """Tell the process of a connection what to do with it. False: that process is gone, the connection with it."""
        order = bus.Order(user_id, presence.number_of(name), what)
        process_id = presence.process_of(name)
        if process_id == self._process_id:
            self.obey(order)
            return True
        return bool(self._store.call(bus.publish_command(process_id, bus.Publication(orders=[order]))))

    def _revive_next(self, user_id: int, device: str, name: str) -> None:
        """Make the next connection in line live, forgetting those whose process has died."""
        try:
            while name and not self._order(user_id, name, "revive"):
                name = self._store.call(presence.disconnect_command(user_id, device, name)).decode()
        except StoreUnavailable as error:
            log.warning("revival_failed", user_id=user_id, error=str(error))

    def obey(self, order: bus.Order) -> None:
        connection = self._registry.by_number(order.user_id, order.number)
        if connection is None:
            return
        if order.what == "revive":
            gevent.spawn(self._revive, connection)
        elif order.what != "replace":
            gevent.spawn(self.sessions.end, connection, cast(Cause, order.what))
        elif connection.protocol == 2:
            connection.end(CloseCode.REPLACED)
        else:
            # It logs out on a clean close (ORIG 2.8), so it stays open, and waits behind the newer one.
            connection.is_live = False
            self._behind.add(connection)

    def _revive(self, connection: Connection) -> None:
        """Let an older connection go on, unless a still newer one has come. Presence names it already: nothing is written."""
        try:
            epoch, acknowledged = self._store.call(inbox.position_command(connection.user_id, connection.device))
            live = self._store.call(presence.find_command(connection.user_id, connection.device))
        except ModelError as error:
            log.warning("revival_failed", user_id=connection.user_id, error=str(error))
            connection.leave(CloseCode.RESTARTING)
            return
        if presence.live_connection(live) != connection.name:
            return
        if epoch is not None and epoch.decode() == connection.epoch:
            self._behind.discard(connection)
            connection.revive(int(acknowledged or 0))
        else:
            connection.leave(CloseCode.RESTARTING)

    # What was not heard

    def recover(self) -> None:
        """Make up for what was told while this process did not listen: ends of sessions, and refusals."""
        for task in (self._settle_refused, self.sessions.check_all):
            try:
                task()
            except ModelError as error:
                log.warning("recovery_failed", task=task.__name__, error=str(error))

    def _settle_refused(self) -> None:
        """Answer the sends over sockets that were refused. One that was stored is answered by its inbox entry."""
        waiting = [wait for one in self._registry for wait in one.waits.items()]
        for start in range(0, len(waiting), _MESSAGES_PER_QUERY):
            some = waiting[start : start + _MESSAGES_PER_QUERY]
            rows = offload(self._database, self._load_decisions, [message_id for _, message_id in some])
            for wait, message_id in some:
                row = rows.get(message_id)
                if row is not None and row.verdict == messages.REFUSED:
                    self._registry.settle(bus.Verdict(wait, message_id, row.code, -1, 0), None)

    def _load_decisions(self, message_ids: Sequence[str]) -> dict[str, Any]:
        with self._database.reading() as connection:
            return messages.load_decisions(connection, message_ids)

    def wake(self, user_id: int) -> None:
        """Make every live connection of the user, wherever it is, write what it has not written. Raises StoreUnavailable."""
        epoch, newest = self._store.call(inbox.newest_command(user_id))
        if epoch is None:
            return
        news = bus.Publication(deliveries=[bus.Delivery(user_id, epoch.decode(), int(newest), -1, None, None)])
        for connections in self._store.call(presence.find_all_command(user_id)):
            live = presence.live_connection(connections)
            if live is not None:
                self._store.call(bus.publish_command(presence.process_of(live), news))

    # What connections ask for

    def read_inbox(self, connection: Connection, most: int) -> Page:
        command = inbox.read_command(connection.user_id, connection.written, most)
        page = inbox.parse_page(self._store.call(command), connection.written)
        if page.unreadable:
            log.error("inbox_entries_unreadable", user_id=connection.user_id, count=len(page.unreadable))
            self._store.call(inbox.bury_command(connection.user_id, page.unreadable))
        return self._with_group_bodies(page)

    def _with_group_bodies(self, page: Page) -> Page:
        """Put the bodies in place of references: from the groups' logs, from SQL where those are trimmed."""
        wanted: dict[int, list[int]] = {}
        for entry in page.entries:
            if entry is not None and entry.reference is not None:
                wanted.setdefault(entry.reference[0], []).append(entry.reference[1])
        if not wanted:
            return page
        found: dict[tuple[int, int], bytes] = {}
        for group_id, seqs in wanted.items():
            bodies = self._store.call(chatlog.read_group_command(group_id, seqs))
            found |= {(group_id, seq): body for seq, body in zip(seqs, bodies, strict=True) if body}
            missing = [seq for seq in seqs if (group_id, seq) not in found]
            if missing:
                archived = offload(self._database, self._load_group_bodies, group_id, missing)
                found |= {(group_id, seq): body.encode() for seq, body in archived.items()}
        return replace(page, entries=[_with_body(entry, found) for entry in page.entries])

    def _load_group_bodies(self, group_id: int, seqs: Sequence[int]) -> dict[int, str]:
        with self._database.reading() as connection:
            return messages.load_bodies(connection, f"group:{group_id}", seqs)

    def acknowledge(self, connection: Connection) -> None:
        """Take that a device has more. Redis is told soon, together with what others have acknowledged."""
        for follow in self.on_acknowledged:
            follow(connection)
        self._acknowledged.add(connection)
        self._has_acknowledged.set()

    def ping_later(self, connection: Connection) -> None:
        self._unpinged.add(connection)

    # Housekeeping of this process

    def _tell_waiting(self) -> None:
        """Tell Redis what was acknowledged since the last time; where nothing was, what comes first."""
        self._has_acknowledged.wait()
        now = time.monotonic()
        for connection in list(self._acknowledged):
            if connection.tell_at <= now:
                self._tell_acknowledged(connection)
        if not self._acknowledged:
            self._has_acknowledged.clear()

    def _tell_acknowledged(self, connection: Connection) -> None:
        counts.acknowledgements += 1
        connection.tell_at = time.monotonic() + _TELL_SECONDS
        self._acknowledged.discard(connection)
        self._unchecked.add(connection.user_id)

        def tell_again() -> None:
            connection.tell_at = time.monotonic() + _TELL_AGAIN_SECONDS
            self._acknowledged.add(connection)  # also where it has ended: what was acknowledged does not come again
            self._has_acknowledged.set()

        acknowledged = inbox.acknowledge_command(
            connection.user_id, connection.device, connection.epoch, connection.acknowledged
        )
        self._store.tell(acknowledged, otherwise=tell_again)

    def _ping_waiting(self) -> None:
        waiting, self._unpinged = self._unpinged, set()
        for connection in waiting:
            connection.ping()

    def _checkpoint(self) -> None:
        """Keep in SQL how far devices have acknowledged, for the case that Redis loses its data."""
        users, self._unchecked = list(self._unchecked), set()
        if not users:
            return
        try:
            self._devices.checkpoint(users)
        except (StoreUnavailable, DatabaseUnavailable) as error:
            self._unchecked.update(users)
            log.warning("checkpoint_failed", error=str(error))

    def _checkpoint_soon(self, user_id: int) -> None:
        """That there is a new device must survive the loss of Redis's data."""
        self._unchecked.add(user_id)

    def _forget_ended(self) -> None:
        """Tell Redis once more of connections whose end it has not confirmed: nobody else knows that they are no more."""
        ended = list(self._ended.items())
        for start in range(0, len(ended), _ENDED_PER_TRIP):
            some = ended[start : start + _ENDED_PER_TRIP]
            commands = [presence.disconnect_command(*place, name) for name, place in some]
            for (name, place), answer in zip(some, self._store.call_all(commands), strict=True):
                self._ended.pop(name, None)
                if answer:
                    gevent.spawn(self._revive_next, *place, answer.decode())

    def _revive_orphans(self) -> None:
        """Let connections that stand behind another go on where that one has gone, or its process: nobody will tell them.

        A process that is silent twice in a row is dead: one that subscribes anew is back sooner.
        """
        in_order = sorted(self._behind, key=lambda connection: connection.number)
        waiting = {(connection.user_id, connection.device): connection for connection in in_order}  # the newest of each
        places = self._store.call_all(list(itertools.starmap(presence.find_command, waiting))) if waiting else []
        ahead = [presence.live_connection(place) for place in places]
        silent = self._find_silent(presence.process_of(name) for name in ahead if name)
        dead, self._silent_ahead = silent & self._silent_ahead, silent
        for connection, name in zip(waiting.values(), ahead, strict=True):
            if name is None or name == connection.name:  # it is next already, and whoever was to say so has not
                if name is None:
                    self._register_again(connection)
                self.obey(bus.Order(connection.user_id, connection.number, "revive"))
            elif presence.process_of(name) in dead:
                user_id, device = connection.user_id, connection.device
                following = self._store.call(presence.disconnect_command(user_id, device, name))
                self._revive_next(user_id, device, following.decode())

    def _renew_presence(self) -> None:
        users = self._registry.user_ids()
        if not users:
            return
        answers = self._store.call_all(
            [*presence.renew_commands(users), *map(presence.find_connections_command, users)]
        )
        renewed, found = answers[: len(users)], answers[len(users) :]
        for user_id, is_there in zip(users, renewed, strict=True):
            if not is_there:
                # It ran out while this process was stalled: nobody would publish to these sockets any more.
                for connection in self._registry.of_user(user_id):
                    if connection.is_live and connection.epoch:
                        self._register_again(connection)
        self._forget_left_behind(dict(zip(users, map(presence.parse_connections, found), strict=True)))

    def _forget_left_behind(self, places: Mapping[int, Sequence[tuple[str, str]]]) -> None:
        """Forget what dead processes have left of users who are connected here too: renewed with theirs, it would never end."""
        silent = self._find_silent(presence.process_of(name) for found in places.values() for _, name in found)
        dead, self._silent_beside = silent & self._silent_beside, silent
        for user_id, found in places.items():
            for device, name in found:
                if presence.process_of(name) in dead:
                    self._store.tell(presence.disconnect_command(user_id, device, name))

    def _register_again(self, connection: Connection) -> None:
        try:
            self._register(connection)
        except ConnectionRefused:
            self.sessions.check(connection)
        if self._registry.by_number(connection.user_id, connection.number) is None:
            # It has ended while Redis or SQL was asked, and may have been put there after it was forgotten.
            self._note_ended(connection.name, connection.user_id, connection.device)

    def _beat(self) -> None:
        """Beat a slice of the connections: each once per interval, spread over it, so that 10,000 are not one burst."""
        self._beat_slice = (self._beat_slice + 1) % _HEARTBEAT_SLICES
        for connection in self._registry:
            if connection.number % _HEARTBEAT_SLICES == self._beat_slice:
                connection.heartbeat()

    def _repeat(self, task: Callable[[], None], seconds: float) -> None:
        while True:
            gevent.sleep(seconds * random.uniform(0.8, 1.2))
            try:
                task()
            except ModelError as error:
                log.warning("housekeeping_failed", task=task.__name__, error=str(error))
            except Exception:
                log.exception("housekeeping_failed", task=task.__name__)


def _starting_point(connected: presence.Connected, resume: Resume | None) -> tuple[int, list[tuple[int, int]]]:
    """Return after which cursor a connection reads, and the entries (first, last) it is told that it cannot get."""
    if resume is not None and resume.epoch != connected.epoch:
        start = max(connected.acknowledged, connected.base)
        return start, [(1, start)]
    gaps = []
    cursor = connected.acknowledged if resume is None else resume.cursor
    if cursor > connected.newest:
        gaps.append((connected.newest + 1, cursor))
        cursor = connected.acknowledged
    if connected.base > cursor:
        gaps.append((cursor + 1, connected.base))
    return max(cursor, connected.base), gaps


def _with_body(entry: Entry | None, bodies: dict[tuple[int, int], bytes]) -> Entry | None:
    """Put its body into an entry that refers to one. None: nobody has it."""
    if entry is None or entry.reference is None:
        return entry
    body = bodies.get(entry.reference)
    if body is None:
        log.error("group_message_missing", group_id=entry.reference[0], seq=entry.reference[1])
        return None
    return replace(entry, body=body)
