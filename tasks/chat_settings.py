"""Whom a user lets write to him: the part `chatset` of his settings, read with forgiveness (C9, C10). Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

UNLIMITED, ONE, NONE = 2, 1, 0


@dataclass(frozen=True, slots=True)
class StrangerRule:
    """What a user allows senders who are not his friends."""

    send_count: int  # NONE, ONE or UNLIMITED
    need_follow: bool


_DEFAULT = StrangerRule(ONE, False)


@lru_cache(maxsize=10_000)
def stranger_rule(userset: str, role: str) -> StrangerRule:
    """Return the rule for senders of a session role. Whatever is missing or malformed means the default."""
    try:
        settings = orjson.loads(userset) if userset else None
    except orjson.JSONDecodeError:
        return _DEFAULT
    chatset = settings.get("chatset") if isinstance(settings, dict) else None
    rule = chatset.get("visitor" if role == "visitor" else "user") if isinstance(chatset, dict) else None
    if isinstance(rule, dict):
        return StrangerRule(_send_count(rule.get("sendCount")), rule.get("needFollow") is True)
    return StrangerRule(_send_count(rule), False)  # the older form: a bare number


def _send_count(value: Any) -> int:
    if isinstance(value, str) and value.strip() in ("0", "1", "2"):
        value = int(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and value in (NONE, ONE, UNLIMITED) else ONE
