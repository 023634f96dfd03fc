"""Upkeep of the embedded Redis: its append-only file stays short, so that a Redis that was killed is back soon.

Redis rewrites the file when it has doubled since the last rewrite *or start*: one that is restarted now and then would
never do it, and replay an ever longer file at each start.
"""

from __future__ import annotations

from models.store.connection import Client, translated

SLACK_BYTES = 64 * 1024 * 1024  # of commands to replay: less than a second's work


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
