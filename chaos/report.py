"""The verdict of a run in words and as JSON."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import asdict
from typing import Any

from chaos.checker import GUARANTEES, Verdict
from chaos.history import Fault, History, Joined
from chaos.plan import Step
from chaos.run import Options

_SHOWN = 5
_BUSY_PERCENT = 25.0  # of other work, above which times say more about the machine than about us


def recovery_times(verdict: Verdict) -> dict[str, list[float]]:
    """Return the recoveries that could be seen, by fault."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    for recovery in verdict.recoveries:
        if recovery.seconds is not None:
            times[recovery.name].append(recovery.seconds)
    return dict(sorted(times.items()))


def injected(history: History) -> dict[str, int]:
    """Return how many faults of each kind were injected."""
    counts: defaultdict[str, int] = defaultdict(int)
    for event in history:
        if isinstance(event, Fault) and not event.detail.startswith("not injected"):
            counts[event.kind] += 1
    return dict(sorted(counts.items()))


def as_text(options: Options | None, history: History, verdict: Verdict, foreign_load: float = 0.0) -> str:
    """Return the verdict as people read it. foreign_load: in percent of the machine's processors."""
    figures = verdict.figures
    joined = [event for event in history if isinstance(event, Joined)]
    lines = [f"{'OK' if verdict.ok else 'BROKEN'}: {verdict.summary}"]
    if options is not None:
        lines.append(
            f"seed {options.seed}, {options.duration:.0f} s at {options.rate:.0f} sends/s, a fault every"
            f" {options.fault_every:g} s, on {options.setup}"
        )
    if foreign_load > _BUSY_PERCENT:
        lines.append(f"the machine was {foreign_load:.0f} % busy with other work: do not trust the times")
    lines += [
        f"{len(joined)} devices of {len({one.user for one in joined})} users,"
        f" {sum(one.protocol == 2 for one in joined)} of them on protocol 2",
        "",
        "sends",
        f"  {figures.sent:7} sent, each as often as it took",
        f"  {figures.accepted200:7} accepted with 200",
        f"  {figures.by_socket:7} accepted with a sendResult",
        f"  {figures.accepted202:7} accepted with 202, {figures.excused} of them gone undecided with Redis's data",
        f"  {figures.refused:7} refused",
        f"  {figures.unknown:7} without an answer, or one that says so; repeated with the same clientMsgId",
    ]
    lines += [f"  {count:7}   {code}" for code, count in figures.codes.items()]
    lines += [
        "deliveries",
        f"  {figures.expected_deliveries:7} owed, to each device",
        f"  {figures.sightings:7} seen, {figures.redelivered} of them again on a later connection",
        f"  {figures.delivery_p50_ms:7.1f} ms from send to receipt, median while nothing is disturbed",
        f"  {figures.delivery_p99_ms:7.1f} ms 99th percentile of the same",
        *_by_sort(verdict),
        "connections ended",
        *[f"  {count:7} {how}" for how, count in figures.closes.items()],
        f"  {figures.resets:7} resets told to clients, {figures.resets_with_gap} of them with a gap",
        "promises broken",
    ]
    lines += [f"  {len(found):7} {kind} ({GUARANTEES[kind]})" for kind, found in verdict.findings.items()]
    times = recovery_times(verdict)
    counts = injected(history)
    lines += ["faults", f"  {'':24} {'times':>6} {'seen':>5} {'median':>8} {'max':>8}  recovery"]
    for name in sorted({*counts, *times}):
        seen = times.get(name, [])
        count = counts.get(name, len(seen))
        figures_of = f"{statistics.median(seen):7.2f}s {max(seen):7.2f}s" if seen else f"{'':8} {'':8}"
        lines.append(f"  {name:24} {count:6} {len(seen):5} {figures_of}")
    for kind, found in verdict.findings.items():
        lines += [f"{kind}: {finding}" for finding in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"{kind}: … and {len(found) - _SHOWN} more")
    return "\n".join(lines) + "\n"


def _by_sort(verdict: Verdict) -> list[str]:
    """Return what devices of each sort were owed and shown; `verdict.json` has each device."""
    lines = [f"  {'devices':36} {'number':>6} {'owed':>8} {'delivered':>9} {'again':>7} {'lost':>6}"]
    for sort in sorted({device.sort for device in verdict.figures.devices}):
        devices = [device for device in verdict.figures.devices if device.sort == sort]
        owed, delivered = sum(one.owed for one in devices), sum(one.delivered for one in devices)
        again = sum(one.again for one in devices)
        lines.append(f"  {sort:36} {len(devices):6} {owed:8} {delivered:9} {again:7} {owed - delivered:6}")
    return lines


def as_json(
    options: Options | None,
    history: History,
    verdict: Verdict,
    plan: list[Step],
    foreign_load: float,
    revision: str = "",
) -> dict[str, Any]:
    """Return the verdict for programs: `chaos.matrix` reads it."""
    return {
        "ok": verdict.ok,
        "revision": revision,
        "options": None
        if options is None
        else {**asdict(options), "database_url": "", "broker_url": "", "redis_url": ""},
        "setup": None if options is None else options.setup,
        "foreign_load_percent": foreign_load,
        "figures": asdict(verdict.figures),
        "broken": {kind: len(found) for kind, found in verdict.findings.items()},
        "faults": injected(history),
        "recovery_seconds": recovery_times(verdict),
        "plan": [asdict(step) for step in plan],
        "findings": {kind: [str(one) for one in found[:_SHOWN]] for kind, found in verdict.findings.items() if found},
    }
