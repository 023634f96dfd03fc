"""The list of mutants fits the code: a break that no longer applies would prove nothing."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutants_fit(mutant: Mutant) -> None:
    """A mutant's text stands exactly once in its file, and its tests exist."""
    assert (ROOT / mutant.path).read_text().count(mutant.old) == 1
    for tests in mutant.tests:
        assert (ROOT / tests.partition("::")[0]).exists(), tests
