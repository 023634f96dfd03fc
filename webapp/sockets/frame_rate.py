"""How many frames a socket may send: `RATE_LIMIT_FRAMES`, counted in a fixed window by each connection (ORIG A26)."""

from __future__ import annotations

from typing import NamedTuple

from limits import parse

from settings import SettingsError


class FrameRate(NamedTuple):
    frames: int
    seconds: int


def parse_frame_rate(text: str) -> FrameRate | None:
    """Read a rate such as `50 per second`; None for `off`. Raises SettingsError."""
    if text.strip().lower() == "off":
        return None
    try:
        item = parse(text)
    except ValueError as error:
        raise SettingsError(f"RATE_LIMIT_FRAMES is no rate like `50 per second`, nor `off`: {text!r}") from error
    return FrameRate(item.amount, item.get_expiry())
