"""How often a user may connect to this process (`RATE_LIMIT_CONNECTS`), counted in fixed windows without asking Redis."""

from __future__ import annotations

import time
from collections import defaultdict

from models.store.counters import Rate


class ConnectRate:
    """Counts the connects of each user in this process. One window for all, so that it remembers nobody for longer."""

    def __init__(self, rate: Rate | None) -> None:
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
        now = time.monotonic()
        if now >= self._until:
            self._hits.clear()
            self._until = now + self._rate.window_ms / 1000
        self._hits[user_id] += 1
        return self._hits[user_id] <= self._rate.most
