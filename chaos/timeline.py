"""The picture of a run: rates, delays, what is still owed, and the faults with their recoveries, second by second. SVG."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from chaos.checker import Verdict
from chaos.history import Event, Fault, Joined, Phase, Received, Sent
from chaos.plan import FAULT_KINDS
from chaos.recovery import LIMIT_SECONDS

_WIDTH = 1480
_LEFT, _RIGHT = 176, 40
_TOP = 124
_PLOT_HEIGHT, _PLOT_GAP = 150, 46
_LANE_HEIGHT = 19
_INK, _SOFT, _LINE, _PAPER = "#1f2430", "#6b7280", "#e5e7eb", "#ffffff"
_SENT, _DELIVERED, _OWED, _MEDIAN, _TAIL = "#64748b", "#2563eb", "#b45309", "#93b4f5", "#1d4ed8"
_FAMILIES = {  # first word of a fault's name -> its colour
    "kill": "#dc2626",
    "stop": "#d97706",
    "empty": "#111827",
    "drop": "#0d9488",
    "half": "#0d9488",
    "delay": "#7c3aed",
    "cut": "#7c3aed",
    "hole": "#7c3aed",
    "lock": "#be185d",
    "rolling": "#15803d",
}
_RECOVERED, _LATE = "#86efac", "#fca5a5"
_FONT = "font-family='Inter, Segoe UI, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True, slots=True)
class _Axis:
    """Places values from `low` to `high` between two pixels; is_log: by their logarithm."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.is_log:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        return self.start + (self.end - self.start) * min(1.0, max(0.0, (value - low) / (high - low or 1.0)))


def draw(history: Iterable[Event], verdict: Verdict, title: str) -> str:
    """Return the picture as SVG text."""
    events = list(history)
    phases = {event.name: event.t for event in events if isinstance(event, Phase)}
    begin = phases.get("load", min((event.t_start for event in events if isinstance(event, Sent)), default=0.0))
    end = phases.get("quiet", max((event.t for event in events if isinstance(event, Received)), default=begin + 1.0))
    seconds = max(1, math.ceil(end - begin))
    faults = [event for event in events if isinstance(event, Fault)]
    lanes = [kind for kind in FAULT_KINDS if any(fault.kind == kind for fault in faults)]
    rates = _Rates(events, begin, seconds)

    x = _Axis(0, seconds, _LEFT, _WIDTH - _RIGHT)
    tops = [_TOP + place * (_PLOT_HEIGHT + _PLOT_GAP) for place in range(3)]
    lanes_top = tops[-1] + _PLOT_HEIGHT + _PLOT_GAP + 6
    height = lanes_top + max(1, len(lanes)) * _LANE_HEIGHT + 74
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{height}' viewBox='0 0 {_WIDTH} {height}' {_FONT}>",
        f"<rect width='100%' height='100%' fill='{_PAPER}'/>",
        *_heading(verdict, title),
    ]
    bottom = lanes_top + len(lanes) * _LANE_HEIGHT
    for row in range(0, len(lanes), 2):
        parts.append(_rect(40, lanes_top + row * _LANE_HEIGHT, x.end - 40, _LANE_HEIGHT, "#f5f7fa"))
    for fault in faults:  # faint, behind everything: where a curve bends, the eye finds why
        start = x(fault.t_start - begin)
        width = max(1.2, x(fault.t_end - begin) - start)
        parts.append(_rect(start, tops[0], width, bottom - tops[0], _colour(fault.kind), opacity=0.07))
    if "end" in phases:
        place = x(phases["end"] - begin)
        parts.append(f"<path d='M{place:.1f} {tops[0]}V{bottom}' stroke='{_SOFT}' stroke-dasharray='2 4'/>")
        # The quiet after the load may be shorter than the word: then it stands before the line.
        side = ("start", 6) if _WIDTH - _RIGHT - place > 90 else ("end", -6)
        parts.append(_text(place + side[1], tops[0] + 12, "end of load", size=11, colour=_SOFT, anchor=side[0]))

    top = _nice(max([*rates.sent, *rates.delivered, 1.0]))
    parts += _plot(x, tops[0], "messages", "a second", [0, top / 2, top], top)
    y = _Axis(0, top, tops[0] + _PLOT_HEIGHT, tops[0])
    parts += [_area(x, y, rates.delivered, _DELIVERED), _curve(x, y, rates.delivered, _DELIVERED)]
    parts += [_curve(x, y, rates.sent, _SENT)]
    parts += _legend(tops[0], [(_SENT, "sends accepted"), (_DELIVERED, "deliveries, first sightings")])

    parts += _plot(
        x, tops[1], "send to receipt", "seconds; devices that are online and read", [0.01, 0.1, 1, 10], 30.0, low=0.003
    )
    y = _Axis(0.003, 30.0, tops[1] + _PLOT_HEIGHT, tops[1], is_log=True)
    parts += [_curve(x, y, rates.median, _MEDIAN), _curve(x, y, rates.tail, _TAIL)]
    parts += _legend(tops[1], [(_MEDIAN, "median"), (_TAIL, "99th percentile")])

    top = _nice(max([*rates.owed, 1.0]))
    parts += _plot(x, tops[2], "still owed", "deliveries accepted, not come", [0, top / 2, top], top)
    y = _Axis(0, top, tops[2] + _PLOT_HEIGHT, tops[2])
    parts += [_area(x, y, rates.owed, _OWED), _curve(x, y, rates.owed, _OWED)]

    parts += _lanes(x, lanes_top, lanes, faults, verdict, begin)
    parts += _time_axis(x, bottom, seconds)
    return "\n".join([*parts, "</svg>", ""])


class _Rates:
    """The curves, one value a second."""

    def __init__(self, events: Sequence[Event], begin: float, seconds: int) -> None:
        self.sent = [0.0] * seconds
        self.delivered = [0.0] * seconds
        first_try: dict[str, float] = {}
        accepted_at: dict[str, float] = {}
        for event in events:
            if isinstance(event, Sent):
                first_try[event.text] = min(event.t_start, first_try.get(event.text, math.inf))
                if event.is_accepted and event.text not in accepted_at:
                    accepted_at[event.text] = event.t_end
                    self._count(self.sent, event.t_end - begin)
        # Whoever is away, reads slowly or answers no pings waits by his own doing.
        peculiar = {(event.user, event.device) for event in events if isinstance(event, Joined) and event.traits}
        seen: set[tuple[int, str, str]] = set()
        delays: defaultdict[int, list[float]] = defaultdict(list)
        changes: list[tuple[float, int]] = []
        for event in sorted((event for event in events if isinstance(event, Received)), key=lambda event: event.t):
            key = (event.user, event.device, event.message_id)
            if event.is_own or key in seen:
                continue
            seen.add(key)
            self._count(self.delivered, event.t - begin)
            if event.text in first_try and key[:2] not in peculiar:
                delays[int(first_try[event.text] - begin)].append(event.t - first_try[event.text])
            if event.text in accepted_at:
                changes += [(min(accepted_at[event.text], event.t), 1), (event.t, -1)]
        self.median = [_rank(delays.get(second), 0.5) for second in range(seconds)]
        self.tail = [_rank(delays.get(second), 0.99) for second in range(seconds)]
        self.owed = [0.0] * seconds
        owed, place = 0, 0
        changes.sort()
        for second in range(seconds):
            highest = owed
            while place < len(changes) and changes[place][0] - begin < second + 1:
                owed += changes[place][1]
                highest = max(highest, owed)
                place += 1
            self.owed[second] = float(highest)

    @staticmethod
    def _count(values: list[float], second: float) -> None:
        if 0 <= second < len(values):
            values[int(second)] += 1


def _rank(values: list[float] | None, share: float) -> float:
    """Return a percentile, NaN where there is nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _heading(verdict: Verdict, title: str) -> list[str]:
    figures = verdict.figures
    times = [recovery.seconds for recovery in verdict.recoveries if recovery.seconds is not None]
    sends = figures.accepted200 + figures.by_socket + figures.accepted202
    broken = ", ".join(f"{len(found)} {kind}" for kind, found in verdict.findings.items() if found)
    line = (
        f"{sends:,} sends accepted, {figures.expected_deliveries:,} deliveries owed, "
        f"{broken or 'none lost, none doubled, none out of order'}; "
        f"slowest recovery {max(times, default=0.0):.1f} s; "
        f"{figures.delivery_p50_ms:.0f} ms median and {figures.delivery_p99_ms:.0f} ms 99th percentile while undisturbed"
    )
    colour = "#15803d" if verdict.ok else "#dc2626"
    word = "OK" if verdict.ok else "BROKEN"
    width = 20 + 11 * len(word)
    return [
        f"<rect x='40' y='26' width='{width}' height='28' rx='6' fill='{colour}'/>",
        _text(40 + width / 2, 45, word, size=15, colour="#ffffff", weight=700, anchor="middle"),
        _text(40 + width + 14, 46, f"Chaos run, {title}", size=19, weight=600),
        _text(40, 78, line, size=13, colour=_SOFT),
    ]


def _plot(
    x: _Axis, top: float, name: str, unit: str, marks: Sequence[float], high: float, *, low: float = 0.0
) -> list[str]:
    y = _Axis(low, high, top + _PLOT_HEIGHT, top, is_log=low > 0)
    parts = [
        _text(40, top + 12, name, size=13, weight=600),
        *[_text(40, top + 29 + 14 * row, part, size=11, colour=_SOFT) for row, part in enumerate(_wrapped(unit, 16))],
    ]
    for mark in marks:
        parts.append(f"<path d='M{x.start} {y(mark):.1f}H{x.end}' stroke='{_LINE}'/>")
        parts.append(_text(_LEFT - 8, y(mark) + 4, f"{mark:g}", size=11, colour=_SOFT, anchor="end"))
    return parts


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width and lines[-1]:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _legend(top: float, entries: Sequence[tuple[str, str]]) -> list[str]:
    parts = []
    place = float(_LEFT)
    for colour, name in entries:
        parts.append(f"<path d='M{place} {top - 12}h18' stroke='{colour}' stroke-width='3' stroke-linecap='round'/>")
        parts.append(_text(place + 25, top - 8, name, size=11.5, colour=_INK))
        place += 48 + 6.4 * len(name)
    return parts


def _lanes(
    x: _Axis, top: float, lanes: Sequence[str], faults: Sequence[Fault], verdict: Verdict, begin: float
) -> list[str]:
    parts = [_text(40, top - 12, "faults", size=13, weight=600)]
    place = float(_LEFT)
    for colour, name in ((_RECOVERED, "recovering"), (_LATE, f"above {LIMIT_SECONDS:.0f} s")):
        parts.append(_rect(place, top - 22, 18, 10, colour, radius=2))
        parts.append(_text(place + 25, top - 13, name, size=11.5, colour=_INK))
        place += 48 + 6.4 * len(name)
    for row, kind in enumerate(lanes):
        y = top + row * _LANE_HEIGHT
        parts.append(_text(_LEFT - 8, y + 13.5, kind, size=11.5, colour=_colour(kind), anchor="end", weight=600))
    for recovery in verdict.recoveries:
        if not recovery.seconds:
            continue
        shown = [kind for kind in lanes if kind in recovery.kinds]
        if not shown:
            continue
        y = top + lanes.index(shown[0]) * _LANE_HEIGHT
        start = x(recovery.since - begin)
        colour = _LATE if recovery.seconds > LIMIT_SECONDS else _RECOVERED
        width = max(1.5, x(recovery.since - begin + recovery.seconds) - start)
        parts.append(
            _rect(
                start,
                y + 5.5,
                width,
                _LANE_HEIGHT - 11,
                colour,
                radius=2,
                title=f"recovered after {recovery.seconds:.1f} s",
            )
        )
    for fault in faults:
        if fault.kind not in lanes:
            continue
        y = top + lanes.index(fault.kind) * _LANE_HEIGHT
        start = x(fault.t_start - begin)
        width = max(4.0, x(fault.t_end - begin) - start)
        left = start - 2 if fault.t_end - fault.t_start < 0.5 else start
        said = f"{fault.kind} at {fault.t_start - begin:.1f} s, {fault.t_end - fault.t_start:.1f} s {fault.detail}"
        parts.append(_rect(left, y + 3.5, width, _LANE_HEIGHT - 7, _colour(fault.kind), radius=2, title=said))
    return parts


def _time_axis(x: _Axis, top: float, seconds: int) -> list[str]:
    step = next(step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 10**9) if seconds / step <= 16)
    parts = [f"<path d='M{x.start} {top + 4}H{x.end}' stroke='{_SOFT}'/>"]
    for second in range(0, seconds + 1, step):
        parts.append(f"<path d='M{x(second):.1f} {top + 4}v5' stroke='{_SOFT}'/>")
        parts.append(_text(x(second), top + 23, f"{second}", size=11, colour=_SOFT, anchor="middle"))
    parts.append(_text(x.end, top + 42, "seconds since the load began", size=11, colour=_SOFT, anchor="end"))
    return parts


def _colour(kind: str) -> str:
    return _FAMILIES.get(kind.split()[0], _SOFT)


def _curve(x: _Axis, y: _Axis, values: Sequence[float], colour: str) -> str:
    path, is_drawing = [], False
    for second, value in enumerate(values):
        if math.isnan(value):
            is_drawing = False
            continue
        path.append(f"{'L' if is_drawing else 'M'}{x(second + 0.5):.1f} {y(value):.1f}")
        is_drawing = True
    return f"<path d='{''.join(path)}' fill='none' stroke='{colour}' stroke-width='1.6' stroke-linejoin='round' stroke-linecap='round'/>"


def _area(x: _Axis, y: _Axis, values: Sequence[float], colour: str) -> str:
    points = "".join(f"L{x(second + 0.5):.1f} {y(value):.1f}" for second, value in enumerate(values))
    return f"<path d='M{x(0.5):.1f} {y.start}{points}L{x(len(values) - 0.5):.1f} {y.start}Z' fill='{colour}' opacity='0.12'/>"


def _rect(
    x: float,
    y: float,
    width: float,
    height: float,
    fill: str,
    *,
    opacity: float = 1.0,
    radius: float = 0,
    title: str = "",
) -> str:
    shape = (
        f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' rx='{radius}' fill='{fill}'"
        f" opacity='{opacity}'"
    )
    return f"{shape}><title>{escape(title)}</title></rect>" if title else f"{shape}/>"


def _text(
    x: float, y: float, text: str, *, size: float = 12, colour: str = _INK, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' fill='{colour}' text-anchor='{anchor}' font-weight='{weight}'>"
        f"{escape(text)}</text>"
    )


def _nice(value: float) -> float:
    """Round up to 1, 2 or 5 times a power of ten."""
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 5, 6, 8, 10) if step * power >= value)
