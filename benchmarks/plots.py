"""The picture of a run, SVG by hand: costs by process kind, latencies, throughput, growth, and ratios to a base."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from benchmarks.figures import GROWTH_LIMIT
from benchmarks.growth import FACTORS

_WIDTH = 1_080
_LEFT, _RIGHT = 250, 110
_ROW, _BAR = 24, 13
_HEAD, _FOOT = 52, 44
_INK, _SOFT, _LINE, _PAPER, _BASE = "#1f2430", "#6b7280", "#e5e7eb", "#ffffff", "#9ca3af"
_GOOD, _BAD = "#15803d", "#dc2626"
_KINDS = {  # where they stand in a bar, and their colour
    "web": "#2563eb",
    "worker": "#0d9488",
    "redis": "#dc2626",
    "housekeeping": "#b45309",
    "beat": "#7c3aed",
    "flower": "#be185d",
    "web-master": "#93b4f5",
    "supervisor": "#6b7280",
}
_LATENCIES = (("p50_ms", "#93c5fd"), ("p90_ms", "#3b82f6"), ("p99_ms", "#1d4ed8"), ("max_ms", "#111827"))
_GROWTH_COLOURS = ("#2563eb", "#0d9488", "#dc2626", "#b45309", "#7c3aed", "#be185d")
_FONT = "font-family='Inter, Segoe UI, Helvetica, Arial, sans-serif'"

Results = Mapping[str, Any]
_Panel = Callable[[Results, float], tuple[list[str], float]]


def draw(results: Results) -> str:
    """Return the picture as SVG text. results: as in results.json"""
    parts: list[str] = []
    top = 24.0
    panels: Iterable[_Panel] = (_ratios, _costs, _throughput, _latencies, _growth)
    for panel in panels:
        drawn, height = panel(results, top)
        parts += drawn
        top += height
    size = f"width='{_WIDTH}' height='{top:.0f}' viewBox='0 0 {_WIDTH} {top:.0f}'"
    background = f"<rect width='100%' height='100%' fill='{_PAPER}'/>"
    return "\n".join([f"<svg xmlns='http://www.w3.org/2000/svg' {size} {_FONT}>", background, *parts, "</svg>", ""])


def _measured(results: Results, *, is_growth: bool = False) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the scenarios that have figures of ours."""
    return [
        (name, one)
        for name, one in results["scenarios"].items()
        if one["rounds"]["ours"] and one["is_growth"] == is_growth
    ]


# Panels: each returns its parts and its height, nothing where it has nothing to show


def _costs(results: Results, top: float) -> tuple[list[str], float]:
    parts: list[str] = []
    start = top
    by_unit: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for name, one in _measured(results):
        if "cpu_ms" in one["figures"]["ours"]:
            by_unit.setdefault(one["rounds"]["ours"][0]["unit"], []).append((name, one))
    for unit, rows in by_unit.items():
        kinds = [_by_kind(one["rounds"]["ours"]) for _, one in rows]
        high = _nice(max(_high(one, "cpu_ms") for _, one in rows))
        parts += _title(top, f"CPU-milliseconds a {unit}", "by process kind; the line is the range of the rounds")
        if top == start:
            parts += _legend(top, [(kind, _KINDS[kind]) for kind in _KINDS])
        top += _HEAD
        x = _scale(0, high)
        for (_, one), costs in zip(rows, kinds, strict=True):
            parts.append(_label(top, one["title"]))
            # The kinds' medians need not add up to the median of the sums, which is the figure.
            share = one["figures"]["ours"]["cpu_ms"]["median"] / (sum(costs.values()) or 1.0)
            place = 0.0
            for kind in sorted(costs, key=list(_KINDS).index):
                width = x(costs[kind] * share) - x(0)
                title = f"{kind}: {costs[kind]:.4f} ms"
                parts.append(_rect(x(0) + place, top + 5, width, _BAR, _KINDS[kind], title))
                place += width
            parts += _range(x, top, one["figures"]["ours"]["cpu_ms"])
            base = one["figures"].get("base", {}).get("cpu_ms")
            if base is not None:
                parts.append(_rect(x(0), top + 6 + _BAR, x(base["median"]) - x(0), 3, _BASE, "the base"))
            parts.append(_value(top, _short(one["figures"]["ours"]["cpu_ms"]["median"])))
            top += _ROW
        parts += _axis(x, top, [0, high / 2, high], rows=len(rows))
        top += _FOOT
    return parts, top - start


def _throughput(results: Results, top: float) -> tuple[list[str], float]:
    rows = [one for name, one in _measured(results) if "per_second" in one["figures"]["ours"]]
    rows = [one for one in rows if one["rounds"]["ours"][0]["unit"] in ("message", "delivery", "request")]
    if not rows:
        return [], 0.0
    x = _scale(10, max(1e4, 10 ** math.ceil(math.log10(max(_high(one, "per_second") for one in rows)))), is_log=True)
    parts = _title(top, "A second", "messages, deliveries or requests; logarithmic")
    start, top = top, top + _HEAD
    for one in rows:
        spread = one["figures"]["ours"]["per_second"]
        parts += [_label(top, one["title"]), _rect(x(10), top + 5, x(spread["median"]) - x(10), _BAR, "#2563eb")]
        parts += [*_range(x, top, spread), _value(top, f"{spread['median']:,.0f}")]
        top += _ROW
    parts += _axis(x, top, [10, 100, 1_000, 10_000, 100_000], rows=len(rows))
    return parts, top + _FOOT - start


def _latencies(results: Results, top: float) -> tuple[list[str], float]:
    rows = [one for _, one in _measured(results) if "p50_ms" in one["figures"]["ours"]]
    if not rows:
        return [], 0.0
    lowest = min(one["figures"]["ours"]["p50_ms"]["median"] for one in rows)
    highest = max(one["figures"]["ours"]["max_ms"]["median"] for one in rows)
    low, high = 10 ** math.floor(math.log10(lowest or 1.0)), 10 ** math.ceil(math.log10(highest or 1.0))
    x = _scale(low, max(high, low * 10), is_log=True)
    parts = _title(top, "Milliseconds", "to receipt, welcome or answer; logarithmic; p50 / p99")
    parts += _legend(top, [(name.removesuffix("_ms"), colour) for name, colour in _LATENCIES])
    start, top = top, top + _HEAD
    for one in rows:
        figures = one["figures"]["ours"]
        places = [x(figures[name]["median"]) for name, _ in _LATENCIES]
        parts.append(_label(top, one["title"]))
        parts.append(_rect(places[0], top + 10.5, places[-1] - places[0], 2, _SOFT))
        for (name, colour), place in zip(_LATENCIES, places, strict=True):
            parts.append(_dot(place, top + 11.5, colour, f"{name} {figures[name]['median']:.2f}"))
        parts.append(_value(top, f"{_short(figures['p50_ms']['median'])} / {_short(figures['p99_ms']['median'])}"))
        top += _ROW
    ticks = [10.0**power for power in range(-2, 7) if low <= 10.0**power <= high]
    parts += _axis(x, top, ticks, rows=len(rows))
    return parts, top + _FOOT - start


def _growth(results: Results, top: float) -> tuple[list[str], float]:
    rows = [(name, one) for name, one in _measured(results, is_growth=True)]
    if not rows:
        return [], 0.0
    parts = _title(
        top, "Growth", f"CPU of a message at 4x and 16x over that at 1x; the target is {GROWTH_LIMIT} at most"
    )
    height = 200.0
    start, top = top, top + _HEAD
    values = [
        [1.0, *(one["figures"]["ours"][f"growth_{factor}x"]["median"] for factor in FACTORS[1:])] for _, one in rows
    ]
    high = 1.05 * max(1.5, *(value for line in values for value in line))
    right = _WIDTH - 420

    def x(place: int) -> float:
        return _LEFT + (right - _LEFT) * place / (len(FACTORS) - 1)

    def y(value: float) -> float:
        return float(top + height * (1 - value / high))

    for value in (0.0, 0.5, 1.0):
        parts.append(f"<path d='M{_LEFT} {y(value):.1f}H{right}' stroke='{_LINE}'/>")
        parts.append(_text(_LEFT - 8, y(value) + 4, f"{value:g}", size=11, colour=_SOFT, anchor="end"))
    parts.append(f"<path d='M{_LEFT} {y(GROWTH_LIMIT):.1f}H{right}' stroke='{_BAD}' stroke-dasharray='4 4'/>")
    parts.append(_text(_LEFT - 8, y(GROWTH_LIMIT) + 4, f"{GROWTH_LIMIT}", size=11, colour=_BAD, anchor="end"))
    for place, factor in enumerate(FACTORS):
        parts.append(_text(x(place), top + height + 18, f"{factor}x", size=11, colour=_SOFT, anchor="middle"))
    for number, ((_, one), line) in enumerate(zip(rows, values, strict=True)):
        colour = _GROWTH_COLOURS[number % len(_GROWTH_COLOURS)]
        path = "".join(f"{'L' if place else 'M'}{x(place):.1f} {y(value):.1f}" for place, value in enumerate(line))
        parts.append(f"<path d='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        for place, value in enumerate(line):
            parts.append(_dot(x(place), y(value), colour, f"{value:.2f}"))
        parts.append(_dot(right + 26, top + 14 + number * 22, colour))
        text = f"{one['title'].partition(':')[0]}: {' / '.join(f'{value:.2f}' for value in line[1:])}"
        parts.append(_text(right + 38, top + 18 + number * 22, text))
    return parts, top + height + _FOOT - start


def _ratios(results: Results, top: float) -> tuple[list[str], float]:
    rows = [
        (one, spread)
        for one in results["scenarios"].values()
        if (spread := one.get("ratios", {}).get("cpu_ms")) is not None
    ]
    if not rows:
        return [], 0.0
    high = max(2.0, *(spread["high"] for _, spread in rows))
    x = _scale(0, high)
    parts = _title(top, f"CPU over that of {results['base']}", "below 1 is better; the line is the range of the rounds")
    start, top = top, top + _HEAD
    parts.append(f"<path d='M{x(1):.1f} {top}v{len(rows) * _ROW}' stroke='{_SOFT}' stroke-dasharray='2 3'/>")
    for one, spread in rows:
        colour = _BAD if spread["low"] > 1 else _GOOD if spread["high"] < 1 else _INK
        parts += [_label(top, one["title"]), *_range(x, top, spread)]
        parts += [_dot(x(spread["median"]), top + 11.5, colour), _value(top, f"{spread['median']:.2f}")]
        top += _ROW
    parts += _axis(x, top, [0, 0.5, 1, 1.5, 2], rows=len(rows))
    return parts, top + _FOOT - start


def _by_kind(rounds: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        kind: statistics.median(one["cpu_ms"].get(kind, 0.0) for one in rounds)
        for kind in rounds[0]["cpu_ms"]
        if kind in _KINDS
    }


def _high(one: Mapping[str, Any], measure: str) -> float:
    drawn = [one["figures"].get(side, {}) for side in ("ours", "base")]  # a peer has its column in the table only
    return float(max(side[measure]["high"] for side in drawn if measure in side))


# Marks


def _scale(low: float, high: float, *, is_log: bool = False) -> Callable[[float], float]:
    def place(value: float) -> float:
        if is_log:
            share = math.log10(max(value, low) / low) / math.log10(high / low)
        else:
            share = (value - low) / (high - low)
        return _LEFT + (_WIDTH - _RIGHT - _LEFT) * min(1.0, max(0.0, share))

    return place


def _title(top: float, title: str, more: str) -> list[str]:
    return [_text(24, top + 16, title, size=15, weight=600), _text(24, top + 34, more, size=11.5, colour=_SOFT)]


def _legend(top: float, entries: Iterable[tuple[str, str]]) -> list[str]:
    parts = []
    place = float(_LEFT + 190)
    for name, colour in entries:
        parts += [_rect(place, top + 7, 10, 10, colour), _text(place + 15, top + 16, name, size=11.5)]
        place += 32 + 6.2 * len(name)
    return parts


def _label(top: float, text: str) -> str:
    return _text(_LEFT - 10, top + 16, text, anchor="end")


def _value(top: float, text: str) -> str:
    return _text(_WIDTH - 24, top + 16, text, anchor="end", weight=600)


def _range(x: Callable[[float], float], top: float, spread: Mapping[str, float]) -> list[str]:
    low, high = x(spread["low"]), x(spread["high"])
    middle = top + 11.5
    return [
        f"<path d='M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 4}v8M{high:.1f} {middle - 4}v8' stroke='{_INK}'/>"
    ]


def _axis(x: Callable[[float], float], bottom: float, ticks: Iterable[float], *, rows: int) -> list[str]:
    parts = [f"<path d='M{_LEFT} {bottom}H{_WIDTH - _RIGHT}' stroke='{_SOFT}'/>"]
    shown: list[float] = []
    for tick in ticks:
        place = x(tick)
        if shown and place - shown[-1] < 1:  # beyond the scale
            continue
        shown.append(place)
        parts.append(f"<path d='M{place:.1f} {bottom}v-{rows * _ROW}' stroke='{_LINE}' opacity='0.6'/>")
        parts.append(_text(place, bottom + 16, f"{tick:,.10g}", size=11, colour=_SOFT, anchor="middle"))
    return parts


def _rect(x: float, y: float, width: float, height: float, fill: str, title: str = "") -> str:
    shape = f"<rect x='{x:.1f}' y='{y:.1f}' width='{max(0.0, width):.1f}' height='{height}' fill='{fill}'"
    return f"{shape}><title>{escape(title)}</title></rect>" if title else f"{shape}/>"


def _dot(x: float, y: float, fill: str, title: str = "") -> str:
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{fill}'><title>{escape(title)}</title></circle>"


def _text(
    x: float, y: float, text: str, *, size: float = 12, colour: str = _INK, anchor: str = "start", weight: int = 400
) -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' font-size='{size}' fill='{colour}' text-anchor='{anchor}' font-weight='{weight}'"
    return f"<text {place}>{escape(text)}</text>"


def _short(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"


def _nice(value: float) -> float:
    """Round up to a value that halves well."""
    power: float = 10.0 ** math.floor(math.log10(value or 1.0))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value)
