"""The sizing rule: costs by part, loads foretold from them, and what is said where too little was measured."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import sizing
from benchmarks.scenarios import SCENARIOS

_COSTS = {"http_64": 1.0, "ws_64": 0.5, "group_200": 0.05, "idle_5000": 2.0, "history": 4.0}


def _round(cost: float, per_second: float = 100.0) -> dict[str, Any]:
    cpu_ms = {"web": cost / 2, "worker": cost / 4, "redis": cost / 8, "beat": cost / 16, "flower": cost / 16}
    return {"cpu_ms": cpu_ms, "measures": {"per_second": per_second, "kib_per_socket": 16.0}}


def _results(**more: dict[str, Any]) -> dict[str, Any]:
    rounds = {name: [_round(3 * cost), _round(cost), _round(cost / 3)] for name, cost in _COSTS.items()}
    rounds |= {name: [one] for name, one in more.items()}
    scenarios = {name: {"title": f"title of {name}", "rounds": {"ours": found}} for name, found in rounds.items()}
    return {"revision": "abc", "started_at": "2031-02-03T04:05:06", "scenarios": scenarios}


def test_costs_are_those_of_the_median_round_by_part() -> None:
    """What is none of the three parts that are sized is told together."""
    cost = sizing.costs(_results())

    assert cost["send by HTTP"] == {"web": 0.5, "worker": 0.25, "redis": 0.125, "other": 0.125}
    assert cost["connect"]["web"] == 1.0


def test_a_load_keeps_the_sum_of_its_units_busy() -> None:
    load = sizing.Load("some", {"send by HTTP": 100, "page of history": 10})

    assert sizing.cores(load, sizing.costs(_results())) == pytest.approx(
        {"web": 0.07, "worker": 0.035, "redis": 0.0175, "other": 0.0175}
    )


def test_what_was_foretold_stands_beside_what_was_measured() -> None:
    """Of other sizes of the same load, and of all of it at once."""
    text = sizing.as_markdown(_results(http_128=_round(0.8, 200.0), mixed=_round(0.5, 600.0)))

    assert "| title of http_128 | 0.2 | 0.16 | 0.8 |" in text
    assert "| all of it at once | 0.22 | 0.3 | 1.36 |" in text
    assert "An open socket takes 16 KiB." in text
    assert "extrapolated, not measured" in text


def test_a_rule_is_not_made_of_half_a_run() -> None:
    results = _results()
    del results["scenarios"]["history"]

    assert "|" not in sizing.as_markdown(results)


def test_each_cost_is_of_a_scenario_that_exists() -> None:
    assert {*sizing.UNITS.values(), *sizing._SAME_UNIT, "mixed"} <= {scenario.name for scenario in SCENARIOS}
