"""Attendance: whose friends have been told that he is online. A lease per user, renewed by the processes that hold him.

Adding and removing are the arbiters: of all processes that notice that a user has come or gone, one is told so. What a
process that died has left behind is found when its lease is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models.store import keys
from models.store.connection import Command

LEASE_MS = 90_000


def announce_command(user_id: int, now_ms: int) -> Command:
    """Note a user as online. The answer is 1 where he was not."""
    return ("ZADD", keys.ANNOUNCED, "NX", now_ms + LEASE_MS, user_id)


def withdraw_command(user_id: int) -> Command:
    """Note a user as gone. The answer is 1 where he was not."""
    return ("ZREM", keys.ANNOUNCED, user_id)


def renew_command(user_ids: Sequence[int], now_ms: int) -> Command:
    """Renew the leases of users who are here, also of those whom Redis has lost."""
    return ("ZADD", keys.ANNOUNCED, *(value for user_id in user_ids for value in (now_ms + LEASE_MS, user_id)))


def leave_command(user_id: int, now_ms: int) -> Command:
    """Note when a user has closed his last connection to a process, if he was online: `left_after` tells it to the others."""
    return ("ZADD", keys.ANNOUNCED, "XX", now_ms + LEASE_MS, user_id)


def left_after(score: Any, ms: int) -> bool:
    """Say whether some process had a user after that moment. score: his in the answer to `find_command`"""
    return score is not None and said_at(score) > ms


def said_at(score: Any) -> int:
    """Return when a process has said last that a user is here, in ms. score: his in the answer to `find_command`"""
    return int(float(score)) - LEASE_MS


def find_command(user_ids: Sequence[int]) -> Command:
    """Ask which of the users are online: the answer has None for those who are not."""
    return ("ZMSCORE", keys.ANNOUNCED, *user_ids)


def overdue_command(now_ms: int, most: int) -> Command:
    """Ask for users whose lease is over."""
    return ("ZRANGEBYSCORE", keys.ANNOUNCED, "-inf", now_ms, "LIMIT", 0, most)
