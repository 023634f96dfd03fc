"""What becomes of measurements: percentiles, costs a unit, medians of rounds, ratios to a base."""

from __future__ import annotations

import pytest

from benchmarks.figures import Figures, Spread, grown, latency_ms, over_rounds, per_unit_ms, percentile, ratios


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7.0], 0.5, 7.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([1.0, 2.0, 3.0], 0.5, 2.0),
        ([float(value) for value in range(1, 101)], 0.9, 90.0),
        ([float(value) for value in range(1, 101)], 0.99, 99.0),
        ([float(value) for value in range(1, 102)], 0.99, 100.0),
        ([float(value) for value in range(1, 101)], 1.0, 100.0),
        ([float(value) for value in range(1, 101)], 0.0, 1.0),
    ],
)
def test_a_percentile_is_the_smallest_value_that_covers_the_share(
    values: list[float], share: float, expected: float
) -> None:
    assert percentile(values, share) == expected


def test_latencies_are_told_in_milliseconds_whatever_their_order() -> None:
    found = latency_ms([0.004, 0.001, 0.003, 0.002])

    assert found == pytest.approx({"p50": 2.0, "p90": 4.0, "p99": 4.0, "max": 4.0})


def test_nothing_timed_has_no_latency() -> None:
    assert latency_ms([]) == {}


def test_costs_are_told_a_unit_and_by_kind() -> None:
    found = per_unit_ms({"web": 10.0, "redis": 1.0}, {"web": 12.0, "redis": 1.5}, 1_000)

    assert found == pytest.approx({"web": 2.0, "redis": 0.5})


def _figures(**more: float) -> Figures:
    return Figures(
        "message",
        100,
        2.0,
        {"web": 0.3, "redis": 0.1},
        {"p50": 4.0},
        0.1,
        more=more,
        problems={"lost": 0, "doubled": 2},
    )


def test_the_key_figure_is_the_sum_over_all_kinds() -> None:
    assert _figures(seconds=1.5).measures() == pytest.approx(
        {"per_second": 50.0, "cpu_ms": 0.4, "p50_ms": 4.0, "seconds": 1.5}
    )


def test_only_problems_that_happened_are_kept() -> None:
    assert _figures().as_json()["problems"] == {"doubled": 2}


def test_rounds_become_their_median_and_range() -> None:
    found = over_rounds([{"cpu_ms": 3.0, "p50_ms": 1.0}, {"cpu_ms": 1.0}, {"cpu_ms": 2.0, "p50_ms": 1.0}])

    assert found == {"cpu_ms": Spread(2.0, 1.0, 3.0)}


def test_a_ratio_compares_the_two_measurements_of_a_round() -> None:
    """Between rounds the machine slowed down fourfold; within each ours costs half more."""
    ours, base = [{"cpu_ms": 1.5}, {"cpu_ms": 6.0}], [{"cpu_ms": 1.0}, {"cpu_ms": 4.0}]

    assert ratios(ours, base) == {"cpu_ms": Spread(1.5, 1.5, 1.5)}


def test_there_is_no_ratio_to_nothing() -> None:
    assert ratios([{"idle_cores": 0.1, "cpu_ms": 1.0}], [{"idle_cores": 0.0, "cpu_ms": 2.0}]) == {
        "cpu_ms": Spread(0.5, 0.5, 0.5)
    }
    assert ratios([{"cpu_ms": 1.0}], []) == {}


def _part(count: int, cost: float, **problems: int) -> Figures:
    return Figures("message", count, 1.0, {"web": cost, "redis": 0.0}, {}, 0.1, problems=problems)


def test_growth_weighs_each_visit_by_what_it_delivered() -> None:
    found = grown(
        {1: [_part(100, 1.0), _part(300, 2.0)], 4: [_part(100, 1.75, lost=1), _part(100, 1.75)], 16: [_part(50, 3.5)]}
    )

    assert found.measures() == pytest.approx(
        {
            "per_second": 130.0,
            "cpu_ms": 1.75,
            "cpu_ms_1x": 1.75,
            "cpu_ms_4x": 1.75,
            "cpu_ms_16x": 3.5,
            "growth_4x": 1.0,
            "growth_16x": 2.0,
        }
    )
    assert found.as_json()["sizes"]["16x"] == {"web": 3.5, "redis": 0.0, "per_second": 50.0}
    assert found.as_json()["problems"] == {"lost": 1}
