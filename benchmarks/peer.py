"""A peer: a chat server that others would have built, on a Redis of its own, measured in the same run by the same generator.

It owns the peer's packages, processes, folder and users; how it is spoken to is socketio.py's affair, and what it does with a
message that of peers/socketio/server.js.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import redis

from benchmarks.bench import Bench, Options, SetUpFailed
from benchmarks.load import HttpRoute, SocketRoute
from benchmarks.socketio import SocketIo
from embedded_redis import EmbeddedRedisError, redis_server_binary
from tests.support.instance import free_ports, wait_until

FOLDER = Path(__file__).resolve().parent / "peers" / "socketio"
_NODE_MODULES = FOLDER / "node_modules"

_INSTALL_SECONDS = 300.0
_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
_REWRITE_SECONDS = 60.0
_SEED_BATCH = 1_000
_WARM_PAIRS, _WARM_SECONDS, _SETTLE_SECONDS = 32, 4.0, 0.5

# Append-only, since a peer that forgets what it acknowledged does other work than ours. Each second is what socket.io's users
# run, and cheaper than our own "always". The file is rewritten between measurements and never within one: the rewriting
# process would not be counted.
_REDIS_OPTIONS = {
    "port": "0",
    "save": "",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "auto-aof-rewrite-percentage": "0",
}


class SocketIoServer:
    """A socket.io server of two processes and its Redis, not started yet. Start, seed, stop, and delete it."""

    def __init__(self) -> None:
        # Directly below /tmp: a Unix socket's path is limited to some hundred bytes.
        self.data_dir = Path(tempfile.mkdtemp(prefix="hy-peer-", dir="/tmp"))
        (self.port,) = free_ports(1)
        self.tokens: dict[int, str] = {}
        self._secret = secrets.token_hex(16)
        self._redis_socket = self.data_dir / "redis.sock"
        self._redis: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None

    # Life

    def start(self) -> None:
        """Install the packages where needed, start everything and wait until it serves. Raises SetUpFailed."""
        install()
        try:
            binary = redis_server_binary()
        except EmbeddedRedisError as error:
            raise SetUpFailed(str(error)) from error
        options = {**_REDIS_OPTIONS, "unixsocket": str(self._redis_socket), "dir": str(self.data_dir)}
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        self._redis = self._spawn("redis", [str(binary), *arguments])
        if not wait_until(self._redis_answers, _START_SECONDS):
            raise SetUpFailed(f"the peer's Redis did not start: {self._tail('redis')}")
        self.start_node()

    def start_node(self) -> None:
        """Start the two processes and wait until both listen. Raises SetUpFailed."""
        (self.data_dir / "node.log").unlink(missing_ok=True)
        self._node = node = self._spawn("node", [_program("node"), str(FOLDER / "server.js")])
        if (
            not wait_until(lambda: "ready\n" in self._log("node") or node.poll() is not None, _START_SECONDS)
            or node.poll()
        ):
            raise SetUpFailed(f"the socket.io peer did not start: {self._tail('node')}")

    def _spawn(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "NODE_ENV": "production",
            "PORT": str(self.port),
            "REDIS_SOCKET": str(self._redis_socket),
            "SECRET": self._secret,
        }
        with (self.data_dir / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.data_dir,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, who then stop it in order
            )

    def _redis_answers(self) -> bool:
        try:
            with self._client() as client:
                return bool(client.ping())
        except SetUpFailed:
            return False

    def stop_node(self) -> None:
        """End the processes that hold sockets, all at once: there is nothing that they must still do."""
        _stop(self._node)
        self._node = None

    def stop(self) -> None:
        """End everything."""
        self.stop_node()
        _stop(self._redis)
        self._redis = None

    def delete(self) -> None:
        """Delete the folder of a stopped server."""
        shutil.rmtree(self.data_dir, ignore_errors=True)

    def processes_by_kind(self) -> dict[str, list[int]]:
        """Return the ids of all its processes: Redis, the two that serve, and the one that hands connections to them.

        Raises SetUpFailed: it has ended.
        """
        found: dict[str, list[int]] = {}
        if self._redis is not None:
            found["redis"] = [self._redis.pid]
        if self._node is not None:
            found["node-primary"] = [self._node.pid]
            try:
                found["node"] = [child.pid for child in psutil.Process(self._node.pid).children()]
            except psutil.NoSuchProcess as error:
                raise SetUpFailed(f"the socket.io peer has ended: {self._tail('node')}") from error
        return found

    def _log(self, name: str) -> str:
        return (self.data_dir / f"{name}.log").read_text(errors="replace")

    def _tail(self, name: str) -> str:
        return self._log(name).strip()[-2_000:]

    # Its data

    @contextmanager
    def _client(self) -> Iterator[redis.Redis]:
        """Open a client of its Redis. Raises SetUpFailed: Redis did not answer, or said no."""
        client = redis.Redis(unix_socket_path=str(self._redis_socket), decode_responses=True, socket_timeout=30.0)
        try:
            with client:
                yield client
        except redis.RedisError as error:
            raise SetUpFailed(f"the peer's Redis: {error}") from error

    def seed(self, users: int) -> None:
        """Forget everything and make users 1..users, friends in pairs; who has a token keeps it. Raises SetUpFailed."""
        with self._client() as client:
            client.flushall()
            for first in range(1, users + 1, _SEED_BATCH):
                with client.pipeline(transaction=False) as pipeline:
                    for user_id in range(first, min(users + 1, first + _SEED_BATCH)):
                        user = _user(user_id)
                        pipeline.hset(f"user:{user_id}", items=[*itertools.chain(*user.items()), "active", 1])
                        pipeline.sadd(f"friends:{user_id}", user_id + 1 if user_id % 2 else user_id - 1)
                        if user_id not in self.tokens:
                            self.tokens[user_id] = self._token(user)
                    pipeline.execute()
            # What was forgotten still stands in the file.
            client.bgrewriteaof()
            if not wait_until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], _REWRITE_SECONDS):
                raise SetUpFailed("the peer's Redis goes on rewriting its file")

    def seed_group(self, group_id: int, members: Sequence[int]) -> None:
        """Make a group. Who is connected hears of it when he connects again. Raises SetUpFailed."""
        with self._client() as client, client.pipeline() as pipeline:
            pipeline.sadd(f"members:{group_id}", *members)
            for user_id in members:
                pipeline.sadd(f"groups:{user_id}", group_id)
            pipeline.execute()

    def _token(self, user: dict[str, str | int]) -> str:
        payload = _base64url(json.dumps(user).encode())
        return f"{payload}.{_base64url(hmac.digest(self._secret.encode(), payload.encode(), hashlib.sha256))}"


class PeerBench(Bench):
    """The peer, as scenarios see it."""

    dialect = SocketIo()

    def __init__(self, server: SocketIoServer, options: Options) -> None:
        super().__init__(server, options)
        self._server = server
        self._is_warm = False

    def prepare(self) -> None:
        """Forget messages and groups of earlier measurements, all of which it keeps; and never begin cold."""
        if not self._is_warm:
            self._warm()
            self._is_warm = True
        self._server.seed(len(self.tokens))
        super().prepare()
        self.quiet()

    def _warm(self) -> None:
        """Let V8 compile what sends run through: in its first seconds a message costs two or three times as much."""
        pairs = self.pairs(_WARM_PAIRS)
        user_ids = [user_id for pair in pairs for user_id in pair]
        group_id = self.group(user_ids)
        with self.load() as load:
            load.connect(user_ids, 2)
            by_socket = [[SocketRoute(load, sender, recipient, (recipient,))] for sender, recipient in pairs]
            by_http = [[HttpRoute(load, sender, recipient, (recipient,))] for sender, recipient in pairs]
            to_group = HttpRoute(load, user_ids[0], group_id, user_ids[1:], "group")
            self.loop.run(_SETTLE_SECONDS)  # rooms are joined behind the welcome
            load.keep_sending([*by_socket, *by_http, [to_group]])
            self.loop.run(_WARM_SECONDS)
            load.finish()

    def fresh_web(self) -> None:
        """Start the processes again. Raises SetUpFailed."""
        self._server.stop_node()
        self._server.start_node()
        self._is_warm = False
        self.processes = self._server.processes_by_kind()
        self.quiet()

    def group(self, members: Sequence[int]) -> int:
        """Return a group of these users, known by its size: one measurement has one."""
        self._server.seed_group(len(members), members)
        return len(members)


def is_installed() -> bool:
    """Say whether the packages are there that the lock file names."""
    done = _NODE_MODULES / ".package-lock.json"  # npm's note of what it has installed
    return done.exists() and _integrities(done) == _integrities(FOLDER / "package-lock.json")


def _integrities(lock: Path) -> dict[str, str]:
    packages = json.loads(lock.read_text())["packages"]
    return {name: package["integrity"] for name, package in packages.items() if name}  # '' is ourselves


def install() -> None:
    """Bring the packages of the lock file, where they are not there. Raises SetUpFailed."""
    node, npm = _program("node"), _program("npm")
    if is_installed():
        return
    print(f"installing the packages of {FOLDER.name} (npm ci)", flush=True)
    environment = {**os.environ, "PATH": f"{Path(node).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        ended = subprocess.run(
            [npm, "ci", "--omit=dev", "--no-audit", "--no-fund"],
            cwd=FOLDER,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise SetUpFailed(f"npm ci in {FOLDER} did not end within {_INSTALL_SECONDS:.0f} s") from error
    if ended.returncode != 0:
        raise SetUpFailed(f"npm ci in {FOLDER} failed: {ended.stderr.strip()[-2_000:]}")


def versions() -> str:
    """Return what runs the peer, for the report. Raises SetUpFailed."""
    package = json.loads((_NODE_MODULES / "socket.io" / "package.json").read_text())
    node = subprocess.run([_program("node"), "--version"], capture_output=True, text=True, timeout=30, check=True)
    return f"socket.io {package['version']}, Node {node.stdout.strip().removeprefix('v')}"


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SetUpFailed(f"no {name} on PATH: --beside socketio needs Node 20 or newer, with npm")
    return found


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    """Kill a process and its children, which is all of its session."""
    if process is None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended by itself
        pass
    process.wait(_STOP_SECONDS)


def _user(user_id: int) -> dict[str, str | int]:
    return {"id": user_id, "name": f"load-{user_id}", "avatar": "/static/media/avatar.png"}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
