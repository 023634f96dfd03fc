"""Upkeep of Redis: it keeps what it is given, and its append-only file stays short, so that one that was killed is back soon.

Redis rewrites the file when it has doubled since the last rewrite *or start*: one that is restarted now and then would
never do it, and replay an ever longer file at each start.
"""

from __future__ import annotations

from redis.exceptions import ResponseError

from models.store.connection import Client, translated

SLACK_BYTES = 64 * 1024 * 1024  # of commands to replay: less than a second's work

# With less, what was accepted and is not decided yet may be gone after a crash of Redis (G1), or when its memory is full.
_NEEDED = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


def shortcomings(client: Client) -> list[str]:
    """Return each setting with which Redis may lose what was accepted, as its name and value; none where it does not tell.

    Raises StoreUnavailable.
    """
    found: dict[str | None, str | None] = {}
    with translated():
        try:
            for name in _NEEDED:  # one by one: Redis 6 takes no more
                found |= client.config_get(name)
        except ResponseError:  # those who host one may have taken the command away
            return []
    return [f"{name} {found[name]}" for name, value in _NEEDED.items() if found.get(name, value) != value]


def compact(client: Client, slack_bytes: int = SLACK_BYTES) -> bool:
    """Have the append-only file rewritten where it is longer than the data and the slack. Return whether that was due.

    Raises StoreUnavailable.
    """
    with translated():
        file, memory = client.info("persistence"), client.info("memory")
        is_due = file["aof_enabled"] and file["aof_current_size"] > memory["used_memory_dataset"] + slack_bytes
        if not is_due or file["aof_rewrite_in_progress"]:
            return False
        client.bgrewriteaof()
    return True
