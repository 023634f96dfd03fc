"""One websocket session: what it has been written, what it has acknowledged, and the one loop that keeps it contiguous.

A connection writes only the entry after the last it wrote: what is not above is dropped, a gap is first read from the
inbox. Connecting, replaying, going live and resubscribing are this one rule (architecture section 2, step 4).
"""

from __future__ import annotations

import secrets
import time
from typing import Protocol

import gevent
import orjson
import structlog

from models.errors import ModelError
from models.store.inbox import Page
from webapp.sockets.frames import FrameReader, Opcode, ProtocolError, close_code, encode_close, encode_frame
from webapp.sockets.transport import Transport

log = structlog.get_logger()

_PAGE_ENTRIES = 500
_REPLAY_UNSENT_BYTES = 262_144  # replay pauses above this, so that it never fills the outbox by itself
_SLOW_SECONDS = 10.0  # a peer that takes no byte for so long is cut off
_RETRY_SECONDS = 0.5

_WELCOME = "欢迎您访问我们的系统！"
_HEARTBEAT = encode_frame(b'{"type":"ping"}')


class Office(Protocol):
    """What a connection needs from its process."""

    def read_inbox(self, connection: Connection, most: int) -> Page: ...

    def acknowledge(self, connection: Connection, *, urgent: bool) -> None: ...

    def receive(self, connection: Connection, payload: bytes) -> None: ...

    def closed(self, connection: Connection) -> None: ...


class Connection:
    """A socket of one device of one user. Lives in the hub's callbacks; only `catch_up` runs in a greenlet and may wait."""

    __slots__ = (
        "_frames",
        "_is_reading",
        "_missed_pongs",
        "_newest",
        "_nonce",
        "_office",
        "_ping_cursor",
        "acknowledged",
        "device",
        "epoch",
        "number",
        "protocol",
        "role",
        "session_id",
        "transport",
        "user_id",
        "written",
    )

    def __init__(
        self,
        office: Office,
        transport: Transport,
        *,
        number: int,
        user_id: int,
        role: str,
        device: str,
        session_id: str,
        protocol: int,
        frame_max_bytes: int,
    ) -> None:
        self._office = office
        self.transport = transport
        self.number = number  # unique within the process
        self.user_id = user_id
        self.role = role
        self.device = device
        self.session_id = session_id
        self.protocol = protocol
        self.epoch = ""
        self.written = 0  # cursor of the last entry written, or passed over because this device is not to see it
        self.acknowledged = 0
        self._newest = 0  # newest cursor heard of
        self._is_reading = True  # until `begin`: what is published meanwhile is read from the inbox
        self._frames = FrameReader(frame_max_bytes)
        self._nonce = secrets.token_hex(4).encode()
        self._ping_cursor: int | None = None  # cursor the outstanding ping covers
        self._missed_pongs = 0

    def begin(self, epoch: str, position: int) -> None:
        """Greet the client and start listening to it. `position`: everything up to this cursor is on the device."""
        self.epoch, self.written, self.acknowledged = epoch, position, position
        welcome = {"type": "system", "data": _WELCOME, "timestamp": _now_ms()}
        self._write(encode_frame(orjson.dumps(welcome)))
        self.transport.start(self._on_bytes, self._on_closed)

    # Entries

    def deliver(self, epoch: str, cursor: int, body: bytes | None, *, is_own: bool, frame: bytes | None = None) -> None:
        """Take the news that the inbox has an entry. Writes it when it is the next one, reads the inbox when it is not.

        body: the Message, None where only its existence is known. frame: the protocol 1 frame, where already encoded.
        """
        if epoch == self.epoch:
            if cursor <= self.written:
                return
            if cursor == self.written + 1 and body is not None and not self._is_reading:
                data = self._entry_bytes(cursor, body, is_own=is_own, frame=frame)
                if not self._write(data + self._ping_bytes()):
                    self.drop_slow()
                return
        self._newest = max(self._newest, cursor)
        if not self._is_reading:
            self._is_reading = True
            gevent.spawn(self.catch_up)

    def catch_up(self) -> None:
        """Write everything the inbox holds after what was written, until there is nothing newer. May wait."""
        while self.transport.is_open:
            if not self._await_room():
                self.drop_slow()
                return
            heard_of = self._newest
            try:
                page = self._office.read_inbox(self, _PAGE_ENTRIES)
            except ModelError as error:
                log.warning("inbox_unreadable", user_id=self.user_id, error=str(error))
                gevent.sleep(_RETRY_SECONDS)
                continue
            if self._take_page(page) and self._newest == heard_of and not page.entries:
                self._newest = self.written
            if self.written >= max(page.newest, self._newest):
                self._is_reading = False
                return

    def _take_page(self, page: Page) -> bool:
        """Write a page. False: it belongs to another epoch than ours, so it must be read again from where that begins."""
        if page.epoch != self.epoch:
            # The history was lost and rebuilt: cursors of before mean nothing, the rebuilt tail begins anew.
            self.epoch = page.epoch or ""
            self.written = self.acknowledged = self._newest = page.base
            self._ping_cursor = None
            return False
        if page.first > self.written + 1:
            self.written = page.first - 1
        data = b"".join(
            self._entry_bytes(cursor, entry.body, is_own=entry.own_device is not None)
            for cursor, entry in enumerate(page.entries, page.first)
        )
        self._write(data + self._ping_bytes())
        return True

    def _entry_bytes(self, cursor: int, body: bytes, *, is_own: bool, frame: bytes | None = None) -> bytes:
        """Give the bytes that show an entry to this device, and count it as written."""
        was_clear = self.acknowledged == self.written
        self.written = cursor
        if is_own and self.protocol == 1:
            # The legacy client has shown its own message already. There is nothing to wait for, so it counts as had.
            if was_clear:
                self.acknowledged = cursor
                self._office.acknowledge(self, urgent=False)
            return b""
        return frame or single_chat_frame(body, _now_ms())

    # Acknowledgements

    def _ping_bytes(self) -> bytes:
        """Give a ping that covers what is written, where one is due and none is under way."""
        if self._ping_cursor is not None or self.written <= self.acknowledged:
            return b""
        self._ping_cursor = self.written
        return encode_frame(b"%s:%d" % (self._nonce, self.written), Opcode.PING)

    def _on_pong(self, payload: bytes) -> None:
        # Any other pong is somebody's own idea (RFC 6455 allows it) and says nothing about what was read.
        if self._ping_cursor is None or payload != b"%s:%d" % (self._nonce, self._ping_cursor):
            return
        self._missed_pongs = 0
        cursor, self._ping_cursor = self._ping_cursor, None
        if cursor > self.acknowledged:
            self.acknowledged = cursor
            self._office.acknowledge(self, urgent=True)
        ping = self._ping_bytes()
        if ping:
            self._write(ping)

    def heartbeat(self) -> None:
        """Send the application's ping and a websocket ping; drop a peer that has answered neither of the last two."""
        if self._ping_cursor is not None:
            self._missed_pongs += 1
            if self._missed_pongs >= 2:
                self.transport.abort()
                return
            self._write(_HEARTBEAT)
            return
        self._ping_cursor = self.written
        self._write(_HEARTBEAT + encode_frame(b"%s:%d" % (self._nonce, self.written), Opcode.PING))

    # The socket

    def send_text(self, payload: bytes) -> None:
        if not self._write(encode_frame(payload)):
            self.drop_slow()

    def send_pong(self) -> None:
        self.send_text(b'{"type":"pong","timestamp":%d}' % _now_ms())

    def drop_slow(self) -> None:
        log.warning("socket_too_slow", user_id=self.user_id, unsent_bytes=self.transport.unsent_bytes)
        self.transport.abort()

    def close(self, code: int, reason: str = "") -> None:
        self.transport.finish(encode_close(code, reason))

    def _write(self, data: bytes) -> bool:
        return not data or self.transport.write(data)

    def _await_room(self) -> bool:
        """Wait until little is unsent. False: the peer took nothing for too long."""
        since, unsent = time.monotonic(), self.transport.unsent_bytes
        while unsent > _REPLAY_UNSENT_BYTES:
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
            self.close(error.code, str(error))
            return
        for opcode, payload in received:
            if opcode == Opcode.PONG:
                self._on_pong(payload)
            elif opcode == Opcode.PING:
                self._write(encode_frame(payload, Opcode.PONG))
            elif opcode == Opcode.CLOSE:
                code = close_code(payload)
                self.transport.finish(encode_close(code))
                return
            else:
                self._office.receive(self, payload)

    def _on_closed(self) -> None:
        self._office.closed(self)


def single_chat_frame(body: bytes, timestamp_ms: int) -> bytes:
    """Encode a protocol 1 `singleChat` frame around a Message that is JSON already."""
    return encode_frame(b'{"type":"singleChat","data":%s,"timestamp":%d}' % (body, timestamp_ms))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
