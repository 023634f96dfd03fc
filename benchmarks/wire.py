"""Thousands of connections in one thread, at a few microseconds an event: HTTP/1.1 keep-alive and websockets, client side.

What a load generator spends is taken from what it measures, so there are no tasks or futures here: one poll, then callbacks.
asyncio would cost some 8 µs more for each event, of which a message has four.
"""

from __future__ import annotations

import base64
import heapq
import itertools
import math
import os
import select
import socket
import struct
import time
from collections.abc import Callable

Address = tuple[str, int]
Answered = Callable[[int, bytes], None]

_READ_BYTES = 262_144
_MAX_WAIT_SECONDS = 1.0
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_FINAL = 0x80
_HAS_EPOLL = hasattr(select, "epoll")
_READABLE, _WRITABLE = select.POLLIN, select.POLLOUT  # epoll's have the same values


class Loop:
    """Waits for sockets and clocks, and calls who is concerned."""

    def __init__(self) -> None:
        self._lines: dict[int, Line] = {}
        if _HAS_EPOLL:
            epoll = select.epoll()
            self._registered: select.epoll | select.poll = epoll
            self._poll: Callable[[float], list[tuple[int, int]]] = epoll.poll
        else:
            poll = select.poll()
            self._registered = poll
            self._poll = lambda seconds: poll.poll(math.ceil(1000 * seconds))
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def add(self, file: int, line: Line) -> None:
        """Begin to watch a connection, which is not yet known to take anything."""
        self._lines[file] = line
        self._registered.register(file, _READABLE | _WRITABLE)

    def want_room(self, file: int, *, is_wanted: bool) -> None:
        """Call the line's `flush` when the kernel takes more, or no longer."""
        self._registered.modify(file, _READABLE | _WRITABLE if is_wanted else _READABLE)

    def remove(self, file: int) -> None:
        """Watch it no longer; call it before the file is closed."""
        del self._lines[file]
        self._registered.unregister(file)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call once, not before so many seconds have passed, while `run` runs."""
        heapq.heappush(self._timers, (time.perf_counter() + seconds, next(self._order), call))

    def forget_timers(self) -> None:
        """Drop what is due later: the scenario it belonged to is over."""
        self._timers.clear()

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Serve events for so long, at least once, or until the condition holds; say whether it did.

        The poll counts in whole milliseconds, rounded up: a timer may be that much late.
        """
        poll, timers, lines, clock = self._poll, self._timers, self._lines, time.perf_counter
        end = clock() + seconds
        while True:
            now = clock()
            while timers and timers[0][0] <= now:
                heapq.heappop(timers)[2]()
            if until is not None and until():
                return True
            due = min(end, timers[0][0]) if timers else end
            for file, mask in poll(min(_MAX_WAIT_SECONDS, max(0.0, due - now))):
                line = lines.get(file)
                if line is None:  # dropped by what was called a moment ago
                    continue
                if mask & _WRITABLE:
                    line.flush()
                if mask & ~_WRITABLE:  # an error too: reading tells which
                    line.receive()
            if clock() >= end:
                return until is not None and until()


class Line:
    """One TCP connection that never blocks. Subclasses understand what comes in."""

    def __init__(self, loop: Loop, address: Address) -> None:
        self._loop = loop
        self.is_open = True
        self._unsent = b""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect_ex(address)
        self._file = self._socket.fileno()
        self._is_writing = True  # until the connection stands
        loop.add(self._file, self)

    def write(self, data: bytes) -> None:
        """Send now what the kernel takes, the rest when it can."""
        if self._is_writing:
            self._unsent += data
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.drop()
            return
        if sent < len(data):
            self._unsent = data[sent:]
            self._is_writing = True
            self._loop.want_room(self._file, is_wanted=True)

    def flush(self) -> None:
        """Called by the loop when the kernel takes more."""
        if not self.is_open:
            return
        try:
            if self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self.drop()
            return
        if not self._unsent:
            self._is_writing = False
            self._loop.want_room(self._file, is_wanted=False)

    def receive(self) -> None:
        """Called by the loop when there is something to read."""
        if not self.is_open:
            return
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.take(data)
        else:
            self.drop()

    def take(self, data: bytes) -> None:
        """Understand what came in."""
        raise NotImplementedError

    def ended(self) -> None:
        """Called once, when the connection is gone and was not dropped from here."""

    def drop(self, *, is_wanted: bool = False) -> None:
        """End the connection without ceremony."""
        if not self.is_open:
            return
        self.is_open = False
        self._loop.remove(self._file)
        self._socket.close()
        if not is_wanted:
            self.ended()


class HttpLine(Line):
    """One keep-alive connection, one request at a time. `on_answer` gets status and body; status 0: no answer came."""

    def __init__(self, loop: Loop, address: Address) -> None:
        super().__init__(loop, address)
        self._buffer = b""
        self._end = -1  # of the answer, once its head is known
        self._body_start = 0
        self._on_answer: Answered | None = None

    def ask(self, request: bytes, on_answer: Answered) -> None:
        """Send a whole request."""
        self._on_answer = on_answer
        self.write(request)

    def take(self, data: bytes) -> None:
        """Read until the answer is whole."""
        buffer = self._buffer + data if self._buffer else data
        if self._end < 0:
            head_end = buffer.find(b"\r\n\r\n")
            if head_end < 0:
                self._buffer = buffer
                return
            self._body_start = head_end + 4
            self._end = self._body_start + _content_length(buffer, head_end)
        if len(buffer) < self._end:
            self._buffer = buffer
            return
        status, body = int(buffer[9:12]), buffer[self._body_start : self._end]
        self._buffer, self._end = b"", -1
        on_answer, self._on_answer = self._on_answer, None
        if b"onnection: close\r\n" in buffer[: self._body_start]:
            self.drop(is_wanted=True)
        if on_answer is not None:
            on_answer(status, body)

    def ended(self) -> None:
        """Tell who waits that nothing will come."""
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            on_answer(0, b"")


def _content_length(buffer: bytes, head_end: int) -> int:
    start = buffer.find(b"Content-Length: ", 0, head_end)
    if start < 0:
        start = buffer[:head_end].lower().find(b"content-length: ")
        if start < 0:
            return 0
    return int(buffer[start + 16 : buffer.find(b"\r", start)])


class HttpLines:
    """Connections to the API, opened when all are busy. A request carries its own token, so any will do."""

    def __init__(self, loop: Loop, address: Address) -> None:
        self._loop, self._address = loop, address
        self._free: list[HttpLine] = []
        self._all: list[HttpLine] = []

    def ask(self, request: bytes, on_answer: Answered) -> None:
        """Send a request on a free connection."""
        line = None
        while self._free and (line is None or not line.is_open):
            line = self._free.pop()
        if line is None or not line.is_open:
            line = HttpLine(self._loop, self._address)
            self._all.append(line)
        taken = line

        def answered(status: int, body: bytes) -> None:
            if taken.is_open:
                self._free.append(taken)
            on_answer(status, body)

        taken.ask(request, answered)

    def close(self) -> None:
        """End all."""
        for line in self._all:
            line.drop(is_wanted=True)
        self._all.clear()
        self._free.clear()


class SocketLine(Line):
    """One websocket. Pings are answered, since the pong is protocol 1's acknowledgement.

    on_frame: gets the payload of each text frame
    on_end: gets the reason, once: the answer where the upgrade was refused, the close frame, or nothing
    """

    def __init__(
        self,
        loop: Loop,
        address: Address,
        path: str,
        on_frame: Callable[[bytes], None],
        on_end: Callable[[bytes], None],
    ) -> None:
        super().__init__(loop, address)
        self.on_frame = on_frame
        self._on_end = on_end
        self._buffer = b""
        self._reason = b""
        self.is_upgraded = False
        key = base64.b64encode(os.urandom(16)).decode()
        self.write(
            f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def take(self, data: bytes) -> None:
        """Read the answer to the upgrade, then whole frames."""
        buffer = self._buffer + data if self._buffer else data
        position = 0
        if not self.is_upgraded:
            head_end = buffer.find(b"\r\n\r\n")
            if head_end < 0:
                self._buffer = buffer
                return
            if buffer[9:12] != b"101":
                self._reason = buffer[:300]
                self.drop()
                return
            self.is_upgraded = True
            position = head_end + 4
        end, on_frame = len(buffer), self.on_frame
        while end - position >= 2:
            opcode, length = buffer[position] & 0x0F, buffer[position + 1]
            start = position + 2
            if length == 126:
                if end - start < 2:
                    break
                length = buffer[start] << 8 | buffer[start + 1]
                start += 2
            elif length == 127:
                if end - start < 8:
                    break
                length = int.from_bytes(buffer[start : start + 8], "big")
                start += 8
            if end - start < length:
                break
            position = start + length
            if opcode == _TEXT:
                on_frame(buffer[start:position])
            elif opcode == _PING:
                self.write(frame(buffer[start:position], _PONG))
            elif opcode == _CLOSE:
                self._reason = buffer[start:position]
                self.drop()
                return
        self._buffer = buffer[position:]

    def ended(self) -> None:
        """Tell the owner why."""
        self._on_end(self._reason)

    def send(self, payload: bytes) -> None:
        """Send a text frame."""
        self.write(frame(payload, _TEXT))


def frame(payload: bytes, opcode: int = _TEXT) -> bytes:
    """Encode a client's frame. Its mask is zeros: a server cannot tell, and pays for unmasking all the same."""
    length = len(payload)
    if length < 126:
        return bytes((_FINAL | opcode, 0x80 | length)) + b"\0\0\0\0" + payload
    if length < 65_536:
        return struct.pack("!BBH", _FINAL | opcode, 0x80 | 126, length) + b"\0\0\0\0" + payload
    return struct.pack("!BBQ", _FINAL | opcode, 0x80 | 127, length) + b"\0\0\0\0" + payload


def request(method: str, path: str, address: Address, token: str, body: bytes = b"", more: str = "") -> bytes:
    """Spell a whole request. more: further header lines, each with its line end."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\ntoken: {token}\r\n{more}"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
