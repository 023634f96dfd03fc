"""Figures of one measurement, and how those of several rounds and of two builds become one. No I/O."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

GENERATOR_LIMIT = 0.2  # of what it measures
GROWTH_LIMIT = 1.2


@dataclass(frozen=True, slots=True)
class Figures:
    """One measurement of one scenario on one build.

    unit: what is counted: message, delivery, connection, request
    cpu_ms: CPU-milliseconds per unit by process kind; their sum is the key figure
    latency_ms: p50, p90, p99, max; empty where nothing was timed
    generator_share: CPU of the load generator over CPU of the servers, in the same window
    foreign_cores: processors that were busy with neither, in the same window
    more: what only this scenario has, as figures that can be compared
    detail: what only results.json tells
    problems: what should be zero and was not: refused, lost, doubled …
    """

    unit: str
    count: int
    seconds: float
    cpu_ms: dict[str, float]
    latency_ms: dict[str, float]
    generator_share: float
    foreign_cores: float = 0.0
    kib_per_socket: float | None = None
    more: dict[str, float] = field(default_factory=dict)
    problems: Mapping[str, int] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)

    def measures(self) -> dict[str, float]:
        """Return every figure that can be compared, by name."""
        found = {
            "per_second": self.count / self.seconds if self.seconds else 0.0,
            "cpu_ms": sum(self.cpu_ms.values()),
            **{f"{name}_ms": value for name, value in self.latency_ms.items()},
            **self.more,
        }
        if self.kib_per_socket is not None:
            found["kib_per_socket"] = self.kib_per_socket
        return {name: value for name, value in found.items() if self.cpu_ms or name not in ("cpu_ms", "per_second")}

    def as_json(self) -> dict[str, Any]:
        """Return it as it stands in results.json."""
        return {
            "unit": self.unit,
            "count": self.count,
            "seconds": self.seconds,
            "cpu_ms": dict(self.cpu_ms),
            "generator_share": self.generator_share,
            "foreign_cores": self.foreign_cores,
            "measures": self.measures(),
            "problems": {name: count for name, count in self.problems.items() if count},
            **self.detail,
        }


def joined(parts: Sequence[Figures]) -> Figures:
    """Return measurements of the same thing at several times as one, without latencies. parts: not empty"""
    count = sum(part.count for part in parts)
    seconds = sum(part.seconds for part in parts)
    problems: dict[str, int] = {}
    for part in parts:
        for name, number in part.problems.items():
            problems[name] = problems.get(name, 0) + number
    return Figures(
        unit=parts[0].unit,
        count=count,
        seconds=seconds,
        cpu_ms={
            kind: sum(part.cpu_ms.get(kind, 0.0) * part.count for part in parts) / max(1, count)
            for kind in parts[0].cpu_ms
        },
        latency_ms={},
        generator_share=max(part.generator_share for part in parts),
        foreign_cores=sum(part.foreign_cores * part.seconds for part in parts) / (seconds or 1.0),
        problems=problems,
    )


def grown(by_factor: Mapping[int, Sequence[Figures]]) -> Figures:
    """Return what more of something does to the cost of a message: the figures of 1x, and the others' ratios to it.

    by_factor: how much more -> its measurements; 1 is among them
    """
    sizes = {factor: joined(parts) for factor, parts in by_factor.items()}
    whole = joined([part for parts in by_factor.values() for part in parts])
    costs = {factor: sum(size.cpu_ms.values()) for factor, size in sizes.items()}
    return replace(
        whole,
        cpu_ms=sizes[1].cpu_ms,
        more={f"cpu_ms_{factor}x": cost for factor, cost in costs.items()}
        | {f"growth_{factor}x": cost / costs[1] for factor, cost in costs.items() if factor != 1 and costs[1]},
        detail={
            "sizes": {
                f"{factor}x": {**size.cpu_ms, "per_second": size.count / size.seconds} for factor, size in sizes.items()
            }
        },
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of all do not exceed. ordered: rising, not empty."""
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def latency_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p90, p99 and max in milliseconds; nothing for nothing."""
    if not seconds:
        return {}
    ordered = sorted(seconds)
    return {
        "p50": 1000 * percentile(ordered, 0.5),
        "p90": 1000 * percentile(ordered, 0.9),
        "p99": 1000 * percentile(ordered, 0.99),
        "max": 1000 * ordered[-1],
    }


def per_unit_ms(before: Mapping[str, float], after: Mapping[str, float], count: int) -> dict[str, float]:
    """Return milliseconds per unit by kind from two readings in seconds."""
    return {kind: 1000 * (after[kind] - before[kind]) / max(1, count) for kind in after}


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """values: one for each round, not empty."""
        return cls(statistics.median(values), min(values), max(values))


def over_rounds(rounds: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Return the spread of each measure that every round has."""
    if not rounds:
        return {}
    names = [name for name in rounds[0] if all(name in one for one in rounds)]
    return {name: Spread.of([one[name] for one in rounds]) for name in names}


def ratios(ours: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Return ours over the base, round by round: a round's two measurements stand next to each other in time.

    A measure whose base is zero in some round has no ratio.
    """
    pairs = list(zip(ours, base, strict=False))
    if not pairs:
        return {}
    names = [name for name in pairs[0][0] if all(name in one and other.get(name) for one, other in pairs)]
    return {name: Spread.of([one[name] / other[name] for one, other in pairs]) for name in names}
