"""The list of mutants fits the code: a break that no longer applies would prove nothing."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_fit(mutant: Mutant) -> None:
    """A mutant's text stands exactly once in its file, and its tests exist."""
    assert (ROOT / mutant.path).read_text().count(mutant.old) == 1
    for tests in mutant.tests:
        path, _, name = tests.partition("::")
        assert (ROOT / path).exists(), tests
        assert not name or f"\ndef {name}(" in (ROOT / path).read_text(), tests


@pytest.mark.parametrize("guarantee", [f"G{number}" for number in range(1, 9)])
def test_each_guarantee_is_broken_in_two_ways_at_least(guarantee: str) -> None:
    """A guarantee that no mutant breaks would be a claim."""
    assert sum(mutant.guarantee == guarantee for mutant in MUTANTS) >= 2


def test_a_mutant_has_a_name_of_its_own() -> None:
    """Names are how mutants are run and cited."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
