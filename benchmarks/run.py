"""A whole run: the instances, the rounds over them, and what is known of the machine.

Against a base, or beside a peer, it goes A B A B: each round measures one after the other.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.bench import ENVIRONMENT, Bench, Options, OwnBench, SetUpFailed
from benchmarks.costs import Gone
from benchmarks.figures import Figures, over_rounds, ratios
from benchmarks.peer import PeerBench, SocketIoServer, versions
from benchmarks.scenarios import Scenario
from benchmarks.targets import TARGETS
from tests.support.instance import Instance, InstanceFailed
from tests.support.revision import git, revision_of, this_revision

_ROOT = Path(__file__).resolve().parents[1]
_START_SECONDS = 300.0
_GROUP_SIZE, _QUICK_GROUP_SIZE = 1_000, 200
_MIN_USERS = 300
# For what scenarios use up: each takes pairs of its own from the end.
_SPARE_USERS = 60
_OPEN_FILES = 30_000

OURS, BASE = "ours", "base"
SOCKETIO = "socketio"


def run(
    scenarios: Sequence[Scenario], options: Options, rounds: int, base: str | None, beside: str | None = None
) -> dict[str, Any]:
    """Measure and return what results.json holds. beside: SOCKETIO, to measure it where a target is.

    Raises InstanceFailed, SetUpFailed: nothing could be started.
    """
    _raise_open_files_limit()
    users = max(_MIN_USERS, *(scenario.users for scenario in scenarios)) + _SPARE_USERS
    group_size = max(_QUICK_GROUP_SIZE, *(_GROUP_SIZE if one.name == "group_1000" else 0 for one in scenarios))
    results: dict[str, Any] = {
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine(),
        "revision": this_revision(),
        "base": None,
        "beside": {},
        "settings": ENVIRONMENT,
        "seconds": options.seconds,
        "scenarios": {},
    }
    with ExitStack() as stack:
        results["base"] = revision_of(base) if base is not None else None
        benches: dict[str, Bench] = {
            side: OwnBench(instance, options, group_size)
            for side, instance in start_builds(stack, results["base"], users, group_size).items()
        }
        if beside is not None:
            print(f"starting {beside} with {users} users", flush=True)
            server = SocketIoServer()
            stack.callback(server.delete)
            stack.callback(server.stop)
            server.start()
            server.seed(users)
            benches[beside] = PeerBench(server, options)
            results["beside"][beside] = versions()
        for scenario in scenarios:
            sides = {side: bench for side, bench in benches.items() if side != beside or has_target(scenario)}
            results["scenarios"][scenario.name] = _measure(scenario, sides, rounds)
    results["ended_at"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    return results


def start_builds(stack: ExitStack, base: str | None, users: int, group_size: int) -> dict[str, Instance]:
    """Start this build, and the one of revision `base` beside it; they are stopped and deleted with the stack.

    Raises InstanceFailed, SetUpFailed.
    """
    roots = {OURS: _ROOT}
    if base is not None:
        roots[BASE] = stack.enter_context(_worktree(base))
    instances = {}
    for side, root in roots.items():
        print(f"starting {side} with {users} users", flush=True)
        instance = Instance(ENVIRONMENT, root)
        stack.callback(instance.delete)
        stack.callback(instance.stop)
        instance.start(_START_SECONDS)
        instance.seed(users, group_size)
        instances[side] = instance
    return instances


def has_target(scenario: Scenario) -> bool:
    """Say whether a scenario is measured on a peer: its work is the same there, and its figure stands in the table."""
    return any(target.scenario == scenario.name for target in TARGETS)


def _measure(scenario: Scenario, benches: dict[str, Bench], rounds: int) -> dict[str, Any]:
    found: dict[str, list[Figures]] = {side: [] for side in benches}
    failures: list[str] = []
    for number in range(rounds):
        for side, bench in benches.items():
            try:
                bench.prepare()
                figures = scenario.run(bench)
            except (Gone, SetUpFailed, InstanceFailed) as error:
                failures.append(f"{side}, round {number + 1}: {error}")
                print(f"{scenario.name:16} {side} failed: {error}", flush=True)
                continue
            found[side].append(figures)
            print(f"{scenario.name:16} {side} {_in_a_line(figures)}", flush=True)
    return summary(scenario, found, failures)


def summary(scenario: Scenario, found: dict[str, list[Figures]], failures: list[str]) -> dict[str, Any]:
    """Return what results.json holds of a scenario. found: by side, one for each round"""
    measured = {side: [figures.measures() for figures in rounds] for side, rounds in found.items()}
    result: dict[str, Any] = {
        "title": scenario.title,
        "is_growth": scenario.is_growth,
        "rounds": {side: [figures.as_json() for figures in rounds] for side, rounds in found.items()},
        "figures": {side: _spreads(over_rounds(one)) for side, one in measured.items()},
        "failures": failures,
    }
    if BASE in measured:
        result["ratios"] = _spreads(ratios(measured[OURS], measured[BASE]))
    return result


def _spreads(spreads: dict[str, Any]) -> dict[str, dict[str, float]]:
    return {name: {"median": one.median, "low": one.low, "high": one.high} for name, one in spreads.items()}


def _in_a_line(figures: Figures) -> str:
    measures = figures.measures()
    shown = [f"{name} {value:.4g}" for name, value in measures.items()]
    problems = [f"{count} {name}!" for name, count in figures.problems.items() if count]
    return "  ".join(
        [*shown, f"generator {figures.generator_share:.0%}", f"others {figures.foreign_cores:.1f}", *problems]
    )


# The machine and the builds


def machine() -> dict[str, Any]:
    """Return what figures depend on besides the build."""
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "processor": _processor(),
        "python": platform.python_version(),
        "load_at_start": [round(load, 2) for load in os.getloadavg()],
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def _worktree(revision: str) -> Iterator[Path]:
    """Check a revision out beside us, and remove it at the end. It runs on our packages."""
    with tempfile.TemporaryDirectory(prefix="hy-base-") as folder:
        root = Path(folder) / revision
        git("worktree", "add", "--detach", str(root), revision)
        try:
            yield root
        finally:
            git("worktree", "remove", "--force", str(root))


def _raise_open_files_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if wanted < 6_000:
        print(f"only {wanted} files may be open: the idle sockets will not fit", file=sys.stderr)
