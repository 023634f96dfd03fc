"""HTTP and websockets for many clients in one thread: asyncio, whole frames, nothing answered by itself.

Tests of single connections use `tests.support.client`, which has a thread for each; here some hundred clients share a core
with the system they load.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Mapping
from typing import Any

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
_READ_BYTES = 65_536
_CONNECT_SECONDS = 5.0
_SLOW_BUFFER_BYTES = 4_096

Address = tuple[str, int]


class Refused(Exception):
    """The server did not answer the upgrade with 101."""


async def _connect(
    address: Address, receive_buffer_bytes: int | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        raw.setblocking(False)
        if receive_buffer_bytes is not None:  # before connecting: the window is agreed in the handshake
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await asyncio.get_running_loop().sock_connect(raw, address)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        limit = _READ_BYTES if receive_buffer_bytes is None else receive_buffer_bytes
        return await asyncio.open_connection(sock=raw, limit=limit)
    except BaseException:
        raw.close()
        raise


class Socket:
    """One websocket connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()

    @classmethod
    async def connect(cls, address: Address, path: str, *, is_slow: bool = False) -> Socket:
        """Raises OSError: nobody there, or no answer in time. Raises Refused."""
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await _connect(address, _SLOW_BUFFER_BYTES if is_slow else None)
            try:
                key = base64.b64encode(os.urandom(16)).decode()
                writer.write(
                    f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nUpgrade: websocket\r\n"
                    f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
                )
                head = await reader.readuntil(b"\r\n\r\n")
                if b" 101 " not in head.partition(b"\r\n")[0]:
                    raise Refused(head.partition(b"\r\n")[0].decode(errors="replace"))
            except asyncio.IncompleteReadError as error:
                writer.transport.abort()
                raise ConnectionResetError("the connection ended during the handshake") from error
            except BaseException:
                writer.transport.abort()
                raise
        return cls(reader, writer)

    async def read(self, idle_seconds: float) -> list[tuple[int, bytes]]:
        """Return the frames that one read brought, at least one. Raises EOFError: the end. Raises TimeoutError: silence."""
        while True:
            frames = self._take_frames()
            if frames:
                return frames
            async with asyncio.timeout(idle_seconds):
                try:
                    data = await self._reader.read(_READ_BYTES)
                except OSError as error:
                    raise EOFError from error
            if not data:
                raise EOFError
            self._buffer += data

    def _take_frames(self) -> list[tuple[int, bytes]]:
        buffer, frames, start = self._buffer, [], 0
        while len(buffer) - start >= 2:
            if buffer[start] & 0xF0 != 0x80 or buffer[start + 1] & 0x80:
                raise EOFError(f"frame forbidden by RFC 6455, first bytes {bytes(buffer[start : start + 2])!r}")
            length, head = buffer[start + 1], 2
            if length >= 126:
                head = 4 if length == 126 else 10
                if len(buffer) - start < head:
                    break
                length = int.from_bytes(buffer[start + 2 : start + head], "big")
            end = start + head + length
            if len(buffer) < end:
                break
            frames.append((buffer[start] & 0x0F, bytes(buffer[start + head : end])))
            start = end
        del buffer[:start]
        return frames

    def write(self, opcode: int, payload: bytes) -> None:
        """Write one masked frame. Nothing happens where the connection has ended: the reader tells how."""
        length = len(payload)
        if length < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | length)
        else:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, length)
        # A mask of zeros is a mask (RFC 6455 section 5.3 wants it unpredictable for proxies that we do not have).
        self._writer.write(head + b"\0\0\0\0" + payload)

    def write_json(self, data: Mapping[str, Any]) -> None:
        """Write a text frame."""
        self.write(TEXT, json.dumps(data, ensure_ascii=False).encode())

    def drop(self) -> None:
        """Vanish without a close frame."""
        self._writer.transport.abort()


class Http:
    """The HTTP API with one user's token over one connection, opened anew where it ended."""

    def __init__(self, address: Address, token: str) -> None:
        self._address = address
        self._token = token
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        is_async: bool = False,
        timeout: float = 8.0,
    ) -> tuple[int, dict[str, Any]]:
        """Return status and decoded JSON. Raises OSError: no answer came, and what became of the request is unknown."""
        try:
            async with asyncio.timeout(timeout):
                return await self._call(method, path, body, is_async)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise ConnectionError(repr(error)) from error
        except BaseException:
            self.close()  # a late answer must not be taken for that of the next request
            raise

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, is_async: bool
    ) -> tuple[int, dict[str, Any]]:
        if self._open is None:
            self._open = await _connect(self._address, None)
        reader, writer = self._open
        payload = b"" if body is None else json.dumps(body, ensure_ascii=False).encode()
        prefer = "Prefer: respond-async\r\n" if is_async else ""
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self._address[0]}\r\ntoken: {self._token}\r\n{prefer}"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        writer.write(head.encode() + payload)
        answer = await reader.readuntil(b"\r\n\r\n")
        status = int(answer[9:12])
        headers = answer.lower()
        _, _, after = headers.partition(b"content-length:")
        text = await reader.readexactly(int(after.split(b"\r\n")[0])) if after else b"{}"
        if b"connection: close" in headers:
            self.close()
        with contextlib.suppress(json.JSONDecodeError):
            decoded = json.loads(text)
            if isinstance(decoded, dict):
                return status, decoded
        return status, {}

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._open is not None:
            self._open[1].transport.abort()
            self._open = None


async def ticks(seconds: float) -> AsyncIterator[float]:
    """Yield the time at a steady pace, never twice to catch up."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        yield due
        due = max(due + seconds, loop.time())
        await asyncio.sleep(max(0.0, due - loop.time()))
