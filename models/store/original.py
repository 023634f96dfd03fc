"""The original's Redis, read and never written: the queues of what waits for each user, and how long its chat logs are.

Its keys are those of ORIG 3.1, without the braces that ours have. A system that still writes there may be read twice or not
at all in places: it is stopped first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from models.store.connection import translated

_QUEUE = re.compile(rb"chat_getmessage_([0-9]{1,10})\Z")
_QUEUES, _LOGS = "chat_getmessage_*", "chatlog:chatlog_*"
_LOG = re.compile(rb"chatlog:chatlog_[0-9]+_[A-Za-z]+_[0-9]+\Z")
_KEYS_PER_SCAN = 1_000
_ENTRIES_PER_READ = 50  # of up to 10 MB each
_TIMEOUT_SECONDS = 10.0


class OriginalRedis:
    """Everything raises StoreUnavailable. Raises ValueError: the URL is none that Redis has."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(
            url,
            protocol=2,  # it may be older than RESP 3
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.1), 3),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )

    def ping(self) -> None:
        """Ask whether it is there."""
        with translated():
            self._client.ping()

    def queues(self) -> Iterator[tuple[bytes, int | None]]:
        """Give the key of each queue and whose it is, None where it is no queue. A key may be given more than once."""
        for key in self._scan(_QUEUES):
            named = _QUEUE.match(key)
            if named is not None or not key.endswith(b"}"):  # ours end so, where both use one Redis
                yield key, int(named[1]) if named is not None and self._is_list(key) else None

    def entries(self, key: bytes) -> Iterator[bytes]:
        """Give the entries of a queue, oldest first."""
        start = 0
        while True:
            with translated():
                found = cast(list[bytes], self._client.lrange(key, start, start + _ENTRIES_PER_READ - 1))
            yield from found
            start += len(found)
            if len(found) < _ENTRIES_PER_READ:
                return

    def count_log_entries(self) -> int:
        """Count the entries of all chat logs."""
        counted, some = 0, []
        for key in self._scan(_LOGS):
            if _LOG.match(key):
                some.append(key)
            if len(some) == _KEYS_PER_SCAN:
                counted, some = counted + self._count(some), []
        return counted + self._count(some)

    def close(self) -> None:
        self._client.close()

    def _count(self, names: list[bytes]) -> int:
        with translated():
            pipeline = self._client.pipeline(transaction=False)
            for name in names:
                pipeline.llen(name)
            return sum(length for length in pipeline.execute(raise_on_error=False) if isinstance(length, int))

    def _is_list(self, key: bytes) -> bool:
        with translated():
            return bool(self._client.type(key) == b"list")

    def _scan(self, pattern: str) -> Iterator[bytes]:
        cursor: Any = 0
        while True:
            with translated():
                cursor, found = cast(Any, self._client.scan(cursor, match=pattern, count=_KEYS_PER_SCAN))
            yield from found
            if not cursor:
                return
