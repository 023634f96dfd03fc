"""The only file that writes to or reads from an established websocket. No greenlet per socket: two event watchers.

Reading: the hub calls us when bytes are there. Writing: straight to the socket while it takes everything, else the rest
waits in a bounded buffer that the hub empties. So frames are whole and in order without a lock, and an idle socket costs
about 3 KB where a greenlet costs 20 (decision 0003). Callbacks run in the hub and must never block.
"""

from __future__ import annotations

import _socket
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
import structlog

log = structlog.get_logger()

_READ_BYTES = 65_536
_REPLAY_UNSENT_BYTES = 262_144
_LINGER_SECONDS = 1.0  # for the peer to answer our close
_UNSENT_LINGER_SECONDS = 30.0  # for a peer that is slow to read what says why
_READ, _WRITE = 1, 2  # gevent's event masks


class Transport:
    """A connected TCP socket, ours from now on. `on_bytes(data)` gets what arrives, `on_closed()` is called once: as soon as
    nothing more is heard or said, though last bytes may still be on their way.

    handshake: what is still to be written before anything else; it goes out with the first write, or alone before the end
    """

    __slots__ = (
        "_handshake",
        "_max_unsent_bytes",
        "_on_bytes",
        "_on_closed",
        "_reader",
        "_socket",
        "_unsent",
        "_writer",
        "is_closing",
        "unsent_bytes",
    )

    def __init__(self, fileno: int, max_unsent_bytes: int, handshake: bytes = b"") -> None:
        self._socket: _socket.socket | None = _socket.socket(fileno=fileno)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._max_unsent_bytes = max_unsent_bytes
        self._handshake = handshake
        self._unsent: deque[bytes] = deque()  # whole writes, but for the first, which may be partly sent
        self.unsent_bytes = 0
        self._writer: Any = None
        self._reader: Any = None
        self._on_bytes: Callable[[bytes], None] | None = None
        self._on_closed: Callable[[], None] | None = None
        self.is_closing = False

    @classmethod
    def of(cls, handed_over: Any, max_unsent_bytes: int, handshake: bytes = b"") -> Transport:
        """Take a socket over from the web server, which will close its own descriptor of it."""
        return cls(os.dup(handed_over.fileno()), max_unsent_bytes, handshake)

    def start(self, on_bytes: Callable[[bytes], None], on_closed: Callable[[], None]) -> None:
        if self._socket is None:
            on_closed()
            return
        self._on_bytes, self._on_closed = on_bytes, on_closed
        self._reader = gevent.get_hub().loop.io(self._socket.fileno(), _READ)
        self._reader.start(self._read)

    @property
    def is_open(self) -> bool:
        return self._socket is not None and not self.is_closing

    @property
    def replay_unsent_bytes(self) -> int:
        """Above so many unsent bytes a replay pauses, so that it never fills the buffer by itself; 0 where it is small."""
        return max(0, min(_REPLAY_UNSENT_BYTES, self._max_unsent_bytes - _REPLAY_UNSENT_BYTES))

    def write(self, data: bytes) -> bool:
        """Send bytes, or queue what the socket does not take. False: closed, or its buffer is full and nothing was queued."""
        if self._socket is None or self.is_closing:
            return False
        if self._handshake:
            data, self._handshake = self._handshake + data, b""
        if not self._unsent:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.abort()
                return False
            if sent == len(data):
                return True
            data = data[sent:]
        elif self.unsent_bytes + len(data) > self._max_unsent_bytes:
            return False
        self._queue(data)
        return True

    def finish(self, last: bytes) -> None:
        """Send `last` (a close frame) and close, soon or once the peer has read it. What waits is given up, but whole frames."""
        if self._socket is None or self.is_closing:
            return
        while len(self._unsent) > 1:
            self.unsent_bytes -= len(self._unsent.pop())
        if self._unsent:
            self._queue(last)
        else:
            self.write(last)
        self.is_closing = True
        if not self._unsent:
            self._half_close()
        gevent.spawn_later(_UNSENT_LINGER_SECONDS if self._unsent else _LINGER_SECONDS, self.abort)
        self._tell_closed()

    def abort(self) -> None:
        """Drop the connection now, without a close frame: the legacy client returns only then (ORIG 2.8)."""
        if self._socket is None:
            return
        for watcher in (self._reader, self._writer):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._reader = self._writer = None
        if self._handshake:
            with suppress(OSError):
                self._socket.send(self._handshake)
        self._socket.close()
        self._socket = None
        self._unsent.clear()
        self.unsent_bytes = 0
        self._tell_closed()

    def _tell_closed(self) -> None:
        on_closed, self._on_bytes, self._on_closed = self._on_closed, None, None
        if on_closed is not None:
            try:
                on_closed()
            except Exception:
                log.exception("socket_callback_failed")

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.abort()
            return
        if self.is_closing or self._on_bytes is None:
            return
        try:
            self._on_bytes(data)
        except Exception:
            # A bug in one connection's handling must not reach the hub, which serves all the others.
            log.exception("socket_callback_failed")
            self.abort()

    def _queue(self, data: bytes) -> None:
        self._unsent.append(data)
        self.unsent_bytes += len(data)
        if self._writer is None and self._socket is not None:
            self._writer = gevent.get_hub().loop.io(self._socket.fileno(), _WRITE)
            self._writer.start(self._flush)

    def _flush(self) -> None:
        if self._socket is None:
            return
        first = self._unsent[0]
        try:
            sent = self._socket.send(first)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        self.unsent_bytes -= sent
        if sent < len(first):
            self._unsent[0] = first[sent:]
            return
        self._unsent.popleft()
        if not self._unsent:
            self._writer.stop()
            self._writer.close()
            self._writer = None
            if self.is_closing:
                self._half_close()
                gevent.spawn_later(_LINGER_SECONDS, self.abort)

    def _half_close(self) -> None:
        """End our side, so that the peer reads our last frame before the end, even if bytes of his are unread."""
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.abort()
