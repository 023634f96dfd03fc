"""Chat logs: the newest messages of each conversation, hot in Redis; what is older is read from SQL.

A one-to-one log is kept per owner, as he may see it (`inbox.append_command` writes it with the inbox). A group has one log (B9);
inbox entries refer to it by seq.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.store import keys
from models.store.connection import SCRIPTS, Command


def append_group_command(group_id: int, messages: Sequence[tuple[int, bytes]], *, log_max: int) -> Command:
    """Append (seq, body) pairs, ascending. Idempotent on seq."""
    args: list[Any] = [log_max]
    for seq, body in messages:
        args += (seq, body)
    return SCRIPTS["append_group"].call(_keys(group_id), args)


def read_group_command(group_id: int, seqs: Sequence[int]) -> Command:
    """Read bodies by seq; the answer holds b'' for each that is not in the log any more."""
    return SCRIPTS["read_group"].call(_keys(group_id), seqs)


def tombstone_group_command(group_id: int, seq: int, body: bytes) -> Command:
    return SCRIPTS["tombstone_group"].call(_keys(group_id), [seq, body])


def _keys(group_id: int) -> list[str]:
    return [keys.group_cursor(group_id), keys.group_log(group_id)]
