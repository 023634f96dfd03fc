"""The matrix of faults and guarantees in docs/guarantees.md, made from kept verdicts and never typed by hand.

A row for each kind of fault, a column for each guarantee; a cell says how often the fault was injected in runs that check the
guarantee, and how many findings those runs had.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos.checker import GUARANTEES
from chaos.plan import FAULT_KINDS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guarantees.md"
BEGIN, END = "<!-- matrix: written by `python -m chaos --matrix` -->", "<!-- end of matrix -->"
_COLUMNS = [f"G{number}" for number in range(1, 9)]
_CHECKED = set(GUARANTEES.values()) - {"G5"}  # of G5 a run sees only that nothing refused gets through


@dataclass(frozen=True, slots=True)
class _Run:
    setup: str
    seed: int
    seconds: float
    revision: str
    accepted: int
    deliveries: int
    broken: dict[str, int]  # by guarantee
    faults: dict[str, int]
    recovery_seconds: dict[str, list[float]]


def write(paths: Iterable[Path], page: Path = PAGE) -> int:
    """Put the matrix of these verdicts between the page's markers. Return the exit code."""
    runs = []
    for path in paths:
        try:
            runs.append(_read(json.loads(path.read_text())))
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"chaos: {path} is no verdict: {error!r}", file=sys.stderr)
            return 2
    if not runs:
        print("chaos: no verdict is kept yet: run `make chaos` first", file=sys.stderr)
        return 2
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"chaos: {page} has no place for the matrix: {BEGIN} … {END}", file=sys.stderr)
        return 2
    page.write_text(f"{before}{BEGIN}\n\n{table(runs)}\n{END}{after}")
    print(f"{page}: {len(runs)} runs, {sum(sum(run.faults.values()) for run in runs)} faults")
    return 0


def _read(verdict: dict[str, Any]) -> _Run:
    broken: defaultdict[str, int] = defaultdict(int)
    for kind, count in verdict["broken"].items():
        broken[GUARANTEES[kind]] += count
    figures = verdict["figures"]
    return _Run(
        setup=verdict["setup"],
        seed=verdict["options"]["seed"],
        seconds=verdict["options"]["duration"],
        revision=verdict.get("revision", ""),
        accepted=figures["accepted200"] + figures["accepted202"] + figures["by_socket"],
        deliveries=figures["expected_deliveries"],
        broken=dict(broken),
        faults=verdict["faults"],
        recovery_seconds=verdict["recovery_seconds"],
    )


def table(runs: Sequence[_Run]) -> str:
    """Return the runs and the matrix as Markdown."""
    lines = [
        "| run | revision | sends accepted | deliveries owed | faults | broken |",
        "|---|---|---|---|---|---|",
        *[
            f"| {run.setup}, {run.seconds:.0f} s, seed {run.seed} | {run.revision or '–'} | {run.accepted:,} | {run.deliveries:,}"
            f" | {sum(run.faults.values())} | {_broken(run)} |"
            for run in runs
        ],
        "",
        f"| fault | {' | '.join(_COLUMNS)} | recovery: median, max |",
        f"|---|{'---|' * (len(_COLUMNS) + 1)}",
    ]
    for kind in FAULT_KINDS.values():
        concerned = [run for run in runs if run.faults.get(kind.name)]
        if not concerned:
            lines.append(f"| {kind.name} | {' | '.join(['not injected'] * len(_COLUMNS))} | |")
            continue
        count = sum(run.faults[kind.name] for run in concerned)
        cells = [
            f"{count}×, {sum(run.broken.get(column, 0) for run in concerned)} broken"
            if column in _CHECKED
            else "not touched"
            for column in _COLUMNS
        ]
        seen = sorted(second for run in concerned for second in run.recovery_seconds.get(kind.name, []))
        times = f"{statistics.median(seen):.1f} s, {seen[-1]:.1f} s" if seen else "only with others"
        lines.append(f"| {kind.name}: {kind.meaning} | {' | '.join(cells)} | {times} |")
    return "\n".join(lines) + "\n"


def _broken(run: _Run) -> str:
    return ", ".join(f"{count} of {guarantee}" for guarantee, count in sorted(run.broken.items()) if count) or "nothing"
