"""`make run`: starts everything, keeps it running, stops it. Owns the order of both and what the user is told.

The processes themselves are kept alive by supervisord (`supervise_children.py`), our only child, which we keep alive.
Whatever an earlier run left behind, because somebody killed it, is ended before anything is started.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embedded_redis import EmbeddedRedisError, check_version, redis_server_binary, write_config
from settings import Settings, SettingsError, load_settings

_ROOT = Path(__file__).resolve().parent
_PYTHON = sys.executable

# Every process below supervise.py carries this variable: by it a later start recognizes what an earlier one left.
_INSTANCE_VARIABLE = "HONGYAN_INSTANCE"

_POLL_SECONDS = 0.1
_READY_REQUEST_SECONDS = 1.0
_SLOW_START_SECONDS = 30.0
# A stop is promised within 10 s. Applications get 5, Redis 2 after them, and killing the rest takes well under a second.
_STOP_SECONDS = 8.5
_APP_STOP_SECONDS = 5
_REDIS_STOP_SECONDS = 2
_FLOWER_STOP_SECONDS = 1  # it waits for its inspections of workers that are gone, and has nothing to save
# supervisord is started again whenever it ends. One that ends at once, so many times in a row, would do so for ever.
_QUICK_END_SECONDS = 10.0
_MAX_QUICK_ENDS = 5
_OPEN_FILES = 65_536
_SHOWN_LINES = 5

EXIT_REFUSED = 2


class StartRefused(Exception):
    """Something must be changed before we can start. The text names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Program:
    """One process that supervisord keeps running."""

    name: str
    command: tuple[str, ...]
    stop_seconds: int = _APP_STOP_SECONDS  # between SIGTERM and SIGKILL


class _StopSignals:
    """Remembers that a stop was asked for. Asking again changes nothing: the stop is bounded anyway."""

    def __init__(self) -> None:
        self.is_requested = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._request)

    def _request(self, _number: int, _frame: object) -> None:
        self.is_requested = True


def main() -> int:
    os.umask(0o077)  # what is written below DATA_DIR (the database, Redis's file, logs) is its owner's alone
    os.chdir(_ROOT)  # a relative DATA_DIR and .env mean this folder, wherever we were called from
    stop = _StopSignals()
    try:
        settings = load_settings()
        for notice in settings.notices:
            print(f"hongyan: {notice}", file=sys.stderr, flush=True)
        with _only_instance(settings.data_dir):
            return _run(settings, stop)
    except (SettingsError, EmbeddedRedisError, StartRefused) as error:
        print(f"hongyan: {error}", file=sys.stderr, flush=True)
        return EXIT_REFUSED


def _run(settings: Settings, stop: _StopSignals) -> int:
    # A process that was killed may hold its port a little longer than its entry in /proc tells what it was.
    patience_seconds = 1.0 if _end_leftovers(settings) else 0.0
    _check_ports(settings, patience_seconds)
    programs = [*_redis_programs(settings), *app_programs(settings)]
    environment = _environment(settings)
    (settings.data_dir / "log").mkdir(mode=0o700, exist_ok=True)
    config = settings.data_dir / "supervisord.conf"
    config.write_text(supervisord_config(settings.data_dir, programs))
    _raise_open_files_limit()

    _migrate(settings, environment, stop)
    if stop.is_requested:
        return 0

    print("hongyan: starting", flush=True)
    quick_ends = 0
    while True:
        started = time.monotonic()
        status = _run_supervisord(settings, config, environment, stop)
        if status is not None:
            return status
        quick_ends = quick_ends + 1 if time.monotonic() - started < _QUICK_END_SECONDS else 0
        if quick_ends >= _MAX_QUICK_ENDS:
            print(f"hongyan: it ends at once again and again, see {_log_folder(settings)}", file=sys.stderr, flush=True)
        if quick_ends >= _MAX_QUICK_ENDS or stop.is_requested:
            return 1
        print("hongyan: starting it again", flush=True)


def _run_supervisord(settings: Settings, config: Path, environment: dict[str, str], stop: _StopSignals) -> int | None:
    """Run supervisord until a stop is asked for; return the exit code, None where it ended by itself. Nothing is left."""
    supervisord = subprocess.Popen(
        [_PYTHON, "supervise_children.py", str(config), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        env=environment,
        process_group=0,  # Ctrl-C in the terminal reaches us alone; we decide the order in which the rest ends
    )
    try:
        _announce_when_ready(settings, supervisord, stop)
        _wait(supervisord, lambda: stop.is_requested)
        if supervisord.poll() is not None:
            print(f"hongyan: supervisord ended by itself ({supervisord.returncode})", file=sys.stderr, flush=True)
            return None
        print("hongyan: stopping", flush=True)
        return _stop(settings, supervisord)
    finally:
        if supervisord.poll() is None:
            supervisord.kill()
            supervisord.wait()
        _end_leftovers(settings)


def _stop(settings: Settings, supervisord: subprocess.Popen[bytes]) -> int:
    supervisord.terminate()
    try:
        status = supervisord.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        print("hongyan: not everything stopped in time, the rest was killed", file=sys.stderr, flush=True)
        return 1
    if status != 0:
        print(f"hongyan: supervisord ended with {status}, see {_log_folder(settings)}", file=sys.stderr, flush=True)
        return 1
    print("hongyan: stopped", flush=True)
    return 0


# What runs


def app_programs(settings: Settings) -> list[Program]:
    """Everything but Redis. Public for the tests."""
    celery = (_PYTHON, "-m", "celery", "-A", "celery_worker")
    worker = (*celery, "worker", "--pool", "solo", "--concurrency", "1", "-E", "--without-gossip", "--without-mingle")
    quiet = ("-l", "WARNING")
    drains = [
        Program(f"worker-{number}", (*worker, *quiet, "-Q", "drain", "-n", f"drain{number}@%h"))
        for number in range(1, settings.worker_processes + 1)
    ]
    # An empty pid file name means none: one left by a killed beat would keep the next from starting.
    schedule = str(settings.data_dir / "celerybeat-schedule")
    return [
        Program("web", (_PYTHON, "-m", "gunicorn", "-c", "webapp/gunicorn_conf.py", "wsgi:app")),
        *drains,
        Program("worker-housekeeping", (*worker, *quiet, "-Q", "housekeeping", "-n", "housekeeping@%h")),
        Program("beat", (*celery, "beat", "-s", schedule, "--pidfile=", *quiet)),
        # Loopback only: flower's /metrics and /healthcheck ask for no password.
        Program(
            "flower",
            (*celery, "flower", "--address=127.0.0.1", f"--port={settings.flower_port}"),
            stop_seconds=_FLOWER_STOP_SECONDS,
        ),
    ]


def _redis_programs(settings: Settings) -> list[Program]:
    if not settings.is_redis_embedded:
        return []
    binary = redis_server_binary()
    check_version(binary, settings)
    return [Program("redis", (str(binary), str(write_config(settings))), stop_seconds=_REDIS_STOP_SECONDS)]


def supervisord_config(data_dir: Path, programs: list[Program]) -> str:
    """Return supervisord's configuration. Groups stop one after the other, by falling priority, each all at once.

    There is no control socket: a process is restarted by killing it.
    Raises StartRefused: a path holds what supervisord's format cannot express.
    """
    sections = [
        # nocleanup: at its start supervisord would else delete files of its naming pattern in `childlogdir`.
        f"""\
[supervisord]
nodaemon=true
silent=true
nocleanup=true
logfile={_value(data_dir / "log" / "supervisord.log")}
logfile_maxbytes=10MB
logfile_backups=3
childlogdir={_value(data_dir / "log")}
pidfile={_value(data_dir / "supervisord.pid")}
"""
    ]
    for program in programs:
        is_redis = program.name == "redis"
        # startsecs: what dies within its first second is tried again a second later, anything else at once.
        # stdout_logfile: supervisord expands this one value twice.
        sections.append(
            f"""\
[program:{program.name}]
command={_value(shlex.join(program.command))}
directory={_value(_ROOT)}
priority={1 if is_redis else 100}
autorestart=true
startsecs=1
stopsignal=TERM
stopwaitsecs={program.stop_seconds}
killasgroup=true
redirect_stderr=true
stdout_logfile={_value(_value(data_dir / "log" / f"{program.name}.log"))}
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""
        )
    app_names = ",".join(program.name for program in programs if program.name != "redis")
    sections.append(f"[group:app]\nprograms={app_names}\npriority=100\n")
    return "\n".join(sections)


def _value(value: object) -> str:
    """Spell a value so that supervisord reads it literally. Raises StartRefused: it cannot."""
    text = str(value)
    # A comment may follow a value on its line, and the format has no way to say that this is none.
    if any(sign in text for sign in (" ;", " #", "\t;", "\t#", "\n")):
        raise StartRefused(f"no path may contain a space before ';' or '#', nor a line end: {text!r}")
    return text.replace("%", "%%")


def _environment(settings: Settings) -> dict[str, str]:
    environment = dict(os.environ)
    environment[_INSTANCE_VARIABLE] = str(settings.data_dir)
    environment["DATA_DIR"] = str(settings.data_dir)
    environment["PYTHONUNBUFFERED"] = "1"
    # Flower reads its options from variables too. The password stays out of `ps` this way.
    environment["FLOWER_BASIC_AUTH"] = settings.flower_basic_auth
    environment.setdefault("FLOWER_READ_ONLY", "true")
    environment.setdefault("FLOWER_MAX_TASKS", "5000")  # of 100,000: they are kept in memory
    environment.setdefault("FLOWER_INSPECT_TIMEOUT", "3000")  # milliseconds; a worker answers between two drains
    return environment


# Before the start


@contextlib.contextmanager
def _only_instance(data_dir: Path) -> Iterator[None]:
    """Hold DATA_DIR for this process. The kernel lets go of the lock when we die, however that happens."""
    path = data_dir / "supervise.pid"
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StartRefused(
                f"another instance (process {file.read().strip() or 'unknown'}) already runs on {data_dir}: "
                "stop it, or set DATA_DIR, PORT and FLOWER_PORT to run a second one"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _end_leftovers(settings: Settings) -> bool:
    """Kill what an earlier run on this DATA_DIR left behind; return whether there was any. Call it holding its lock.

    Killing is safe at any moment, and the only thing that helps against a process that hangs. Needs /proc; where there
    is none, a leftover shows as a taken port.
    """
    deadline = time.monotonic() + 5.0
    was_any = False
    while leftovers := _leftovers(settings):
        was_any = True
        for pid in leftovers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise StartRefused(f"processes of an earlier run do not end: {', '.join(map(str, leftovers))}")
        time.sleep(_POLL_SECONDS / 2)
    return was_any


def _leftovers(settings: Settings) -> list[int]:
    mark = f"{_INSTANCE_VARIABLE}={settings.data_dir}".encode()
    socket_path = f"unixsocket:{settings.redis_socket}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        try:
            # Redis writes its title over its own environment, but the title names the socket.
            is_ours = mark in (entry / "environ").read_bytes().split(b"\0") or (
                socket_path in (entry / "cmdline").read_bytes()
            )
        except OSError:  # ended meanwhile, or somebody else's
            continue
        if is_ours and pid != os.getpid():
            found.append(pid)
    return found


def _check_ports(settings: Settings, patience_seconds: float) -> None:
    """Raises StartRefused: a port is still taken after so long."""
    deadline = time.monotonic() + patience_seconds
    if settings.port == settings.flower_port:
        raise StartRefused(f"PORT and FLOWER_PORT are both {settings.port}: set one of them to another port")
    for name, host, port in (
        ("PORT", settings.host, settings.port),
        ("FLOWER_PORT", "127.0.0.1", settings.flower_port),
    ):
        while (error := _try_port(host, port)) is not None:
            if time.monotonic() >= deadline:
                reason = f"cannot listen on {host}:{port} ({error.strerror}): free it or set {name}"
                raise StartRefused(reason) from error
            time.sleep(_POLL_SECONDS / 2)


def _try_port(host: str, port: int) -> OSError | None:
    """Return why nobody can listen there, None where one can. Raises StartRefused: the host is no address of ours."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise StartRefused(f"HOST is not an address of this machine: {host!r} ({error.strerror})") from error
    except OSError as error:
        return error
    return None


def _raise_open_files_limit() -> None:
    """Each websocket is an open file, and the usual soft limit is 1,024. Our children inherit ours."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _migrate(settings: Settings, environment: dict[str, str], stop: _StopSignals) -> None:
    log = _log_folder(settings) / "migrate.log"
    with log.open("wb") as output:
        migration = subprocess.Popen(
            [_PYTHON, "-m", "flask", "--app", "wsgi", "db", "upgrade"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            process_group=0,
        )
        _wait(migration, lambda: stop.is_requested)
        if migration.poll() is None:  # asked to stop: a migration is a transaction and can be cut off
            migration.kill()
            migration.wait()
    if not stop.is_requested and migration.returncode != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        if lines and lines[-1].startswith("hongyan: "):  # wsgi.py: the application refuses a setting
            raise StartRefused(lines[-1].removeprefix("hongyan: "))
        reason = "\n".join(lines[-_SHOWN_LINES:])
        raise StartRefused(f"the database could not be migrated (DATABASE_URL); all of it is in {log}\n{reason}")


# While it runs


def _wait(process: subprocess.Popen[bytes], is_over: Callable[[], bool]) -> None:
    while process.poll() is None and not is_over():
        time.sleep(_POLL_SECONDS)


def _announce_when_ready(settings: Settings, supervisord: subprocess.Popen[bytes], stop: _StopSignals) -> None:
    slow_at = time.monotonic() + _SLOW_START_SECONDS
    is_slow_said = False

    def is_over() -> bool:
        nonlocal is_slow_said
        if not is_slow_said and time.monotonic() > slow_at:
            is_slow_said = True
            print(f"hongyan: not ready yet, still trying; the reason should be in {_log_folder(settings)}", flush=True)
        return stop.is_requested or _is_ready(settings)

    _wait(supervisord, is_over)
    if stop.is_requested or supervisord.poll() is not None:
        return
    print(
        f"""\
hongyan: ready
  web      http://{settings.call_address}
  docs     http://{settings.call_address}/docs
  flower   http://127.0.0.1:{settings.flower_port}  ({settings.flower_basic_auth})
  logs     {_log_folder(settings)}
  Ctrl-C stops everything.""",
        flush=True,
    )


def _is_ready(settings: Settings) -> bool:
    connection = http.client.HTTPConnection(settings.call_host, settings.port, timeout=_READY_REQUEST_SECONDS)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _log_folder(settings: Settings) -> Path:
    return settings.data_dir / "log"


if __name__ == "__main__":
    sys.exit(main())
