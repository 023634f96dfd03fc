"""Counters that all web processes share: hits against a rate, and failures that lock.

A hit is one script, so that parallel requests cannot all pass. A counter that is lost with Redis's data starts at zero.
"""

from __future__ import annotations

import hashlib

from models.store import keys
from models.store.connection import SCRIPTS, Command

_BRIEF_MS = 10_000


def count_command(name: str, *, window_ms: int, most: int) -> Command:
    """Count a hit. The answer: 0 where the window holds no more than `most`, else the ms until it is over.

    The count of a window of some seconds begins anew where Redis restarts: to keep it, each send would wait for the disk.
    """
    return SCRIPTS["count"].call([keys.counter(name)], [window_ms, most, int(window_ms > _BRIEF_MS)])


def locked_command(name: str, *, window_ms: int, most: int) -> Command:
    """The answer: ms until fewer than `most` failures stand in the window, 0 where fewer do."""
    return SCRIPTS["fail"].call([keys.failures(_digest(name))], [window_ms, most, 0])


def fail_command(name: str, *, window_ms: int, most: int) -> Command:
    """Note a failure. The answer is `locked_command`'s."""
    return SCRIPTS["fail"].call([keys.failures(_digest(name))], [window_ms, most, 1])


def forgive_command(name: str) -> Command:
    return ("DEL", keys.failures(_digest(name)))


def _digest(name: str) -> str:
    """What people type as their name, now and then their password, is not to be read in Redis."""
    return hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=16).hexdigest()
