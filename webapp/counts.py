"""What this web process has counted: plain numbers, so that counting costs a fraction of a microsecond.

`webapp/metrics.py` gives them out. Counts only rise; gauges (`sockets`) follow what is. Only the hub's thread counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import Any

# Seconds. A send usually takes 5 to 50 ms; SEND_WAIT_SECONDS is 5.
REQUEST_BOUNDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counts:
    """The counts of one process, by what they are told apart by."""

    __slots__ = (
        "accepted",
        "acknowledgements",
        "bounds",
        "closed",
        "entries",
        "failures",
        "request_buckets",
        "request_seconds",
        "requests",
        "sockets",
        "upload_bytes",
        "uploads",
        "verdicts",
    )

    def __init__(self) -> None:
        self.requests: defaultdict[tuple[str, int], int] = defaultdict(int)  # route, status
        # Per route: how many took at most each bound and more than the one before; last: longer than all.
        self.request_buckets: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(REQUEST_BOUNDS) + 1))
        self.request_seconds: defaultdict[str, float] = defaultdict(float)
        self.failures: defaultdict[str, int] = defaultdict(int)  # code
        self.accepted: defaultdict[str, int] = defaultdict(int)  # kind of request
        self.verdicts: defaultdict[str, int] = defaultdict(int)  # code, `stored` where there is none
        self.sockets: defaultdict[int, int] = defaultdict(int)  # protocol; a gauge
        self.entries: defaultdict[int, int] = defaultdict(int)  # protocol
        self.acknowledgements = 0
        self.bounds: defaultdict[str, int] = defaultdict(int)  # name of the setting that says no
        self.uploads: defaultdict[str, int] = defaultdict(int)  # kind of file
        self.upload_bytes: defaultdict[str, int] = defaultdict(int)  # kind of file
        self.closed: defaultdict[str, int] = defaultdict(int)  # close code, `dropped` where TCP was dropped instead

    def add_request(self, route: str, status: int, seconds: float) -> None:
        self.requests[route, status] += 1
        self.request_buckets[route][bisect_left(REQUEST_BOUNDS, seconds)] += 1
        self.request_seconds[route] += seconds

    def snapshot(self) -> dict[str, Any]:
        """Return everything as JSON has it: keys with several parts become lists in lists."""
        return {
            "requests": [[route, status, count] for (route, status), count in self.requests.items()],
            "request_buckets": list(map(list, self.request_buckets.items())),
            "request_seconds": list(map(list, self.request_seconds.items())),
            "failures": list(map(list, self.failures.items())),
            "accepted": list(map(list, self.accepted.items())),
            "verdicts": list(map(list, self.verdicts.items())),
            "sockets": list(map(list, self.sockets.items())),
            "entries": list(map(list, self.entries.items())),
            "acknowledgements": [[self.acknowledgements]],
            "bounds": list(map(list, self.bounds.items())),
            "uploads": list(map(list, self.uploads.items())),
            "upload_bytes": list(map(list, self.upload_bytes.items())),
            "closed": list(map(list, self.closed.items())),
        }


counts = Counts()
