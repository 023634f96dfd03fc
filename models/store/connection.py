"""Connections to Redis: made from the settings' URL, with every timeout and retry set by us, never inherited.

`run` sends a list of commands in one round trip. Scripts are called by digest; a Redis that was restarted has forgotten
them, so a refusal for that reason loads them all and repeats just the refused commands.
"""

from __future__ import annotations

import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import hiredis
import redis
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from models.errors import StoreUnavailable

Command = tuple[Any, ...] | bytes  # bytes: packed already

_CONNECT_TIMEOUT_SECONDS = 1.0
_READ_TIMEOUT_SECONDS = 3.0
_POOL_CONNECTIONS = 16
_READ_BYTES = 65_536
_TRUSTED_SECONDS = 0.5  # a connection that was used so lately is not asked whether it still stands
_UNIX_SCHEME = "unix://"
_SENTINEL_SCHEME = "redis+sentinel://"
_SENTINEL_PORT = 26379
_HEADER = re.compile(r"\A-- .+\n(?:--.*\n)*-- KEYS.*\n(?:--.*\n)*-- ARGV.*\n(?:--.*\n)*-- Returns.*\n", re.MULTILINE)


class Client(redis.Redis):
    """A bounded set of connections. They connect at their first command.

    redis-py makes, authenticates and closes them; what goes through them is packed and parsed by hiredis directly, since
    its own pipeline and pool took a fifth of a web process's time (decision 0005).
    """

    def __init__(self, pool: redis.ConnectionPool) -> None:
        super().__init__(connection_pool=pool)
        self._room = threading.BoundedSemaphore(_POOL_CONNECTIONS)
        self._idle: list[tuple[Any, float]] = []  # connection, when it was last used

    def exchange(self, commands: Sequence[Command], meanwhile: Callable[[], None] | None = None) -> list[Any]:
        """Send the commands in one round trip and return their answers, errors of single commands among them.

        meanwhile: is called once they are sent, while Redis works
        Raises RedisError: it is not known which of them took place.
        """
        packed = b"".join([command if isinstance(command, bytes) else pack(command) for command in commands])
        if not self._room.acquire(timeout=_READ_TIMEOUT_SECONDS):
            raise RedisConnectionError("every connection is in use")
        try:
            connection = self._take()
            try:
                connection.connect()  # nothing where it stands; by itself it would not ask the sentinels
                connection.send_packed_command([packed], check_health=False)
                if meanwhile is not None:
                    meanwhile()
                answers = _read_answers(connection, len(commands))
            except BaseException:
                # Whatever ended it, a greenlet's end too: what is still to come would be taken for the next answers.
                connection.disconnect()
                for idle, _ in self._idle:
                    idle.disconnect()
                raise
            finally:
                self._idle.append((connection, time.monotonic()))
        finally:
            self._room.release()
        return answers

    def listen(self) -> Ear:
        """Give an ear with a connection of its own, which connects when it subscribes."""
        return Ear(self.connection_pool.make_connection())

    def close(self) -> None:
        for connection, _ in self._idle:
            connection.disconnect()
        super().close()

    def _take(self) -> Any:
        if not self._idle:
            return self.connection_pool.make_connection()
        connection, used_at = self._idle.pop()
        if time.monotonic() - used_at > _TRUSTED_SECONDS:
            try:
                if connection.can_read(timeout=0):
                    connection.disconnect()  # an answer that nobody has waited for
            except (RedisError, OSError):
                connection.disconnect()  # the server has gone, and is back perhaps: it connects anew
        return connection


class _UnixConnection(redis.UnixDomainSocketConnection):
    """redis-py's, which names a port where connecting takes too long, and has none: an AttributeError would come of it.

    It takes too long under gevent, once a Redis that hangs has as many waiting as its backlog holds.
    """

    port = 0


class Ear:
    """Channels that are listened to, on one connection. One thread or greenlet owns it."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._channels: set[str] = set()

    def subscribe(self, *channels: str) -> None:
        """Listen to more channels; Redis has confirmed it on return. Raises RedisError."""
        news, was_deaf = set(channels) - self._channels, not self._channels
        try:
            self._tell("SUBSCRIBE", news)
        except RedisConnectionError:
            if not was_deaf:
                raise  # what was said on the others is lost: whoever listens must know
            self._tell("SUBSCRIBE", news)  # the connection was of before a restart
        self._channels |= set(channels)

    def unsubscribe(self, *channels: str) -> None:
        """Listen to fewer channels; Redis has confirmed it on return, and what was heard meanwhile is dropped. Raises RedisError."""
        self._tell("UNSUBSCRIBE", self._channels & set(channels))
        self._channels -= set(channels)

    def unsubscribe_all(self) -> None:
        """Listen to nothing; the connection stays. Raises RedisError."""
        self.unsubscribe(*self._channels)

    def wait(self, seconds: float) -> list[bytes]:
        """Return what was published, at the latest after so many seconds; nothing where nothing was. Raises RedisError."""
        deadline = time.monotonic() + seconds
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            heard = [answer[2] for answer in self._answers(left) if answer[0] == b"message"]
            if heard or not left:
                return heard

    def close(self) -> None:
        self._connection.disconnect()
        self._channels.clear()

    def _tell(self, command: str, channels: set[str]) -> None:
        if not channels:
            return
        try:
            self._connection.connect()
            self._connection.send_packed_command([pack((command, *channels))], check_health=False)
            waited_for, deadline = len(channels), time.monotonic() + _READ_TIMEOUT_SECONDS
            while waited_for:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise RedisTimeoutError(f"{command} was not confirmed")
                waited_for -= sum(answer[0] == command.lower().encode() for answer in self._answers(left))
        except BaseException:
            self.close()
            raise

    def _answers(self, seconds: float) -> list[Any]:
        """Return what has come, waiting for it at most so long."""
        reader, sock = self._connection._parser._reader, self._connection._sock
        if reader is None or sock is None:
            raise RedisConnectionError("not connected")
        try:
            answers = _parsed(reader)
            if answers:
                return answers
            sock.settimeout(seconds)
            try:
                _feed(reader, sock)
            except (TimeoutError, BlockingIOError):
                return []
            finally:
                sock.settimeout(_READ_TIMEOUT_SECONDS)
            return _parsed(reader)
        except OSError as error:
            self.close()
            raise RedisConnectionError(str(error)) from error
        except RedisError:
            self.close()
            raise


def connect(redis_url: str) -> Client:
    """Give a client. Raises ValueError: the URL is none that Redis has.

    redis_url: redis://, rediss://, unix://, or redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[/db],
    where each new connection goes to the master that the sentinels name then; their port is 26379 unless said
    """
    options: dict[str, Any] = {
        "socket_timeout": _READ_TIMEOUT_SECONDS,
        "socket_connect_timeout": _CONNECT_TIMEOUT_SECONDS,
        # Repeating is the caller's decision: only he knows his deadline.
        "retry": Retry(NoBackoff(), 0),
        "protocol": 3,
        "max_connections": 1_000_000,  # the client bounds them, and waits where redis-py would raise
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if redis_url.startswith(_UNIX_SCHEME):
        options["connection_class"] = _UnixConnection
    if redis_url.startswith(_SENTINEL_SCHEME):
        return Client(_sentinel_pool(redis_url.removeprefix(_SENTINEL_SCHEME), options))
    return Client(redis.ConnectionPool.from_url(redis_url, **options))


def _sentinel_pool(address: str, options: dict[str, Any]) -> redis.ConnectionPool:
    credentials, _, place = address.rpartition("@")
    hosts, _, path = place.partition("/")
    service, _, db = path.partition("/")
    if not service or not hosts or (db and not db.isdigit()):
        raise ValueError("a sentinel's URL is redis+sentinel://host[:port][,host[:port]]/service[/db]")
    parts = [urlsplit(f"//{host}") for host in hosts.split(",")]  # which knows the brackets of IPv6
    addresses = [(part.hostname or "localhost", part.port or _SENTINEL_PORT) for part in parts]
    user, _, password = (unquote(part) or None for part in credentials.partition(":"))
    timeouts = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout")}
    return SentinelConnectionPool(  # type: ignore[no-untyped-call]
        service,
        Sentinel(addresses, sentinel_kwargs=timeouts),  # type: ignore[no-untyped-call]
        db=int(db or 0),
        username=user,
        password=password,
        **options,
    )


def pack(command: tuple[Any, ...]) -> bytes:
    """Encode a command as Redis reads it: texts, bytes and numbers."""
    packed: bytes = hiredis.pack_command(command)
    return packed


def pack_arguments(arguments: tuple[Any, ...]) -> bytes:
    """Encode arguments of a command that is put together from packed parts, which begins with `*<number of parts>`."""
    return pack(arguments).split(b"\r\n", 1)[1]


def _read_answers(connection: Any, count: int) -> list[Any]:
    reader, sock = connection._parser._reader, connection._sock
    answers: list[Any] = []
    try:
        while True:
            answers += _parsed(reader)
            if len(answers) >= count:
                return answers
            _feed(reader, sock)
    except TimeoutError as error:
        raise RedisTimeoutError("Redis did not answer in time") from error
    except OSError as error:
        raise RedisConnectionError(str(error)) from error


def _parsed(reader: hiredis.Reader) -> list[Any]:
    """Return the answers that are whole."""
    answers: list[Any] = []
    while (answer := reader.gets(False)) is not NOT_ENOUGH_DATA:
        answers.append(answer)
    return answers


def _feed(reader: hiredis.Reader, sock: socket.socket) -> None:
    data = sock.recv(_READ_BYTES)
    if not data:
        raise RedisConnectionError("Redis has closed the connection")
    reader.feed(data)


class Script:
    """One Lua file. `call(keys, args)` gives the command; `run` makes sure that Redis knows the script."""

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self.source = path.read_text()
        if not _HEADER.match(self.source):
            raise ValueError(f"{path.name} must open with a sentence and lines for KEYS, ARGV and Returns")
        self.sha = hashlib.sha1(self.source.encode()).hexdigest()

    def call(self, keys: Sequence[str], args: Sequence[Any] = ()) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


SCRIPTS = {path.stem: Script(path) for path in sorted((Path(__file__).parent / "scripts").glob("*.lua"))}


def run(client: Client, commands: Sequence[Command], meanwhile: Callable[[], None] | None = None) -> list[Any]:
    """Send the commands in one round trip, in order; return their answers in order. Not a transaction.

    meanwhile: is called once, while Redis works; what it raises is raised
    Raises StoreUnavailable: some answer is missing or an error, so any of the commands may have taken place or not.
    """
    answers = run_each(client, commands, meanwhile)
    for answer in answers:
        if isinstance(answer, StoreUnavailable):
            raise answer
    return answers


def run_each(client: Client, commands: Sequence[Command], meanwhile: Callable[[], None] | None = None) -> list[Any]:
    """As `run`, where the answer to a command that Redis refuses is a StoreUnavailable, and the others have theirs.

    Raises StoreUnavailable: some answer is missing, or Redis is still loading its data.
    """
    if not commands:
        if meanwhile is not None:
            meanwhile()
        return []
    try:
        answers = client.exchange(commands, meanwhile)
        refused = [index for index, answer in enumerate(answers) if isinstance(answer, RedisError)]
        unknown = [index for index in refused if isinstance(answers[index], NoScriptError)]
        if unknown:
            client.exchange([("SCRIPT", "LOAD", script.source) for script in SCRIPTS.values()])
            for index, answer in zip(unknown, client.exchange([commands[index] for index in unknown]), strict=True):
                answers[index] = answer
        for index in refused:
            answer = answers[index]
            if isinstance(answer, RedisConnectionError):
                raise answer  # LOADING: of the server, not of the command, and over soon
            if isinstance(answer, RedisError):
                answers[index] = StoreUnavailable(str(answer))
                answers[index].__cause__ = answer
    except RedisError as error:
        raise StoreUnavailable(str(error)) from error
    return answers


@contextmanager
def translated() -> Iterator[None]:
    """Turn what redis raises in the block into StoreUnavailable."""
    try:
        yield
    except RedisError as error:
        raise StoreUnavailable(str(error)) from error
