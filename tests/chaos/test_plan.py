"""The plan of a run: drawn from the seed, complete, and with room to see each recovery."""

from __future__ import annotations

import itertools

import pytest

from chaos.plan import FAULT_KINDS, draw_plan, kinds_for

_DEFAULT = kinds_for(frozenset({"redis", "redis proxy", "sqlite"}))
_EVERYTHING = frozenset({"redis", "redis proxy", "sql proxy", "broker proxy"})


def test_a_seed_gives_one_plan() -> None:
    """The same seed draws the same faults, another seed others."""
    assert draw_plan(7, 600, 5, _DEFAULT) == draw_plan(7, 600, 5, _DEFAULT)
    assert draw_plan(7, 600, 5, _DEFAULT) != draw_plan(8, 600, 5, _DEFAULT)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("provided", [frozenset({"redis", "redis proxy", "sqlite"}), _EVERYTHING])
def test_ten_minutes_hold_every_kind(seed: int, provided: frozenset[str]) -> None:
    """A run of ten minutes injects each kind that it can."""
    kinds = kinds_for(provided)

    plan = draw_plan(seed, 600, 5, kinds)

    assert {step.kind for step in plan} == set(kinds)
    assert len(plan) > 80


@pytest.mark.parametrize("seed", range(20))
def test_a_fault_leaves_time_to_see_its_recovery(seed: int) -> None:
    """No fault begins within five seconds of another's end, but those that strike together; none near the end."""
    plan = draw_plan(seed, 300, 5, _DEFAULT)

    for before, after in itertools.pairwise(plan):
        assert after.slot == before.slot or after.at >= before.at + before.seconds + 5 - 1e-6
    assert max(step.at + step.seconds for step in plan) <= 300 - 7


def test_what_is_not_ours_is_not_harmed() -> None:
    """An external Redis is neither killed nor emptied, and only what is reached through the proxy is cut."""
    kinds = kinds_for(frozenset({"redis proxy", "sqlite"}))

    assert not {"kill redis", "stop redis", "empty redis", "cut sql", "cut broker"} & set(kinds)
    assert {"cut redis", "lock sql"} <= set(kinds)
    assert set(kinds) < set(FAULT_KINDS)
