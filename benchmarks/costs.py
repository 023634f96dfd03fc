"""What the processes of an instance cost: processor time to the microsecond, by kind, and resident memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

import psutil

_HAS_CLOCKS = sys.platform == "linux"


class Gone(Exception):
    """A process ended while it was measured: what it had cost is lost, and the figure with it."""


def cpu_seconds(pid: int) -> float:
    """Return user + system time of a process, with all its threads. Raises Gone.

    Linux has a clock for every process (clock_getcpuclockid(3)) that counts nanoseconds; /proc counts hundredths of a second,
    which is a message or two dozen. Elsewhere psutil has to do.
    """
    try:
        if _HAS_CLOCKS:
            return time.clock_gettime((~pid << 3) | 2)
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    except (OSError, psutil.NoSuchProcess) as error:
        raise Gone(f"process {pid} ended during the measurement") from error


def cpu_by_kind(processes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the seconds each kind has used so far. Raises Gone."""
    return {kind: sum(map(cpu_seconds, pids)) for kind, pids in processes.items()}


def rss_kib(processes: Mapping[str, Sequence[int]]) -> float:
    """Return the resident memory of all, in KiB. Pages that processes share count for each. Raises Gone."""
    try:
        return sum(psutil.Process(pid).memory_info().rss for pids in processes.values() for pid in pids) / 1024
    except psutil.NoSuchProcess as error:
        raise Gone(f"process {error.pid} ended during the measurement") from error
