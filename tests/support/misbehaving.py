"""Clients that misbehave, in a process of their own with little priority: `python -m tests.support.misbehaving KIND JSON`.

Own process and priority, because they share the machine with those whom they are to disturb through the server only: what
they cost the machine itself is not the server's doing. Each kind has a pace, well above its bound. They stop at the end of
stdin and then say in one JSON line what they have done and what came of it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

_NICE = 10
_STALLED_RECEIVE_BUFFER_BYTES = 4_096
ENDS = (OSError, EOFError, asyncio.IncompleteReadError)

Done = Counter[str]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Crowd:
    """Where the server is, who they are, and what they have done."""

    def __init__(self, port: int, tokens: Mapping[str, str]) -> None:
        self.port = port
        self.tokens = list(tokens.items())  # user id, token
        self.done: Done = Counter()

    async def dial(self, *, receive_buffer_bytes: int | None = None) -> Streams:
        """Connect. Raises OSError."""
        raw = socket.socket()
        raw.setblocking(False)
        if receive_buffer_bytes is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        limit = 65_536 if receive_buffer_bytes is None else 2_048
        return await asyncio.open_connection(sock=raw, limit=limit)

    async def shake_hands(self, token: str, v: int = 2, *, receive_buffer_bytes: int | None = None) -> Streams:
        """Connect as a websocket of protocol `v`. Raises what `ENDS` names."""
        reader, writer = await self.dial(receive_buffer_bytes=receive_buffer_bytes)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /ws?v={v}&token={token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        self.done[f"handshake {head.split()[1].decode()}"] += 1
        return reader, writer

    async def close_code(self, reader: asyncio.StreamReader) -> int | None:
        """Read frames until the end; return the code of the close frame, None where there is none."""
        with contextlib.suppress(*ENDS):
            while True:
                first, length = await reader.readexactly(2)
                if length == 126:
                    length = int.from_bytes(await reader.readexactly(2), "big")
                elif length == 127:
                    length = int.from_bytes(await reader.readexactly(8), "big")
                payload = await reader.readexactly(length)
                self.done["frames read"] += 1
                if first == 0x88:
                    return int.from_bytes(payload[:2], "big") if payload else 1005
        return None


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's frame under the mask 0: what a flooder would do to save work."""
    length = len(payload)
    head = (
        bytes([0x80 | opcode, 0x80 | length])
        if length < 126
        else bytes([0x80 | opcode, 0xFE, length >> 8, length & 255])
    )
    return head + bytes(4) + payload


def send_request(token: str, to: str, text: str) -> bytes:
    """Give the bytes of a send over HTTP that wants no verdict."""
    data = json.dumps({"data": text, "dataType": False, "otherData": None})
    body = json.dumps(
        {"sendto_id": to, "chatType": "single", "type": "text", "data": data, "clientMsgId": uuid.uuid4().hex}
    )
    return (
        f"POST /api/chat/socket/sendmessage HTTP/1.1\r\nHost: x\r\ntoken: {token}\r\nPrefer: respond-async\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def read_answer(reader: asyncio.StreamReader) -> int:
    """Read an HTTP answer to its end and return its status. Raises what `ENDS` names."""
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            await reader.readexactly(int(line.partition(b":")[2]))
    return int(head.split()[1])


async def _paced(rate: float, act: Callable[[int], Awaitable[None]]) -> None:
    """Act so many times a second, however long each takes, with 50 under way at most."""
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(50)
    under_way: set[asyncio.Task[None]] = set()

    async def once(number: int) -> None:
        async with gate:
            with contextlib.suppress(*ENDS):
                await act(number)

    began, number = loop.time(), 0
    while True:
        number += 1
        await gate.acquire()
        gate.release()
        task = asyncio.create_task(once(number))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))


# The kinds


async def stalled_readers(crowd: Crowd) -> None:
    """Four who stop reading after the handshake, and come back when they are cut off; their friends write 8 KB each 10 ms."""

    async def stall(token: str) -> None:
        while True:
            with contextlib.suppress(*ENDS):
                _, writer = await crowd.shake_hands(token, receive_buffer_bytes=_STALLED_RECEIVE_BUFFER_BYTES)
                transport: Any = writer.transport
                transport.pause_reading()
                raw = writer.get_extra_info("socket")
                while True:  # its end shows only in the socket's state: we read nothing
                    await asyncio.sleep(0.1)
                    if raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or _state_of(raw) != _ESTABLISHED:
                        break
                crowd.done["cut off"] += 1
                writer.transport.abort()
            await asyncio.sleep(0.2)

    async def write(token: str, to: str) -> None:
        reader, writer = await crowd.dial()
        text = "x" * 8_000

        async def send(_: int) -> None:
            writer.write(send_request(token, to, text))
            crowd.done[f"send {await read_answer(reader)}"] += 1

        while True:
            await send(0)
            await asyncio.sleep(0.04)

    pairs = [(crowd.tokens[n], crowd.tokens[n + 1]) for n in range(0, 8, 2)]
    await asyncio.gather(*(stall(to[1]) for _, to in pairs), *(write(by[1], to[0]) for by, to in pairs))


_ESTABLISHED = 1


def _state_of(raw: socket.socket) -> int:
    return raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


async def frame_floods(crowd: Crowd) -> None:
    """Four who write 1,000 frames at once, are cut off, and come back."""
    frames = {
        "ping": b'{"type":"ping"}',
        "ack": b'{"type":"ack","cursor":1}',
        "typing": b'{"type":"typing"}',
        "none": b"x",
    }

    async def flood(token: str, payload: bytes) -> None:
        while True:
            with contextlib.suppress(*ENDS):
                reader, writer = await crowd.shake_hands(token)
                writer.write(masked(1, payload) * 1_000)
                crowd.done["frames"] += 1_000
                crowd.done[f"closed {await crowd.close_code(reader)}"] += 1
                writer.transport.abort()
            await asyncio.sleep(0.2)

    await asyncio.gather(*(flood(crowd.tokens[n][1], payload) for n, payload in enumerate(frames.values())))


async def send_floods(crowd: Crowd) -> None:
    """One user sends 400 a second over HTTP, four times what he may."""
    (_, token), (to, _) = crowd.tokens[:2]
    idle = [await crowd.dial() for _ in range(50)]

    async def send(_: int) -> None:
        reader, writer = idle.pop() if idle else await crowd.dial()
        writer.write(send_request(token, to, "flood"))
        crowd.done[f"send {await read_answer(reader)}"] += 1
        idle.append((reader, writer))

    await _paced(400, send)


async def connect_floods(crowd: Crowd) -> None:
    """One user connects 200 times a second."""

    async def connect(_: int) -> None:
        reader, writer = await crowd.shake_hands(crowd.tokens[0][1])
        crowd.done[f"closed {await asyncio.wait_for(crowd.close_code(reader), 0.1)}"] += 1
        writer.transport.abort()

    async def connect_briefly(number: int) -> None:
        with contextlib.suppress(TimeoutError):
            await connect(number)

    await _paced(200, connect_briefly)


async def replays(crowd: Crowd) -> None:
    """One user with a full inbox comes again and again, reads all of it and acknowledges nothing."""
    while True:
        with contextlib.suppress(*ENDS, TimeoutError):
            reader, writer = await crowd.shake_hands(crowd.tokens[0][1])
            before = crowd.done["frames read"]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_read_frames(crowd, reader, before + 9_900), 10.0)
            crowd.done["replays"] += 1
            writer.transport.abort()
        await asyncio.sleep(0.2)


async def _read_frames(crowd: Crowd, reader: asyncio.StreamReader, until: int) -> None:
    while crowd.done["frames read"] < until:
        data = await reader.read(65_536)
        if not data:
            return
        crowd.done["frames read"] += data.count(b'"type":"singleChat"')


async def slow_heads(crowd: Crowd) -> None:
    """Two hundred connections that send a byte of a head each second, and come again when they are ended."""

    async def drip() -> None:
        while True:
            with contextlib.suppress(*ENDS):
                reader, writer = await crowd.dial()
                writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
                while not reader.at_eof():
                    writer.write(b"a")
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(1), 1.0)
                crowd.done["ended"] += 1
                writer.transport.abort()
            await asyncio.sleep(0.1)

    await asyncio.gather(*(drip() for _ in range(200)))


async def huge_bodies(crowd: Crowd) -> None:
    """Forty requests a second with bodies of 100 MB: each sends until it is stopped, 1 MB at most."""

    async def post(number: int) -> None:
        reader, writer = await crowd.dial()
        length = b"Transfer-Encoding: chunked" if number % 2 else b"Content-Length: 100000000"
        writer.write(
            b"POST /api/chat/socket/sendmessage HTTP/1.1\r\nHost: x\r\ntoken: %s\r\n"
            b"Content-Type: application/json\r\n%s\r\n\r\n" % (crowd.tokens[0][1].encode(), length)
        )
        part = b" " * 65_536
        with contextlib.suppress(*ENDS):
            for _ in range(16):
                writer.write(b"10000\r\n%s\r\n" % part if number % 2 else part)
                crowd.done["bytes"] += len(part)
                await writer.drain()
        with contextlib.suppress(*ENDS):
            crowd.done[f"answer {await read_answer(reader)}"] += 1
        writer.transport.abort()

    await _paced(40, post)


async def strangers(crowd: Crowd) -> None:
    """A hundred websocket connects a second without a valid token."""

    async def connect(number: int) -> None:
        reader, writer = await crowd.shake_hands("" if number % 2 else crowd.tokens[0][1][:-8] + "AAAAAAAA")
        crowd.done[f"closed {await crowd.close_code(reader)}"] += 1
        writer.transport.abort()

    await _paced(100, connect)


KINDS = {
    kind.__name__: kind
    for kind in (
        stalled_readers,
        frame_floods,
        send_floods,
        connect_floods,
        replays,
        slow_heads,
        huge_bodies,
        strangers,
    )
}


async def _main(kind: str, port: int, tokens: Mapping[str, str]) -> Done:
    crowd = Crowd(port, tokens)
    working = asyncio.create_task(KINDS[kind](crowd))
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await asyncio.wait([working, over], return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        crowd.done[f"failed: {working.exception()!r}"] += 1
    working.cancel()
    return crowd.done


# The other side: whoever starts them


class Misbehaving:
    """Starts one kind of misbehaviour with these users' tokens; `done` tells, after the block, what came of it."""

    def __init__(self, kind: str, port: int, tokens: Mapping[int, str]) -> None:
        self._command = [sys.executable, "-m", "tests.support.misbehaving", kind, json.dumps([port, tokens])]
        self.done: Done = Counter()

    def __enter__(self) -> Misbehaving:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            out, _ = self._process.communicate("", timeout=10.0)
            self.done = Counter(json.loads(out or "{}"))
        finally:
            self._process.kill()
            self._process.wait()


if __name__ == "__main__":
    os.nice(_NICE)
    given_port, given_tokens = json.loads(sys.argv[2])
    print(json.dumps(asyncio.run(_main(sys.argv[1], given_port, given_tokens))), flush=True)
    os._exit(0)  # connections under way need no farewell
