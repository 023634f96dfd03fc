"""The sizing rule of docs/operations.md: what a unit of each kind costs, how well that foretells other loads, and how far it goes.

Costs are those of a loaded system, where work shares wake-ups: an idle one pays more for a message and has room for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]

BEGIN = "<!-- sizing: written by python -m benchmarks --publish -->"
END = "<!-- end of sizing -->"

# What a unit is, and the scenario that shows its cost.
UNITS = {
    "send by HTTP": "http_64",
    "send by websocket": "ws_64",
    "delivery in a group": "group_200",
    "connect": "idle_5000",
    "page of history": "history",
}
_PARTS = ("web", "worker", "redis")
_USE = 0.6  # of a processor: above it queues grow faster than throughput


@dataclass(frozen=True, slots=True)
class Load:
    """So much of each unit a second, and so many open sockets."""

    name: str
    units: Mapping[str, float]
    sockets: int = 0


# A second of `mixed` (benchmarks/scenarios.py), and what larger deployments may look like.
MIXED = Load(
    "all of it at once",
    {"send by HTTP": 100, "send by websocket": 100, "delivery in a group": 400, "page of history": 10, "connect": 5},
)
LARGER = (
    Load(
        "5,000 users", {"send by HTTP": 50, "send by websocket": 50, "delivery in a group": 1_000, "connect": 5}, 5_000
    ),
    Load(
        "50,000 users",
        {"send by HTTP": 500, "send by websocket": 500, "delivery in a group": 10_000, "connect": 50},
        50_000,
    ),
)
_SAME_UNIT = {"http_16": "send by HTTP", "http_128": "send by HTTP", "open_1000": "send by HTTP"} | {
    "ws_16": "send by websocket",
    "ws_128": "send by websocket",
    "group_1000": "delivery in a group",
}


def costs(results: Results) -> dict[str, dict[str, float]]:
    """Return CPU-ms per unit by part (web, worker, redis, other); units that were not measured are left out."""
    found = {}
    for unit, scenario in UNITS.items():
        rounds = _rounds(results, scenario)
        if rounds:
            found[unit] = _by_part(_middle(rounds))
    return found


def cores(load: Load, cost: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the processors that a load keeps busy, by part."""
    parts = (*_PARTS, "other")
    return {part: sum(rate * cost[unit][part] for unit, rate in load.units.items()) / 1000 for part in parts}


def as_markdown(results: Results) -> str:
    """Return the costs, the check and the extrapolation as tables; a sentence where too little was measured."""
    cost = costs(results)
    if set(cost) != set(UNITS):
        return "The last published run did not measure all units."
    kib = _middle(_rounds(results, "idle_5000"))["measures"]["kib_per_socket"]
    parts = (*_PARTS, "other")
    unit_rows = [["CPU-ms for one", *parts, "all"]]
    unit_rows += [[unit, *_numbers(each, parts), _number(sum(each.values()))] for unit, each in cost.items()]
    check_rows = [["load", "processors foretold", "measured", "measured / foretold"]]
    for title, foretold, measured in _checks(results, cost):
        check_rows.append([title, _number(foretold), _number(measured), _number(measured / foretold)])
    larger_rows = [
        ["extrapolated, not measured", *(f"{part}, processors" for part in _PARTS), "memory of sockets, GiB"]
    ]
    for load in LARGER:
        busy = cores(load, cost)
        rates = ", ".join(f"{rate:,.0f} x {unit}" for unit, rate in load.units.items())
        rooms = [f"{_number(busy[part] / _USE)}" for part in _PARTS]
        larger_rows.append([f"{load.name}: a second {rates}", *rooms, _number(load.sockets * kib / 2**20)])
    tables = ["\n".join(_table(rows)) for rows in (unit_rows, check_rows, larger_rows)]
    intro = (
        f"From the run of revision {results['revision']}, {results['started_at'][:10]} (docs/benchmarks.md has the machine). An open"
        f" socket takes {_number(kib)} KiB."
    )
    return "\n\n".join([intro, *tables])


def _checks(results: Results, cost: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float, float]]:
    """Return title, processors foretold and measured, of loads that the costs were not taken from."""
    found = []
    for scenario, unit in _SAME_UNIT.items():
        rounds = _rounds(results, scenario)
        if rounds:
            one = _middle(rounds)
            rate = one["measures"]["per_second"]
            foretold = sum(cores(Load(scenario, {unit: rate}), cost).values())
            found.append((results["scenarios"][scenario]["title"], foretold, _busy(one)))
    mixed = _rounds(results, "mixed")
    if mixed:
        found.append((MIXED.name, sum(cores(MIXED, cost).values()), _busy(_middle(mixed))))
    return found


def _rounds(results: Results, scenario: str) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = results["scenarios"].get(scenario, {}).get("rounds", {}).get("ours", [])
    return found


def _middle(rounds: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the round of median cost."""
    return sorted(rounds, key=lambda one: sum(one["cpu_ms"].values()))[len(rounds) // 2]


def _busy(one: Mapping[str, Any]) -> float:
    return float(sum(one["cpu_ms"].values()) * one["measures"]["per_second"] / 1000)


def _by_part(one: Mapping[str, Any]) -> dict[str, float]:
    parts = dict.fromkeys((*_PARTS, "other"), 0.0)
    for kind, value in one["cpu_ms"].items():
        parts[kind if kind in parts else "other"] += value
    return parts


def _numbers(values: Mapping[str, float], names: tuple[str, ...]) -> list[str]:
    return [_number(values[name]) for name in names]


def _number(value: float) -> str:
    return f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"


def _table(rows: list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{'---|' * len(rows[0])}")
    return lines
