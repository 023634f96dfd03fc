"""`python -m benchmarks`: measure and report, or publish a kept report in docs/.

Exit code 0: measured. 1: something failed, was lost or doubled. 2: wrong usage.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.bench import Options, SetUpFailed
from benchmarks.growth import GROWTH
from benchmarks.run import SOCKETIO, has_target, run
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.targets import TARGETS
from tests.support.instance import InstanceFailed

_ROOT = Path(__file__).resolve().parents[1]
_REPORTS = _ROOT / "bench-report"
_ALL = [*SCENARIOS, *GROWTH]
_QUICK_SECONDS, _QUICK_WARM_SECONDS = 3.0, 1.0


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that what was started is stopped
    if given.list:
        for scenario in _ALL:
            print(f"{scenario.name:16} {scenario.title}")
        return 0
    if given.publish is not None:
        try:
            results = json.loads((given.publish / "results.json").read_text())
        except (OSError, ValueError) as error:
            parser.error(f"{given.publish} holds no results: {error}")
        report.publish(results, _ROOT / "docs")
        return 0
    chosen = _choose(parser, given)
    if given.beside is not None and not any(map(has_target, chosen)):
        parser.error(f"--beside measures {', '.join(sorted({target.scenario for target in TARGETS}))}: none was chosen")
    seconds = given.seconds or (_QUICK_SECONDS if given.quick else Options().seconds)
    warm_seconds = _QUICK_WARM_SECONDS if given.quick else Options().warm_seconds
    rounds = given.rounds or (1 if given.quick else 3)
    try:
        results = run(chosen, Options(seconds, warm_seconds), rounds, given.base or None, given.beside)
    except (InstanceFailed, SetUpFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    folder = given.out or _REPORTS / time.strftime("%Y%m%d-%H%M%S")
    _keep(folder, results)
    print(report.as_text(results), end="")
    print(f"report: {folder / 'report.html'}")
    return 1 if report.problems(results) else 0


def _choose(parser: argparse.ArgumentParser, given: argparse.Namespace) -> Sequence[Scenario]:
    if given.only:
        known = {scenario.name: scenario for scenario in _ALL}
        unknown = [name for name in given.only if name not in known]
        if unknown:
            parser.error(f"no such scenario: {', '.join(unknown)}; --list shows them")
        return [known[name] for name in given.only]
    if given.quick:
        return [scenario for scenario in _ALL if scenario.is_quick]
    # Growth compares a build with itself. Against a base it is measured when named.
    return SCENARIOS if given.base else _ALL


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--list", action="store_true", help="list the scenarios and exit")
    add(
        "--only",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        default=[],
        metavar="NAME[,NAME]",
        help="only these, in this order",
    )
    add("--quick", action="store_true", help="a few scenarios, one short round: does it work, and roughly how well")
    add("--seconds", type=_positive, help="each measurement lasts (6; 3 with --quick)")
    add("--rounds", type=_count, help="measurements of each scenario (3; 1 with --quick)")
    add("--base", metavar="REV", help="measure this commit as well, alternating, and tell ratios; growth only if named")
    add(
        "--beside",
        choices=[SOCKETIO],
        help="measure this peer as well, alternating, in the scenarios that have a target; needs Node 20 and npm, "
        "which fetches its packages the first time. It is a durable chat on two processes and a Redis of its own; "
        "docs/benchmarks.md says what it does and does not do",
    )
    add("--out", type=Path, help="folder of the report (bench-report/<time>)")
    add("--publish", type=Path, metavar="FOLDER", help="write a kept report into docs/benchmarks.md and .svg, and exit")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def _keep(folder: Path, results: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "report.html").write_text(report.as_html(results))


if __name__ == "__main__":
    sys.exit(main())
