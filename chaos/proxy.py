"""A proxy that misbehaves on command, between clients and us or between us and what we depend on. A process of its own.

Each route forwards TCP or a unix socket, and can be told to delay, to hold everything back, to cut every connection and
refuse new ones, to reset some, or to leave some half open. The route of the embedded Redis takes the place of Redis's own
socket file, and takes it again whenever Redis has bound it anew. Commands and answers are JSON lines on stdin and stdout.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_READ_BYTES = 65_536
_SEARCH_SECONDS = 0.0005  # while Redis's own socket may appear at any moment
_WATCH_SECONDS = 0.02
_DIE_WITH_SECONDS = 5.0

# What connected to Redis itself before we had taken its place has to come again, through us.
_DROP_CLIENTS = b"CLIENT KILL TYPE normal SKIPME yes\r\nCLIENT KILL TYPE pubsub SKIPME yes\r\n"

Address = tuple[str, int] | str  # host and port, or a path


class _Link:
    """One connection through a route: the client's side and the upstream side."""

    def __init__(self, route: _Route, client: asyncio.StreamWriter) -> None:
        self.route = route
        self.client = client
        self.upstream: asyncio.StreamWriter | None = None
        self.is_half_open = False
        self.has_swallowed = False

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        route = self.route
        while data := await reader.read(_READ_BYTES):
            if not route.is_open.is_set():
                self.has_swallowed = True
                await route.is_open.wait()
            if route.delay_seconds:
                await asyncio.sleep(route.delay_seconds)
            if not self.is_half_open:
                writer.write(data)
                await writer.drain()

    def reset(self) -> None:
        """End both sides with a TCP reset, where it is TCP."""
        for writer in (self.client, self.upstream):
            if writer is None:
                continue
            with contextlib.suppress(OSError):
                raw = writer.get_extra_info("socket")
                if raw is not None and raw.family != socket.AF_UNIX:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class _Route:
    def __init__(self, name: str, listen: Address, upstream: Address) -> None:
        self.name = name
        self.listen = listen
        self.upstream = upstream
        self.delay_seconds = 0.0
        self.is_open = asyncio.Event()  # unset: everything is held back
        self.is_open.set()
        self.is_cut = False
        self.links: set[_Link] = set()
        self.is_place_taken = False
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        if isinstance(self.listen, str):
            # Bound under a name of ours, and linked to the name that clients know: links can be renewed at any time.
            self._server = await asyncio.start_unix_server(self._serve, self._own_path, backlog=512)
            _watchers.add(asyncio.create_task(self._keep_place()))
        else:
            await self._listen_tcp()

    async def _listen_tcp(self) -> None:
        assert not isinstance(self.listen, str)
        host, port = self.listen
        self._server = await asyncio.start_server(self._serve, host, port, backlog=512, reuse_address=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self, writer)
        if self.is_cut:
            link.reset()
            return
        self.links.add(link)
        try:
            await self.is_open.wait()
            if isinstance(self.upstream, str):
                up_reader, up_writer = await asyncio.open_unix_connection(self.upstream)
            else:
                up_reader, up_writer = await asyncio.open_connection(*self.upstream)
            link.upstream = up_writer
            pumps = [
                asyncio.create_task(link.pump(reader, up_writer)),
                asyncio.create_task(link.pump(up_reader, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if link.is_half_open:  # whoever is left still believes in the connection, until he gives up himself
                await asyncio.wait(pumps)
            for pump in pumps:
                pump.cancel()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await pump
        except OSError:
            pass  # nobody there: the client is told by the end of its connection
        finally:
            self.links.discard(link)
            for side in (writer, link.upstream):
                if side is not None:
                    side.close()

    # The place of Redis's socket

    @property
    def _own_path(self) -> str:
        return f"{self.listen}.proxy"

    async def _keep_place(self) -> None:
        place, real = str(self.listen), str(self.upstream)
        own = os.stat(self._own_path).st_ino
        while True:
            try:
                found = os.stat(place).st_ino
            except OSError:
                found = None
            if found is not None and found != own:
                with contextlib.suppress(OSError):
                    _link_over(place, real)
                    if self.is_cut:
                        os.unlink(place)
                    else:
                        _link_over(self._own_path, place)
                    self.is_place_taken = True
                    await self._drop_bypassing(real)
            if found is None and self.is_place_taken and not self.is_cut and not self._is_redis_away():
                with contextlib.suppress(OSError):
                    _link_over(self._own_path, place)
            await asyncio.sleep(_WATCH_SECONDS if found == own and not self._is_redis_away() else _SEARCH_SECONDS)

    def _is_redis_away(self) -> bool:
        if any(link.upstream is not None for link in self.links):
            return False  # its end would have ended them
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.setblocking(False)
                probe.connect(str(self.upstream))
        except BlockingIOError:
            return False  # its backlog is full: it is there, and stopped
        except OSError:
            return True
        return False

    async def _drop_bypassing(self, real: str) -> None:
        try:
            _, writer = await asyncio.open_unix_connection(real)
            writer.write(_DROP_CLIENTS)
            await asyncio.sleep(0.01)
            writer.close()
        except OSError:
            pass  # gone again already

    # Misbehaviour

    async def cut(self) -> int:
        self.is_cut = True
        if isinstance(self.listen, str):
            with contextlib.suppress(OSError):
                os.unlink(self.listen)
        elif self._server is not None:
            self._server.close()
        return self.reset_some(1.0, 0)

    async def mend(self) -> int:
        """Behave again. What was held back is delivered."""
        self.delay_seconds = 0.0
        self.is_open.set()
        if self.is_cut:
            self.is_cut = False
            if isinstance(self.listen, str):
                if self.is_place_taken:
                    _link_over(self._own_path, self.listen)
            else:
                await self._listen_tcp()
        return 0

    async def lose(self) -> int:
        """Behave again, and end the connections of which something was held back: those bytes are gone."""
        swallowed = [link for link in self.links if link.has_swallowed]
        for link in swallowed:
            link.reset()
        await self.mend()
        return len(swallowed)

    def hold(self) -> int:
        for link in self.links:
            link.has_swallowed = False
        self.is_open.clear()
        return len(self.links)

    def reset_some(self, share: float, seed: int) -> int:
        chosen = self._some(share, seed)
        for link in chosen:
            link.reset()
        return len(chosen)

    def half_open_some(self, share: float, seed: int) -> int:
        chosen = self._some(share, seed)
        for link in chosen:
            link.is_half_open = True
        return len(chosen)

    def _some(self, share: float, seed: int) -> list[_Link]:
        chance = random.Random(seed)
        return [link for link in list(self.links) if chance.random() < share]


_watchers: set[asyncio.Task[None]] = set()


def _link_over(source: str, target: str) -> None:
    """Give a socket file a second name in place of whatever has that name, in one step."""
    temporary = f"{target}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.link(source, temporary)
    os.rename(temporary, target)


async def _obey(routes: dict[str, _Route], command: dict[str, Any]) -> int:
    route = routes[command["route"]]
    match command["do"]:
        case "delay":
            route.delay_seconds = float(command["seconds"])
            return len(route.links)
        case "cut":
            return await route.cut()
        case "hold":
            return route.hold()
        case "mend":
            return await route.mend()
        case "lose":
            return await route.lose()
        case "reset":
            return route.reset_some(command["share"], command["seed"])
        case "half_open":
            return route.half_open_some(command["share"], command["seed"])
        case "taken":
            return int(route.is_place_taken)
        case other:
            raise ValueError(f"no such command: {other}")


def _address(value: Any) -> Address:
    return value if isinstance(value, str) else (str(value[0]), int(value[1]))


async def _main(described: list[dict[str, Any]]) -> None:
    routes = {row["name"]: _Route(row["name"], _address(row["listen"]), _address(row["upstream"])) for row in described}
    for route in routes.values():
        await route.start()
    print(json.dumps({"ok": True}), flush=True)
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        answer: dict[str, Any]
        try:
            answer = {"ok": True, "count": await _obey(routes, json.loads(line))}
        except Exception as error:  # whatever it was, whoever asked waits for an answer
            answer = {"ok": False, "error": repr(error)}
        print(json.dumps(answer), flush=True)
    os._exit(0)  # whoever gave the commands is gone: nothing of ours is worth an orderly end


# The other side: whoever gives the commands


@dataclass(frozen=True, slots=True)
class Route:
    """One way through the proxy. name: clients, redis, sql, broker."""

    name: str
    listen: Address
    upstream: Address


class ProxyFailed(Exception):
    """The proxy did not start, or refused a command."""


Command = Literal["delay", "cut", "hold", "mend", "lose", "reset", "half_open", "taken"]


class Proxy:
    """A running proxy process. As a context manager it ends with the block. Thread-safe."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = {route.name: route for route in routes}
        self._lock = threading.Lock()
        described = json.dumps([{"name": r.name, "listen": r.listen, "upstream": r.upstream} for r in routes])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.proxy", described],
            cwd=Path(__file__).resolve().parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; it ends when its stdin does
        )
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ProxyFailed(f"the proxy ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise ProxyFailed(answer["error"])
        return answer

    def tell(self, route: str, command: Command, **arguments: float) -> int:
        """Have a route misbehave, or behave again (`mend`); return how many connections it concerned. Raises ProxyFailed."""
        assert self._process.stdin is not None
        with self._lock:
            given: dict[str, str | float] = {"route": route, "do": command, **arguments}
            self._process.stdin.write(json.dumps(given) + "\n")
            self._process.stdin.flush()
            return int(self._answer().get("count", 0))

    def stop(self) -> None:
        """End the process and all connections through it."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(_DIE_WITH_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(json.loads(sys.argv[1])))
