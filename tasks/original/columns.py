"""Columns: what a value of a dump means, read with forgiveness. Pure; what cannot be read is None."""

from __future__ import annotations

import re
import uuid
from datetime import datetime, timedelta

from tasks.original.dump import Value

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
# Ids that are derived, so that a second try gives the same.
NAMESPACE = uuid.UUID("5f0d6f0e-7a53-4d07-9a37-0d7f0e5d3c11")


def number(value: Value) -> int | None:
    """Read a whole number."""
    if isinstance(value, bytes):
        value = int.from_bytes(value) if len(value) <= 8 else None  # BIT
    if isinstance(value, int):
        return value
    try:
        return int(value) if value is not None and len(value) <= 20 else None
    except ValueError:
        return None


def flag(value: Value, default: int = 0) -> int:
    """Read 0 or 1."""
    found = number(value)
    return default if found is None else int(found != 0)


def moment(value: Value, offset: timedelta) -> datetime | None:
    """Read a time of a clock that is `offset` ahead of UTC, as UTC without a zone. Zero dates are none."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo is None else found.replace(tzinfo=None)) - offset
    except (ValueError, OverflowError):
        return None


def is_uuid(value: object) -> bool:
    """Return whether it is a UUID as everybody spells it."""
    return isinstance(value, str) and _UUID.match(value) is not None


def derived_uuid(*parts: object) -> str:
    """Give the id of what has none of its own."""
    return str(uuid.uuid5(NAMESPACE, "\0".join(map(str, parts))))


def digest(value: Value) -> str | None:
    """Read the original's hash of a password: SHA-256 in hex."""
    text = value.strip().lower() if isinstance(value, str) else ""
    return text if _DIGEST.match(text) else None
