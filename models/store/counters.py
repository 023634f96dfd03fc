"""Counters that all web processes share: hits against a rate, amounts against a quota, and failures that lock.

A hit is one script, so that parallel requests cannot all pass. A counter that is lost with Redis's data starts at zero.
Hits, amounts and failures are not to be repeated: each time counts.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import limits

from models.store import keys
from models.store.connection import SCRIPTS, Command

_BRIEF_MS = 10_000


@dataclass(frozen=True, slots=True)
class Rate:
    """How often one may do something. name: of each counter's end, so that a rate that is changed begins anew"""

    name: str
    window_ms: int
    most: int

    @property
    def is_kept(self) -> bool:
        """Whether a count outlives a restart of Redis. One of some seconds does not: for it each send would wait for the disk."""
        return self.window_ms > _BRIEF_MS

    def key(self, what: str, who: str) -> str:
        return keys.counter(f"{what}/{who}/{self.name}")


@cache
def parse_rate(text: str) -> Rate | None:
    """Read a rate, as `100 per second`; None: `off`. Raises ValueError."""
    if text == "off":
        return None
    item = limits.parse(text)
    return Rate(f"{item.amount}/{item.multiples}/{item.GRANULARITY.name}", item.get_expiry() * 1000, item.amount)


def count_command(rate: Rate, what: str, who: str) -> Command:
    """Count a hit. The answer: 0 where the window holds no more than the rate allows, else the ms until it is over."""
    return SCRIPTS["count"].call([rate.key(what, who)], [rate.window_ms, rate.most, int(rate.is_kept)])


def spend_command(what: str, who: str, amount: int, *, window_ms: int, most: int, is_counted: bool) -> Command:
    """Take an amount of a quota, if all of it is left. The answer: 0 where it is, else the ms until the window is over.

    is_counted: False only asks, and takes nothing
    """
    key = keys.counter(f"{what}/{who}")
    return SCRIPTS["spend"].call([key], [window_ms, most, amount, int(is_counted)])


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
