"""One websocket session: what it has been written, what it has acknowledged, and the one loop that keeps it contiguous.

A connection writes only the entry after the last it wrote: what is not above is dropped, a gap is first read from the
inbox. Connecting, replaying, going live and resubscribing are this one rule (architecture section 2, step 4).
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable
from typing import Any, Protocol

import gevent
import structlog

from models.errors import ModelError
from models.store.counters import Rate
from models.store.inbox import Page
from schemas import frames
from webapp.counts import counts
from webapp.sockets.closing import CloseCode
from webapp.sockets.noted import Unacknowledged
from webapp.sockets.transport import Transport
from webapp.sockets.wire import FrameReader, Opcode, ProtocolError, close_code, encode_close, encode_frame

log = structlog.get_logger()

_PAGE_ENTRIES = 500
_WRITE_BYTES = 65_536
_SLOW_SECONDS = 10.0  # a peer that takes no byte for so long is cut off
_RETRY_SECONDS = 0.5
_PING_PAUSE_SECONDS = 0.25  # where messages follow each other closely one ping covers many

_HEARTBEAT = encode_frame(frames.HEARTBEAT)


class Office(Protocol):
    """What a connection needs from its process."""

    def read_inbox(self, connection: Connection, most: int) -> Page: ...

    def acknowledge(self, connection: Connection) -> None: ...

    def ping_later(self, connection: Connection) -> None: ...

    def receive(self, connection: Connection, payload: bytes) -> None: ...

    def closed(self, connection: Connection) -> None: ...


class Connection:
    """A socket of one device of one user. Lives in the hub's callbacks; only `catch_up` runs in a greenlet and may wait."""

    __slots__ = (
        "_frame_rate",
        "_frames",
        "_frames_left",
        "_frames_until",
        "_is_reading",
        "_missed_pongs",
        "_newest",
        "_nonce",
        "_office",
        "_ping_cursor",
        "_ping_due",
        "_replayed_to",
        "_settled",
        "acknowledged",
        "device",
        "epoch",
        "expires_at",
        "is_live",
        "language",
        "marks",
        "name",
        "number",
        "protocol",
        "refs",
        "role",
        "session_id",
        "tell_at",
        "transport",
        "unacknowledged",
        "user_id",
        "waits",
        "written",
    )

    def __init__(
        self,
        office: Office,
        transport: Transport,
        *,
        number: int,
        name: str,
        user_id: int,
        role: str,
        device: str,
        session_id: str,
        protocol: int,
        frame_max_bytes: int,
        language: str = "zh",
        expires_at: float = math.inf,
        frame_rate: Rate | None = None,
    ) -> None:
        self._office = office
        self.transport = transport
        self.number = number  # unique within the process
        self.name = name  # as presence knows it
        self.user_id = user_id
        self.role = role
        self.device = device
        self.session_id = session_id
        self.language = language  # of the texts it is told, as its handshake asked
        self.expires_at = expires_at  # seconds since 1970, of the newest token that this socket has shown
        self.protocol = protocol
        self.is_live = True  # False: a newer connection of the device gets the messages
        self.epoch = ""
        self.written = 0  # cursor of the last entry written, or passed over because this device is not to see it
        self.acknowledged = 0
        self.tell_at = 0.0  # before then an acknowledgement waits, to be told with those until then (the office's)
        # Message id -> the client's names for the send, one per try of it, until its result is written.
        self.refs: dict[str, list[Any]] = {}
        # Numbers under which the registry waits for their verdicts, each with its message id.
        self.waits: dict[int, str] = {}
        self.unacknowledged = Unacknowledged()  # of what is written, whose messages: for receipts
        self.marks: dict[str, int] = {}  # watermarks this socket was told (webapp/sockets/signals.py)
        self._settled: list[tuple[str, Any, bytes, int, str]] = []  # verdicts that came while the inbox was being read
        self._newest = 0  # newest cursor heard of
        self._replayed_to = 0  # up to this cursor entries are of before this connection
        self._is_reading = True  # until `catch_up` is through: what is published meanwhile is read from the inbox
        self._frames = FrameReader(frame_max_bytes)
        self._frame_rate = frame_rate
        self._frames_left = 0
        self._frames_until = 0.0  # end of the window that `_frames_left` is for
        self._nonce = secrets.token_hex(4).encode()
        self._ping_cursor: int | None = None  # cursor the outstanding ping covers
        self._ping_due = 0.0  # before then another waits, for what is written until then
        self._missed_pongs = 0

    def begin(self, epoch: str, acknowledged: int, start: int, newest: int, greetings: bytes) -> None:
        """Greet the client and start listening to it.

        start: the entry after this cursor is the first it gets; newest: what comes after this one is news, not a replay
        """
        self.epoch, self.acknowledged, self.written, self._replayed_to = epoch, acknowledged, start, newest
        self._write(greetings)
        self.transport.start(self._on_bytes, self._on_closed)

    # Entries

    def deliver(
        self,
        epoch: str,
        cursor: int,
        body: bytes | None = None,
        *,
        own_device: str | None = None,
        message_id: str | None = None,
        frame: bytes | None = None,
    ) -> None:
        """Take the news that the inbox has an entry. Writes it when it is the next one, reads the inbox when it is not.

        body: the Message, None where only its existence is known. frame: the protocol 1 frame, where already encoded.
        own_device, message_id: set where the user sent it himself.
        """
        if not self.is_live:
            return
        if epoch == self.epoch:
            if cursor <= self.written:
                return
            if cursor == self.written + 1 and body is not None and not self._is_reading:
                data = self._entry_bytes(cursor, body, own_device, message_id, frame)
                if not self._write(data + self._ping_bytes()):
                    self.drop_slow()
                return
        self._newest = max(self._newest, cursor) if epoch == self.epoch else self._newest
        self._read_soon()

    def settle(self, message_id: str, ref: Any, body: bytes, cursor: int, epoch: str = "") -> None:
        """Write the result of a send whose entry this socket does not get, or got long ago. Not before the inbox is read.

        epoch: of the inbox that the cursor is of; empty where it is unknown
        """
        if epoch and epoch != self.epoch:
            # The inbox was lost, and nobody may have told us: presence was lost with it. A low cursor of the new one is
            # nothing that was shown here, so the client gets its verdict without, and comes back for the rest.
            if self.take_ref(message_id, ref):
                self.send_text(frames.send_result(ref, message_id, body, 0))
            self._read_soon()
        elif self._is_reading or cursor > self.written:
            # Its cursor must not pass entries that this socket was not told of: they are read first.
            self._settled.append((message_id, ref, body, cursor, epoch))
            self._read_soon()
        elif self.take_ref(message_id, ref):
            # The entry was shown, as the result of another try or in a replay: a second time its cursor would lead back.
            self.send_text(frames.send_result(ref, message_id, body, 0))

    def take_ref(self, message_id: str, ref: Any) -> bool:
        """Count a send as answered. False: it was already."""
        waiting = self.refs.get(message_id, [])
        if ref not in waiting:
            return False
        waiting.remove(ref)
        if not waiting:
            del self.refs[message_id]
        return True

    def revive(self, acknowledged: int) -> None:
        """Become the live connection of the device again, now that the newer one has gone."""
        self.is_live = True
        self.acknowledged = max(self.acknowledged, acknowledged)
        self.written = max(self.written, acknowledged)
        self._read_soon()

    def catch_up(self) -> None:
        """Write everything the inbox holds after what was written, until there is nothing newer. May wait."""
        try:
            self._catch_up()
        except Exception:
            # Left open it would be deaf: what comes is read, and nobody would read any more.
            log.exception("inbox_reading_failed", user_id=self.user_id)
            self.leave(CloseCode.RESTARTING)

    def _catch_up(self) -> None:
        while not self._is_over():
            if not self._await_room():
                self.drop_slow()
                break
            heard_of = self._newest
            try:
                page = self._office.read_inbox(self, _PAGE_ENTRIES)
            except ModelError as error:
                log.warning("inbox_unreadable", user_id=self.user_id, error=str(error))
                gevent.sleep(_RETRY_SECONDS)
                continue
            if page.epoch != self.epoch:
                # The inbox was lost, and cursors of before mean nothing. On this connection the client could not tell
                # an acknowledgement of old from one of new, nor may it get a message twice: it has to come back.
                self.leave(CloseCode.RESTARTING)
                break
            if self._is_over():
                break
            if not self._take_page(page):
                self.drop_slow()
                break
            if not page.entries and self._newest == heard_of:
                self._newest = self.written
            if self.written >= max(page.newest, self._newest):
                break
        self._is_reading = False
        settled, self._settled = self._settled, []
        for message_id, ref, body, cursor, epoch in settled:
            self.settle(message_id, ref, body, cursor if cursor <= self.written else 0, epoch)

    @property
    def is_greeted(self) -> bool:
        """Whether the client has its welcome, before which it may be told nothing."""
        return bool(self.epoch)

    def _is_over(self) -> bool:
        """Return whether this socket is to be written nothing more, as may have come about while it waited."""
        return not (self.transport.is_open and self.is_live)

    def _read_soon(self) -> None:
        if not self._is_reading:
            self._is_reading = True
            gevent.spawn(self.catch_up)

    def _take_page(self, page: Page) -> bool:
        """Write a page, waiting where the peer is slower than we are. False: it took nothing for too long."""
        data = b""
        if page.first > self.written + 1:
            counts.bounds["INBOX_MAX_ENTRIES"] += 1
            if self.protocol == 2:
                data = encode_frame(frames.reset(self.epoch, self.written + 1, page.first - 1))
            self.written = page.first - 1
        for cursor, entry in enumerate(page.entries, page.first):
            if entry is None:
                self.written = cursor
                if self.protocol == 2:
                    data += encode_frame(frames.reset(self.epoch, cursor, cursor))
                continue
            data += self._entry_bytes(cursor, entry.body, entry.own_device, entry.message_id)
            if len(data) > _WRITE_BYTES:
                # What the outbox does not take would be a gap that nobody sees: rather come back for it.
                if not self._write(data) or not self._await_room():
                    return not self.transport.is_open
                data = b""
        return self._write(data + self._ping_bytes()) or not self.transport.is_open

    def _entry_bytes(
        self,
        cursor: int,
        body: bytes,
        own_device: str | None,
        message_id: str | None,
        frame: bytes | None = None,
    ) -> bytes:
        """Give the bytes that show an entry to this device, and count it as written."""
        was_clear = self.acknowledged == self.written
        self.written = cursor
        counts.entries[self.protocol] += 1
        is_mine = own_device is not None and own_device == self.device
        if own_device is None:
            self.unacknowledged.note(cursor, body)
        if self.protocol == 1:
            if is_mine:
                # The legacy client has shown its own message already. Nothing to wait for, so it counts as had.
                if was_clear:
                    self.acknowledged = cursor
                    self._office.acknowledge(self)
                return b""
            return frame or encode_frame(frames.single_chat(body, now_ms()))
        if is_mine and message_id is not None and (cursor > self._replayed_to or message_id in self.refs):
            # The result stands for the entry on the device that sent; replayed later, the message comes as any other.
            ref = self.refs.get(message_id, [None])[0]
            self.take_ref(message_id, ref)
            return encode_frame(frames.send_result(ref, message_id, body, cursor))
        return encode_frame(frames.single_chat_at(body, now_ms(), cursor))

    # Acknowledgements

    def acknowledge(self, cursor: int) -> None:
        """Take a protocol 2 client's word that everything up to `cursor` is safe. Beyond what was written: ignored."""
        if self.acknowledged < cursor <= self.written:
            self.acknowledged = cursor
            if self.protocol == 2:
                # Counted back: two senders at their rate are 200 messages a second, and each may be acknowledged for itself.
                self._frames_left += 1
            self._office.acknowledge(self)

    def _ping_bytes(self) -> bytes:
        """Give a ping that covers what is written, where one is due and none is under way. Protocol 2 needs none."""
        if self._ping_cursor is not None or self.written <= self.acknowledged or self.protocol == 2:
            return b""
        now = time.monotonic()
        if now < self._ping_due:
            self._office.ping_later(self)
            return b""
        self._ping_cursor, self._ping_due = self.written, now + _PING_PAUSE_SECONDS
        return encode_frame(b"%s:%d" % (self._nonce, self.written), Opcode.PING)

    def ping(self) -> None:
        """Send the ping that had to wait."""
        self._write(self._ping_bytes())

    def _on_pong(self, payload: bytes) -> None:
        # Any other pong is somebody's own idea (RFC 6455 allows it) and says nothing about what was read.
        if self._ping_cursor is None or payload != b"%s:%d" % (self._nonce, self._ping_cursor):
            return
        self._missed_pongs = 0
        cursor, self._ping_cursor = self._ping_cursor, None
        if self.protocol == 1:
            self.acknowledge(cursor)
            self.ping()

    def heartbeat(self) -> None:
        """Send the application's ping and a websocket ping; drop a peer that has answered neither of the last two."""
        if self._ping_cursor is not None:
            self._missed_pongs += 1
            if self._missed_pongs >= 2:
                self.leave(CloseCode.TOO_SLOW)
                return
            self._write(_HEARTBEAT)
            return
        self._ping_cursor = self.written
        self._write(_HEARTBEAT + encode_frame(b"%s:%d" % (self._nonce, self.written), Opcode.PING))

    # The socket

    def send_text(self, payload: bytes) -> None:
        if not self._write(encode_frame(payload)):
            self.drop_slow()

    def send_texts(self, payloads: Iterable[bytes]) -> None:
        """Send several frames in one write."""
        if not self._write(b"".join(map(encode_frame, payloads))):
            self.drop_slow()

    def drop_slow(self) -> None:
        if self.transport.is_open:
            counts.bounds["SOCKET_OUTBOX_MAX_BYTES"] += 1
            log.warning("socket_too_slow", user_id=self.user_id, unsent_bytes=self.transport.unsent_bytes)
            self.leave(CloseCode.TOO_SLOW)

    def leave(self, code: int, reason: str = "") -> None:
        """Send the client away so that it comes back: with a code it knows, or by dropping TCP (ORIG 2.8)."""
        if self.transport.is_open:
            counts.closed["dropped" if self.protocol == 1 else str(int(code))] += 1
        if self.protocol == 1:
            self.transport.abort()
        else:
            self.transport.finish(encode_close(code, reason))

    def end(self, code: CloseCode) -> None:
        """Send the client away for good: it must not come back by itself."""
        if self.transport.is_open:
            counts.closed[str(int(code))] += 1
        self.transport.finish(encode_close(code if self.protocol == 2 else CloseCode.NORMAL))

    def _write(self, data: bytes) -> bool:
        return not data or self.transport.write(data)

    def _await_room(self) -> bool:
        """Wait until little is unsent. False: the peer took nothing for too long."""
        since, unsent = time.monotonic(), self.transport.unsent_bytes
        while unsent > self.transport.replay_unsent_bytes:
            gevent.sleep(0.01)
            if self.transport.unsent_bytes < unsent:
                since, unsent = time.monotonic(), self.transport.unsent_bytes
            elif time.monotonic() - since > _SLOW_SECONDS:
                return False
        return True

    def _on_bytes(self, data: bytes) -> None:
        try:
            received = self._frames.feed(data)
        except ProtocolError as error:
            if error.code == CloseCode.FRAME_TOO_LARGE:
                counts.bounds["FRAME_MAX_BYTES"] += 1
            self.leave(error.code, str(error))
            return
        for opcode, payload in received:
            if opcode == Opcode.PONG:
                self._on_pong(payload)
            elif not self._may_say_more():
                counts.bounds["RATE_LIMIT_FRAMES"] += 1
                log.warning("socket_floods", user_id=self.user_id, connection=self.name)
                self.leave(CloseCode.TOO_MANY)
                return
            elif opcode == Opcode.PING:
                self._write(encode_frame(payload, Opcode.PONG))
            elif opcode == Opcode.CLOSE:
                self.transport.finish(encode_close(close_code(payload)))
                return
            else:
                self._office.receive(self, payload)

    def _may_say_more(self) -> bool:
        """Count a frame, in a window that begins with the first frame after the last one's end."""
        if self._frame_rate is None:
            return True
        now = time.monotonic()
        if now >= self._frames_until:
            self._frames_left = self._frame_rate.most
            self._frames_until = now + self._frame_rate.window_ms / 1000
        self._frames_left -= 1
        return self._frames_left >= 0

    def _on_closed(self) -> None:
        self._office.closed(self)

    @property
    def undecided_count(self) -> int:
        """How many sends of this socket have no result yet."""
        return sum(map(len, self.refs.values()))


def now_ms() -> int:
    return time.time_ns() // 1_000_000
