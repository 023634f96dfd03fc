"""A private copy of the whole system: real processes on a data folder and ports of their own, to drive and to kill."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import psutil
import redis

from settings import _redis_socket

Kind = Literal["redis", "web", "web-master", "worker", "beat", "flower", "housekeeping"]

_ROOT = Path(__file__).resolve().parents[2]
# Every process of an instance carries it, so that nothing is left behind even when its supervisor was killed.
_MARK_VARIABLE = "HONGYAN_TEST_INSTANCE"
# Below the system's range for outgoing connections: a client that keeps calling a free port of that range ends up
# connected to itself, and then the server cannot have its port back.
_PORTS = range(20_000, 32_000)
_READY_SECONDS = 120.0
_STOP_SECONDS = 10.0
_TAIL_CHARACTERS = 6_000


class InstanceFailed(Exception):
    """The instance did not start, or a command on it failed. The text ends with the tails of its logs."""


class Instance:
    """One instance, not started yet; as a context manager it is started, and stopped and deleted at the end.

    environment: on top of the defaults, such as DATABASE_URL, REDIS_URL, CELERY_BROKER_URL. What the developer's own
    environment and `.env` say about these does not reach it.
    root: the checkout whose code runs, if not this one
    """

    def __init__(self, environment: Mapping[str, str] | None = None, root: Path = _ROOT) -> None:
        self._root = root
        # Directly below /tmp: a Unix socket's path is limited to some hundred bytes.
        self.data_dir = Path(tempfile.mkdtemp(prefix="hy-", dir="/tmp"))
        self.port, self.flower_port = free_ports(2)
        self.tokens: dict[int, str] = {}
        self.redis_socket = _redis_socket(self.data_dir)
        emptied = (
            "DATABASE_URL",
            "REDIS_URL",
            "CELERY_BROKER_URL",
            "JWT_SECRET",
            "SERVER_API_KEY",
            "FLOWER_BASIC_AUTH",
        )
        self.environment = {
            **os.environ,
            **dict.fromkeys(emptied, ""),
            "HONGYAN_ENV": "development",
            "HOST": "127.0.0.1",
            "PORT": str(self.port),
            "FLOWER_PORT": str(self.flower_port),
            "DATA_DIR": str(self.data_dir),
            "WEB_PROCESSES": "2",
            "WORKER_PROCESSES": "2",
            _MARK_VARIABLE: str(self.data_dir),
            **(environment or {}),
        }
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def base(self) -> str:
        """The web address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_dir(self) -> Path:
        """Where every process logs; `supervise.log` is the output of the supervisor."""
        return self.data_dir / "log"

    # Life

    def start(self, timeout: float = _READY_SECONDS) -> None:
        """Start everything and wait until it is ready. Raises InstanceFailed."""
        self.log_dir.mkdir(mode=0o700, exist_ok=True)
        with (self.log_dir / "supervise.log").open("ab") as log:
            self._supervisor = subprocess.Popen(
                [sys.executable, "supervise.py"],
                cwd=self._root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.wait_ready(timeout)
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, timeout: float = _READY_SECONDS) -> float:
        """Wait until `/readyz` says yes; return the seconds it took. Raises InstanceFailed."""
        started = time.monotonic()
        answer = "nothing"

        def is_ready_or_over() -> bool:
            nonlocal answer
            status, answer = self._ask_ready()
            return status == 200 or self._supervisor is None or self._supervisor.poll() is not None

        is_over = wait_until(is_ready_or_over, timeout)
        if not is_over or (self._supervisor is not None and self._supervisor.poll() is not None):
            code = None if self._supervisor is None else self._supervisor.poll()
            raise InstanceFailed(
                f"not ready after {time.monotonic() - started:.1f} s, supervisor's exit code {code}, "
                f"/readyz last answered {answer}\n{self.log_tails()}"
            )
        return time.monotonic() - started

    def _ask_ready(self) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        try:
            connection.request("GET", "/readyz", headers={"Connection": "close"})
            response = connection.getresponse()
            return response.status, f"{response.status} {response.read(500).decode(errors='replace')}"
        except (OSError, http.client.HTTPException) as error:
            return 0, repr(error)
        finally:
            connection.close()

    def stop(self) -> float:
        """Stop as Ctrl-C does, and kill whatever is left after 10 s. Return the seconds until the supervisor was gone."""
        supervisor = self._supervisor
        if supervisor is None:
            return 0.0
        started = time.monotonic()
        descendants = self._descendants()
        if supervisor.poll() is None:
            supervisor.send_signal(signal.SIGTERM)
        try:
            supervisor.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            supervisor.kill()
            supervisor.wait()
        seconds = time.monotonic() - started
        self._supervisor = None
        self._kill_rest(descendants)
        return seconds

    def kill_supervisor(self) -> None:
        """Kill the supervisor itself, which takes everything down with it."""
        assert self._supervisor is not None
        self._supervisor.kill()
        self._supervisor.wait()

    def _kill_rest(self, descendants: Iterable[psutil.Process]) -> None:
        left = {process.pid: process for process in descendants if process.is_running()}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                # Redis writes its title over its environment, but the title names its socket.
                is_redis = any(str(self.redis_socket) in argument for argument in process.cmdline())
                if is_redis or process.environ().get(_MARK_VARIABLE) == str(self.data_dir):
                    left[process.pid] = process
        left.pop(os.getpid(), None)
        for process in left.values():
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(list(left.values()), timeout=5.0)

    def delete(self) -> None:
        """Delete the data folder of a stopped instance, unless TEST_KEEP_INSTANCES is set."""
        if os.environ.get("TEST_KEEP_INSTANCES"):
            return
        shutil.rmtree(self.data_dir, ignore_errors=True)
        if self.redis_socket.parent != self.data_dir:
            shutil.rmtree(self.redis_socket.parent, ignore_errors=True)

    def __enter__(self) -> Instance:
        try:
            self.start()
        except BaseException:
            self.delete()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self.delete()

    # Its processes

    def _descendants(self) -> list[psutil.Process]:
        if self._supervisor is None:
            return []
        try:
            return psutil.Process(self._supervisor.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def processes(self, kind: Kind) -> list[int]:
        """Return the live process ids of a kind, oldest first; web: the processes that serve, children of `web-master`."""
        found: list[tuple[float, int]] = []
        for process in self._descendants():
            with contextlib.suppress(psutil.Error):
                if _kind(process) == kind:
                    found.append((process.create_time(), process.pid))
        return [pid for _, pid in sorted(found)]

    def processes_by_kind(self) -> dict[str, list[int]]:
        """Return the ids of all its processes by kind; what only starts and watches the others is `supervisor`.

        The child that rewrites Redis's append-only file is none of them: it ends as soon as it has.
        """
        found: dict[str, list[int]] = {}
        if self._supervisor is not None:
            found["supervisor"] = [self._supervisor.pid]
        for process in self._descendants():
            with contextlib.suppress(psutil.Error):
                parent = process.parent()
                if parent is None or _kind(parent) != "redis":
                    found.setdefault(_kind(process) or "supervisor", []).append(process.pid)
        return found

    def wait_processes(self, kind: Kind, count: int = 1, timeout: float = 10.0) -> list[int]:
        """Wait until at least so many of a kind live, and return their ids. Raises InstanceFailed."""
        pids: list[int] = []

        def are_enough() -> bool:
            pids[:] = self.processes(kind)
            return len(pids) >= count

        if not wait_until(are_enough, timeout):
            raise InstanceFailed(f"{len(pids)} of {count} processes of kind {kind}\n{self.log_tails()}")
        return pids

    def kill(self, kind: Kind, sig: signal.Signals = signal.SIGKILL, which: int | random.Random = 0) -> int:
        """Send a signal to one process of a kind, waiting for one to exist, and return its id.

        which: its place by age, or a source of chance that picks one. Raises InstanceFailed: there is none.
        """
        pids = self.wait_processes(kind)
        pid = which.choice(pids) if isinstance(which, random.Random) else pids[which]
        os.kill(pid, sig)
        return pid

    # Its data

    def run_flask(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run a command of `flask --app wsgi` on the instance and return its output. Raises InstanceFailed."""
        command = [sys.executable, "-m", "flask", "--app", "wsgi", *arguments]
        done = subprocess.run(
            command, cwd=self._root, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode != 0:
            raise InstanceFailed(
                f"{arguments} ended with {done.returncode}: {done.stdout[-2_000:]}{done.stderr[-4_000:]}"
            )
        return done.stdout

    def seed(self, users: int, group: int) -> dict[int, str]:
        """Make users 1..users, friends in pairs, and group 1 with members 1..group+1. Return their tokens."""
        out = self.data_dir / "tokens.json"
        self.run_flask("load-seed", "--users", str(users), "--group", str(group), "--out", str(out))
        self.tokens = {int(user_id): token for user_id, token in json.loads(out.read_text()).items()}
        return self.tokens

    def redis(self) -> redis.Redis:
        """Return a client of the instance's Redis that answers with text."""
        url = self.environment["REDIS_URL"] or f"unix://{self.redis_socket}?db=0"
        return redis.Redis.from_url(url, decode_responses=True, socket_timeout=5.0)

    def holders(self, user_id: int) -> set[str]:
        """Return the web processes that hold a live socket of the user, by their process id in Redis."""
        with self.redis() as client:
            places = client.hvals(f"online_{{{user_id}}}")
        assert isinstance(places, list)
        return {str(place).split(":")[0] for place in places}

    def log_tails(self) -> str:
        """Return the end of each log."""
        parts = []
        for path in sorted(self.log_dir.glob("*.log")):
            text = path.read_text(errors="replace").strip()
            if text:
                parts.append(f"--- {path.name}\n{text[-_TAIL_CHARACTERS:]}")
        return "\n".join(parts)


def wait_until(condition: Callable[[], bool], timeout: float, poll_seconds: float = 0.05) -> bool:
    """Wait for a condition; say whether it came true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_seconds)
    return True


def _kind(process: psutil.Process) -> Kind | None:
    arguments = process.cmdline()
    line = " ".join(arguments)
    if "redis-server" in line or "valkey-server" in line:
        return "redis"
    if "gunicorn" in arguments:
        parent = process.parent()
        return "web" if parent is not None and "gunicorn" in parent.cmdline() else "web-master"
    if "celery" in arguments:
        if "worker" in arguments:
            return "housekeeping" if "housekeeping" in arguments else "worker"
        if "beat" in arguments:
            return "beat"
        if "flower" in arguments:
            return "flower"
    return None


def free_ports(count: int) -> list[int]:
    """Return ports of this machine that nothing listens on, below those of outgoing connections."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in ports:
            ports.append(port)
    return ports
