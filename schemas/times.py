"""Times of rows as ORIG shows them (1.1): `create_time` in the server's local time, every other one in ISO 8601 UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def local_text(moment: datetime) -> str:
    """Show a UTC moment without a zone as `YYYY-MM-DD HH:mm:ss` of the server's local time."""
    return moment.replace(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def utc_text(moment: datetime) -> str:
    """Show a UTC moment without a zone as `2026-01-31T23:59:59.999Z`."""
    return f"{moment.isoformat(timespec='milliseconds')}Z"
