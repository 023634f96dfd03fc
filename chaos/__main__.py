"""`python -m chaos`: run and judge, judge a kept history again, or write the matrix of faults and guarantees.

Exit code 0: every promise was kept. 1: one was broken, or the run failed. 2: wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

from chaos import matrix, report, timeline
from chaos.checker import check
from chaos.history import History
from chaos.plan import FAULT_KINDS, Step
from chaos.proxy import ProxyFailed
from chaos.run import NotEmpty, Options, Result, refuse_used, run
from tests.support.instance import InstanceFailed
from tests.support.revision import GitFailed, this_revision

_ROOT = Path(__file__).resolve().parents[1]
_REPORTS = _ROOT / "chaos-report"


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.kinds:
        return _list_kinds()
    if given.matrix is not None:
        return matrix.write(given.matrix or sorted(_REPORTS.glob("*/verdict.json")))
    if given.check is not None:
        return _check_again(given.check)
    unknown = [kind for kind in given.faults if kind not in FAULT_KINDS]
    if unknown:
        parser.error(f"no such fault: {', '.join(unknown)}; --kinds lists them")
    seed = random.SystemRandom().randrange(1, 2**31) if given.seed is None else given.seed
    options = Options(
        duration=given.duration,
        seed=seed,
        rate=given.rate,
        fault_every=given.fault_every,
        database_url=given.database_url,
        broker_url=given.broker_url,
        redis_url="" if given.redis in ("", "embedded") else given.redis,
        kinds=tuple(given.faults),
    )
    try:
        refuse_used(options)
    except NotEmpty as error:
        parser.error(str(error))
    return _run(options, given.out)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--duration", type=_positive, default=600.0, help="seconds of load (600)")
    add("--seed", type=int, help="draws the faults and the clients; printed; random if not given")
    add("--rate", type=_positive, default=200.0, help="sends a second, all users together (200)")
    add("--fault-every", type=_positive, default=5.0, help="seconds between faults (5)")
    # From the environment too, so that a password need not show in the list of processes.
    add(
        "--database-url",
        default=os.environ.get("CHAOS_DATABASE_URL", ""),
        help="SQLAlchemy URL of an empty database (CHAOS_DATABASE_URL, else SQLite of its own)",
    )
    add(
        "--broker-url",
        default=os.environ.get("CHAOS_BROKER_URL", ""),
        help="such as amqp:// (CHAOS_BROKER_URL, else the same Redis)",
    )
    add(
        "--redis",
        default=os.environ.get("CHAOS_REDIS", ""),
        help="embedded, or the URL of an empty Redis, which is neither killed nor emptied (CHAOS_REDIS, else embedded)",
    )
    add(
        "--faults",
        type=lambda text: [kind.strip() for kind in text.split(",")],
        default=[],
        help="only these, by comma",
    )
    add("--out", type=Path, help="folder of the report (chaos-report/<time>-<seed>)")
    add("--kinds", action="store_true", help="list the faults and exit")
    add("--check", type=Path, metavar="HISTORY", help="judge a kept history.jsonl again and exit")
    add(
        "--matrix",
        type=Path,
        nargs="*",
        metavar="VERDICT",
        help="write the matrix in docs/guarantees.md from these verdict.json files (all in chaos-report/) and exit",
    )
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _list_kinds() -> int:
    for kind in FAULT_KINDS.values():
        print(f"{kind.name:20} {kind.meaning}")
    return 0


def _check_again(path: Path) -> int:
    try:
        history = History.read(path)
    except (OSError, ValueError) as error:
        print(f"chaos: {path} cannot be judged: {error}", file=sys.stderr)
        return 2
    verdict = check(history)
    print(report.as_text(None, history, verdict), end="")
    return 0 if verdict.ok else 1


def _run(options: Options, out: Path | None) -> int:
    folder = out or _REPORTS / f"{time.strftime('%Y%m%d-%H%M%S')}-{options.seed}"
    plan = options.plan()
    print(f"seed {options.seed}: {options.duration:.0f} s at {options.rate:.0f} sends/s on {options.setup}")
    print("plan (a slot waits for the recovery of the one before):")
    for step in plan:
        print(f"  {step}")
    print(f"report: {folder}", flush=True)
    try:
        result = run(options, folder / "log")
    except (InstanceFailed, ProxyFailed) as error:
        print(f"chaos: the run failed: {error}", file=sys.stderr)
        return 1
    _keep(folder, options, plan, result)
    print(report.as_text(options, result.history, result.verdict, result.foreign_load), end="")
    print(f"report: {folder}")
    return 0 if result.verdict.ok else 1


def _keep(folder: Path, options: Options, plan: list[Step], result: Result) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    result.history.write(folder / "history.jsonl")
    (folder / "verdict.txt").write_text(report.as_text(options, result.history, result.verdict, result.foreign_load))
    as_json = report.as_json(options, result.history, result.verdict, plan, result.foreign_load, _revision())
    (folder / "verdict.json").write_text(json.dumps(as_json, indent=1) + "\n")
    (folder / "timeline.svg").write_text(
        timeline.draw(result.history, result.verdict, f"seed {options.seed}, {options.setup}")
    )


def _revision() -> str:
    try:
        return this_revision()
    except GitFailed:
        return ""  # no checkout of git: an archive can be put to the test too


if __name__ == "__main__":
    sys.exit(main())
