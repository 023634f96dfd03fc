"""How many frames a socket may send (`RATE_LIMIT_FRAMES`, ORIG A26), and how often a user may connect (`RATE_LIMIT_CONNECTS`).

Counted in fixed windows, frames by each connection, connects by each web process: neither asks Redis.
"""

from __future__ import annotations

import time
from collections import defaultdict
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


class ConnectRate:
    """Counts the connects of each user in this process. One window for all, so that it remembers nobody for longer."""

    def __init__(self, rate: FrameRate | None) -> None:
        self._rate = rate
        self._until = 0.0
        self._hits: defaultdict[int, int] = defaultdict(int)

    @property
    def seconds_left(self) -> float:
        """Until the window is over, and everybody starts anew."""
        return max(0.0, self._until - time.monotonic())

    def count(self, user_id: int) -> int:
        """Return how often the user has connected in this window."""
        return self._hits.get(user_id, 0)

    def admits(self, user_id: int) -> bool:
        """Count a connect, and say whether it is not too many."""
        if self._rate is None:
            return True
        most, seconds = self._rate
        now = time.monotonic()
        if now >= self._until:
            self._hits.clear()
            self._until = now + seconds
        self._hits[user_id] += 1
        return self._hits[user_id] <= most
