"""A minimal RFC 6455 client on a plain socket.

It shows every frame as the server wrote it and answers nothing by itself, so a test decides whether a ping gets its pong,
whether anything is read at all, and can tell a close frame from a connection that just ended. Fragmented messages are
refused: Hongyan never sends them.
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import struct
import threading
from dataclasses import dataclass
from enum import IntEnum
from urllib.parse import urlsplit

_ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class Opcode(IntEnum):
    """RFC 6455 section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


@dataclass(frozen=True, slots=True)
class RawFrame:
    """One frame as it stood on the wire."""

    opcode: Opcode
    payload: bytes


class HandshakeRefused(Exception):
    """The server answered the upgrade with something other than 101."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"the upgrade was answered with {status}: {body[:200]}")
        self.status = status
        self.body = body


class StreamCorrupt(Exception):
    """The server wrote bytes that RFC 6455 forbids, such as a masked, fragmented or compressed frame."""


class WebSocket:
    """One connection. One thread reads; any thread writes.

    language: what the handshake asks for in `Accept-Language`, as browsers do
    receive_buffer_bytes: None leaves the system's; a small one makes a reader that stops reading felt soon.
    Raises OSError: nothing listens. Raises HandshakeRefused.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        origin: str | None = None,
        language: str | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        parts = urlsplit(url)
        port = parts.port or {"ws": 80, "wss": 443}[parts.scheme]
        raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if receive_buffer_bytes is not None:  # before connecting: the window is agreed in the handshake
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
            raw.settimeout(timeout)
            raw.connect((parts.hostname or "", port))
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if parts.scheme == "wss":
                raw = ssl.create_default_context().wrap_socket(raw, server_hostname=parts.hostname)
            self._socket = raw
            self._buffer = bytearray()
            self._writing = threading.Lock()
            self._shake_hands(f"{parts.path or '/'}?{parts.query}", f"{parts.hostname}:{port}", origin, language)
            self._socket.settimeout(None)
        except BaseException:
            raw.close()
            raise

    def _shake_hands(self, target: str, host: str, origin: str | None, language: str | None) -> None:
        key = base64.b64encode(os.urandom(16))
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Extensions: permessage-deflate",  # every browser offers it; the server must not take it
            *([f"Origin: {origin}"] if origin is not None else []),
            *([f"Accept-Language: {language}"] if language is not None else []),
        ]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if not self._fill():
                raise ConnectionResetError("the connection ended during the handshake")
        head = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        status = int(head[0].split()[1])
        if status != 101:
            raise HandshakeRefused(status, self._buffer.decode(errors="replace"))
        expected = base64.b64encode(hashlib.sha1(key + _ACCEPT_SUFFIX).digest()).decode()
        if headers.get("sec-websocket-accept") != expected:
            raise StreamCorrupt("wrong Sec-WebSocket-Accept")
        if "sec-websocket-extensions" in headers:
            raise StreamCorrupt(f"extension negotiated: {headers['sec-websocket-extensions']}")

    def _fill(self) -> bool:
        try:
            data = self._socket.recv(65_536)
        except TimeoutError:
            raise
        except OSError:  # reset by the peer, or closed by drop()
            return False
        self._buffer += data
        return bool(data)

    def read(self) -> RawFrame | None:
        """Return the next frame, or None when the connection ended. A frame that was cut off by the end is dropped.

        Raises StreamCorrupt.
        """
        while (frame := self._take_frame()) is None:
            if not self._fill():
                return None
        return frame

    def _take_frame(self) -> RawFrame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        if buffer[0] & 0xF0 != 0x80:
            raise StreamCorrupt(f"fragmented or compressed frame, first byte {buffer[0]:#x}")
        if buffer[1] & 0x80:
            raise StreamCorrupt("masked frame from the server")
        length, start = buffer[1], 2
        if length >= 126:
            start = 4 if length == 126 else 10
            if len(buffer) < start:
                return None
            length = int.from_bytes(buffer[2:start], "big")
        if len(buffer) < start + length:
            return None
        try:
            frame = RawFrame(Opcode(buffer[0] & 0x0F), bytes(buffer[start : start + length]))
        except ValueError as error:
            raise StreamCorrupt(f"unknown opcode {buffer[0] & 0x0F}") from error
        del buffer[: start + length]
        return frame

    def write(self, opcode: Opcode, payload: bytes) -> None:
        """Write one whole masked frame. Raises OSError: the connection ended."""
        mask = os.urandom(4)
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        elif length < 65_536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, length)
        key = (mask * (length // 4 + 1))[:length]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")
        with self._writing:
            self._socket.sendall(head + mask + masked)

    def drop(self, *, abruptly: bool = False) -> None:
        """End the TCP connection without a close frame; abruptly: with a reset, as a vanished peer does."""
        try:
            if abruptly:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # close() alone does not wake a reader that waits in recv.
            self._socket.shutdown(socket.SHUT_RD if abruptly else socket.SHUT_RDWR)
        except OSError:
            pass  # already ended
        self._socket.close()
