"""Connections to Redis: made from the settings' URL, with every timeout and retry set by us, never inherited.

`run` sends a list of commands in one round trip. Scripts are called by digest; a Redis that was restarted has forgotten
them, so a refusal for that reason loads them all and repeats just the refused commands.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from models.errors import StoreUnavailable

Command = tuple[Any, ...]
Client = redis.Redis

_CONNECT_TIMEOUT_SECONDS = 1.0
_READ_TIMEOUT_SECONDS = 3.0
_POOL_CONNECTIONS = 16
_HEADER = re.compile(r"\A-- .+\n(?:--.*\n)*-- KEYS.*\n(?:--.*\n)*-- ARGV.*\n(?:--.*\n)*-- Returns.*\n", re.MULTILINE)


def connect(redis_url: str) -> redis.Redis:
    """Give a client with a bounded pool. It connects at its first command."""
    pool = redis.BlockingConnectionPool.from_url(
        redis_url,
        max_connections=_POOL_CONNECTIONS,
        timeout=_READ_TIMEOUT_SECONDS,
        socket_timeout=_READ_TIMEOUT_SECONDS,
        socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
        # Repeating is the caller's decision: only he knows his deadline.
        retry=Retry(NoBackoff(), 0),
    )
    return redis.Redis(connection_pool=pool)


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


def run(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """Send the commands in one round trip, in order; return their answers in order. Not a transaction.

    Raises StoreUnavailable: some answer is missing or an error, so any of the commands may have taken place or not.
    """
    try:
        answers = _execute(client, commands)
        refused = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if refused:
            _execute(client, [("SCRIPT", "LOAD", script.source) for script in SCRIPTS.values()])
            for index, answer in zip(refused, _execute(client, [commands[index] for index in refused]), strict=True):
                answers[index] = answer
    except RedisError as error:
        raise StoreUnavailable(str(error)) from error
    for answer in answers:
        if isinstance(answer, RedisError):
            raise StoreUnavailable(str(answer)) from answer
    return answers


@contextmanager
def translated() -> Iterator[None]:
    """Turn what redis raises in the block into StoreUnavailable."""
    try:
        yield
    except RedisError as error:
        raise StoreUnavailable(str(error)) from error


def _execute(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
    return list(pipeline.execute(raise_on_error=False))
