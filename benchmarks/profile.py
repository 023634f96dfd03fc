"""`python -m benchmarks.profile`: where the processors' time goes, part by part, of this build and of an earlier one.

py-spy samples the web processes and the workers while a scenario is measured, some hundred times a second. Each sample's
stack belongs to the first part that knows one of its functions; a part's share of the samples is its share of what its kind of
process costs a message. Sampling costs a few percent: figures without it are those of `python -m benchmarks`.

Exit code 0: measured. 1: something could not be started. 2: wrong usage.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Options, OwnBench, SetUpFailed, Window
from benchmarks.figures import Figures
from benchmarks.load import Load
from benchmarks.report import between
from benchmarks.run import BASE, OURS, machine, start_builds
from benchmarks.scenarios import SCENARIOS, Scenario
from tests.support.instance import InstanceFailed
from tests.support.revision import revision_of, this_revision

BEGIN = "<!-- profile: written by python -m benchmarks.profile --publish -->"
END = "<!-- end of profile -->"
_PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
_USUAL = ("http_64", "ws_64")
_USERS, _GROUP_SIZE = 360, 200
_SAMPLES_A_SECOND = 250
_START_SECONDS = 1.5  # py-spy needs it to find its way in the process
_OTHER = "everything else"
_WAITS = "acquire_with_timeout "  # a native thread of gevent's with nothing to do, which py-spy takes for a busy one
_PY_SPY = Path(sys.executable).with_name("py-spy")

# By kind of process, in order: the first part with a function in the stack takes the sample.
PARTS: Mapping[str, Sequence[tuple[str, Sequence[str]]]] = {
    "web": (
        ("the view: token, session, rate, validation, waits", ("post_message ",)),
        ("Flask and Werkzeug", ("Flask.wsgi_app ", "Repeaters.__call__ ")),
        ("frames from sockets", ("Transport._read ",)),
        ("news: verdicts and deliveries", ("Listener._listen ",)),
        ("Redis: sessions, rates, acceptance", ("Batcher._serve ",)),
        ("writing answers", ("SocketMixin.sendall ", "PlainRequests._encode ")),
        (
            "reading requests: gunicorn, or in its place",
            ("gunicorn/workers/", "gunicorn/http/", "PlainRequests.serve "),
        ),
        ("the event loop", ("Hub.run ",)),
    ),
    "worker": (
        ("begin and commit", ("Database.writing ",)),
        ("statements of the transaction", ("_Decision._insert ",)),
        ("facts and decisions", ("Decider.gather ", "Decider.decide ")),
        ("inboxes and logs", ("Applier.apply ",)),
        ("news", ("News.commands ", "Drain._settle_whole ")),
        ("leases, looks, the doorbell", ("Drain._read ", "Doorbell.wait ", "Drain._leave ")),
    ),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """Of one scenario on one build: CPU-ms a message by kind of process, and samples by kind and part."""

    cpu_ms: Mapping[str, float]
    samples: Mapping[str, Counter[str]]

    def rows(self) -> dict[tuple[str, str], tuple[float, float]]:
        """Return share of its kind and CPU-ms a message, by (kind, part)."""
        found = {}
        for kind, parts in PARTS.items():
            total = sum(self.samples[kind].values()) or 1
            for part in [*(title for title, _ in parts), _OTHER]:
                share = self.samples[kind][part] / total
                found[kind, part] = share, share * self.cpu_ms[kind]
        return found


def sort_samples(kind: str, lines: Iterable[str]) -> Counter[str]:
    """Count samples by part. lines: as py-spy writes them, `function (file:line);…;function (file:line) count`"""
    found: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if _WAITS in stack:
            continue
        part = next((title for title, known in PARTS[kind] if any(name in stack for name in known)), _OTHER)
        found[part] += int(count)
    return found


class _SampledBench(OwnBench):
    """Samples its processes while it measures."""

    samples: Mapping[str, Counter[str]]

    def window(self, load: Load) -> Window:
        return _SampledWindow(self, load)


class _SampledWindow(Window):
    def __init__(self, bench: _SampledBench, load: Load) -> None:
        self._sampled = bench
        self._folder = Path(tempfile.mkdtemp(prefix="hy-profile-"))
        seconds = max(1, round(bench.options.seconds - _START_SECONDS))
        self._running = [
            (kind, path, _sample(pid, seconds, path))
            for kind in PARTS
            for pid in bench.processes[kind]
            for path in [self._folder / f"{kind}-{pid}"]
        ]
        super().__init__(bench, load)

    def end(
        self, unit: str, count: int | None = None, latencies: Sequence[float] | None = None, **more: float
    ) -> Figures:
        found = super().end(unit, count, latencies, **more)
        samples: dict[str, Counter[str]] = {kind: Counter() for kind in PARTS}
        try:
            for kind, path, process in self._running:
                _, said = process.communicate()
                if process.returncode:
                    raise SetUpFailed(f"py-spy: {said.decode(errors='replace').strip()[:300]}")
                samples[kind] += sort_samples(kind, path.read_text().splitlines())
        finally:
            shutil.rmtree(self._folder)
        self._sampled.samples = samples
        return found


def _sample(pid: int, seconds: int, path: Path) -> subprocess.Popen[bytes]:
    command = [str(_PY_SPY), "record", "--pid", str(pid), "--duration", str(seconds), "--rate", str(_SAMPLES_A_SECOND)]
    return subprocess.Popen(
        [*command, "--format", "raw", "--output", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _measure(scenario: Scenario, benches: Mapping[str, _SampledBench]) -> dict[str, Profile]:
    found = {}
    for side, bench in benches.items():
        bench.prepare()
        figures = scenario.run(bench)
        found[side] = Profile(figures.cpu_ms, bench.samples)
        print(f"{scenario.name:16} {side} cpu_ms {sum(figures.cpu_ms.values()):.4g}", flush=True)
    return found


# Showing


def as_table(scenario: Scenario, profiles: Mapping[str, Profile], titles: Mapping[str, str]) -> str:
    """Return one scenario's parts as a table. titles: of the builds, by side"""
    rows = {side: profile.rows() for side, profile in profiles.items()}
    head = [scenario.title, *(f"{what}, {titles[side]}" for side in rows for what in ("share", "CPU-ms a message"))]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for kind, parts in PARTS.items():
        all_of_it = [cell for profile in profiles.values() for cell in ("", f"**{profile.cpu_ms[kind]:.3f}**")]
        lines.append(f"| **{kind}** | {' | '.join(all_of_it)} |")
        for part in [*(title for title, _ in parts), _OTHER]:
            cells = [
                cell for one in rows.values() for cell in (f"{one[kind, part][0]:.0%}", f"{one[kind, part][1]:.3f}")
            ]
            if any(one[kind, part][0] for one in rows.values()):
                lines.append(f"| {part} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _publish(text: str) -> None:
    _PAGE.write_text(between(_PAGE, BEGIN, END, text))


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says and return the exit code."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(_USUAL), metavar="NAME[,NAME]", help="these scenarios (%(default)s)")
    parser.add_argument("--base", metavar="REV", help="profile this commit as well")
    parser.add_argument("--seconds", type=float, default=8.0, help="each measurement lasts (%(default)s)")
    parser.add_argument("--publish", action="store_true", help="write the tables into docs/benchmarks.md")
    given = parser.parse_args(arguments)
    names = [name.strip() for name in given.only.split(",")]
    if not set(names) <= known.keys():
        parser.error(f"no such scenario: {', '.join(sorted(set(names) - known.keys()))}")
    if not _PY_SPY.exists():
        parser.error(f"{_PY_SPY} is missing: `make profile` installs it")
    try:
        text = _profile([known[name] for name in names], given.base, given.seconds)
    except (InstanceFailed, SetUpFailed) as error:
        print(f"profile: {error}", file=sys.stderr)
        return 1
    print(text)
    if given.publish:
        _publish(text)
    return 0


def _profile(scenarios: Sequence[Scenario], base: str | None, seconds: float) -> str:
    titles = {OURS: this_revision()} | ({BASE: revision_of(base)} if base else {})
    with ExitStack() as stack:
        instances = start_builds(stack, titles.get(BASE), _USERS, _GROUP_SIZE)
        sides = sorted(instances, key=lambda side: side != BASE)  # what was before stands before
        options = Options(seconds=seconds)
        benches = {side: _SampledBench(instances[side], options, _GROUP_SIZE) for side in sides}
        tables = [as_table(scenario, _measure(scenario, benches), titles) for scenario in scenarios]
    where = machine()
    command = f"`make profile{f' BASE={titles[BASE]}' if base else ''} ARGS=--publish`"
    intro = (
        f"{command}, {time.strftime('%Y-%m-%d')}, one measurement of {seconds:g} s each, {where['cores']} cores ({where['processor']}),"
        f" Python {where['python']}, {_SAMPLES_A_SECOND} samples a second of each process."
    )
    return "\n\n".join([intro, *tables])


if __name__ == "__main__":
    sys.exit(main())
