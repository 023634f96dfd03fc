"""`docs/flaws.md` answers for every flaw of the original that a simple test can show, and names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
# The list of the original's flaws is no part of this repository. These are its deterministic ones on presence and
# sockets (A), queue and replay (B), sending (C), recall (D), accounts, settings and profiles (E), friends and groups (F), files,
# questions and complaints (G).
_FLAWS = (
    *(f"A{number}" for number in (1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15, 16)),
    *(f"B{number}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15)),
    *(f"C{number}" for number in (1, 2, 3, 4, 6, 7, 8, 9, 10, 12, 13, 14, 16, 19, 22)),
    *(f"D{number}" for number in (1, 2, 3, 4, 5)),
    *(f"E{number}" for number in (*range(1, 13), *range(14, 24))),
    *(f"F{number}" for number in (1, 2, 3, 4, 5, 6, 19, 20, 21)),
    *(f"F{number}" for number in (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 22)),
    *(f"G{number}" for number in (1, 3, 4, 5, 6)),
)
_ROW = re.compile(
    r"^\| (?P<id>[A-G]\d+) \| (?P<original>[^|]+) \| (?P<here>[^|]+) \| (?P<test>[^|]+) \|$", re.MULTILINE
)
_ROWS = {row["id"]: row["test"].strip("`") for row in _ROW.finditer((_ROOT / "docs" / "flaws.md").read_text())}


def test_every_flaw_has_its_row() -> None:
    """Each flaw has a row, in order, and no row is about anything else."""
    assert list(_ROWS) == list(_FLAWS)


def test_no_flaw_is_without_a_test() -> None:
    """A row is a claim, and each names the test that shows it."""
    assert {flaw for flaw, test in _ROWS.items() if "::" not in test} == set()


@pytest.mark.parametrize("flaw", list(_ROWS))
def test_the_test_of_a_flaw_exists(flaw: str) -> None:
    """The test that a row names stands in the file it names."""
    path, _, name = _ROWS[flaw].partition("::")

    functions = [node.name for node in ast.parse((_ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]

    assert name in functions
