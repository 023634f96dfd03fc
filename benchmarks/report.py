"""What a run says: in words, as a page that needs nothing else, and as the part of docs/ that shows it.

Every figure comes from results.json; none is typed.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from benchmarks import plots, sizing
from benchmarks.figures import GENERATOR_LIMIT, GROWTH_LIMIT
from benchmarks.growth import FACTORS
from benchmarks.targets import OTHERS, TARGETS, Target

BEGIN = "<!-- figures: written by python -m benchmarks --publish -->"
END = "<!-- end of figures -->"
_PEERS = {"socketio": "socket.io"}  # what may be measured beside ours, by its side in results.json
_BUSY_SHARE = 0.15  # of the processors, taken by other work: above it times say more about the machine

_STYLE = """\
body { font: 15px/1.5 Inter, "Segoe UI", Helvetica, Arial, sans-serif; color: #1f2430; margin: 2rem auto; max-width: 1140px; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; display: block; overflow-x: auto }
th, td { border-bottom: 1px solid #e5e7eb; padding: .3rem .6rem; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.problem { color: #dc2626 }
svg { max-width: 100%; height: auto }
"""

Results = Mapping[str, Any]


# What is wrong with a run


def problems(results: Results) -> list[str]:
    """Return what failed, was lost, doubled or refused: figures of such a run are not to be trusted."""
    found = []
    for name, one in results["scenarios"].items():
        found += [f"{name}: {failure}" for failure in one["failures"]]
        for side, rounds in one["rounds"].items():
            for number, figures in enumerate(rounds, 1):
                found += [
                    f"{name}, {side}, round {number}: {count} {what}" for what, count in figures["problems"].items()
                ]
    return found


def warnings(results: Results) -> list[str]:
    """Return what makes figures doubtful, and what misses the limit of growth."""
    found = []
    cores = results["machine"]["cores"] or 1
    for name, one in results["scenarios"].items():
        ours = one["rounds"]["ours"]
        if not ours:
            continue
        for side in ("ours", *_PEERS):
            share = max((figures["generator_share"] for figures in one["rounds"].get(side, [])), default=0.0)
            if share > GENERATOR_LIMIT:
                whose = "the servers" if side == "ours" else _PEERS[side]
                found.append(f"{name}: the generator used {share:.0%} of what {whose} did")
        for factor in FACTORS[1:]:
            growth = one["figures"]["ours"].get(f"growth_{factor}x")
            if growth is not None and growth["median"] > GROWTH_LIMIT:
                found.append(f"{name}: {growth['median']:.2f} times the cost at {factor}x (at most {GROWTH_LIMIT})")
    busy = busy_share(results)
    if busy > _BUSY_SHARE:
        found.append(f"other work took {busy:.0%} of the {cores} processors: do not trust the times")
    return found


def busy_share(results: Results) -> float:
    """Return the share of the processors that other work took, over all measurements."""
    rounds = [figures for one in results["scenarios"].values() for figures in one["rounds"]["ours"]]
    seconds = sum(figures["seconds"] for figures in rounds)
    if not seconds:
        return 0.0
    used = sum(figures["foreign_cores"] * figures["seconds"] for figures in rounds)
    return float(used / seconds / (results["machine"]["cores"] or 1))


# Tables, as rows of cells


def _figure(value: float) -> str:
    if value >= 1_000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"


def _spread(spread: Mapping[str, float] | None) -> str:
    if spread is None:
        return "–"
    if spread["low"] == spread["high"]:
        return _figure(spread["median"])
    return f"{_figure(spread['median'])} ({_figure(spread['low'])}–{_figure(spread['high'])})"


def target_rows(results: Results) -> list[list[str]]:
    """Return the table of targets, its head first."""
    peers = {side: title for side, title in _PEERS.items() if _is_measured(results, side)}
    heads = [
        head for title in peers.values() for head in (f"{title}, same run", f"ours / {title}", "target / its column")
    ]
    rows = [["measure", "ours", *heads, "target", "stretch", *OTHERS]]
    for target in TARGETS:
        sign = "≥" if target.is_floor else "≤"
        others = ["–" if value is None else _figure(value) for value in target.others]
        goals = [f"{sign} {_figure(target.target)}", f"{sign} {_figure(target.stretch)}"]
        beside = [cell for side, title in peers.items() for cell in _beside(results, target, side, title)]
        rows.append([target.title, _ours(results, target), *beside, *goals, *others])
    return rows


def _beside(results: Results, target: Target, side: str, title: str) -> list[str]:
    """Return a peer's figure, ours over it, and the target over what it has in its column: machines differ, ratios less."""
    theirs, ours = _measured(results, target, side), _measured(results, target, "ours")
    published = target.others[OTHERS.index(title)]
    if theirs is None or ours is None or not theirs["median"] or not published:
        return [_spread(theirs), "–", "–"]
    ratio, wanted = ours["median"] / theirs["median"], target.target / published
    is_met = ratio >= wanted if target.is_floor else ratio <= wanted
    return [
        _spread(theirs),
        f"{_figure(ratio)} {'✓' if is_met else '✗'}",
        f"{'≥' if target.is_floor else '≤'} {_figure(wanted)}",
    ]


def _is_measured(results: Results, side: str) -> bool:
    return any(_measured(results, target, side) is not None for target in TARGETS)


def _measured(results: Results, target: Target, side: str) -> Mapping[str, float] | None:
    figures = results["scenarios"].get(target.scenario, {}).get("figures", {})
    spread: Mapping[str, float] | None = figures.get(side, {}).get(target.measure)
    return spread


def _ours(results: Results, target: Target) -> str:
    spread = _measured(results, target, "ours")
    if spread is None:
        return "–"
    return f"{_spread(spread)} {'✓' if target.is_met(spread['median']) else '✗'}"


def scenario_rows(results: Results) -> list[list[str]]:
    """Return one row for each scenario but those of growth, its head first."""
    head = [
        "scenario",
        "counted",
        "a second",
        "CPU-ms each",
        "p50 ms",
        "p90",
        "p99",
        "max",
        "KiB a socket",
        "generator",
    ]
    rows = [head]
    for one in results["scenarios"].values():
        figures = one["figures"]["ours"]
        if one["is_growth"] or not figures:
            continue
        rounds = one["rounds"]["ours"]
        names = ("per_second", "cpu_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms", "kib_per_socket")
        cells = [
            _spread(figures.get(name)) if place < 2 else _median(figures, name) for place, name in enumerate(names)
        ]
        rows.append([one["title"], rounds[0]["unit"], *cells, f"{max(each['generator_share'] for each in rounds):.0%}"])
    return rows


def _median(figures: Mapping[str, Any], name: str) -> str:
    return _figure(figures[name]["median"]) if name in figures else "–"


def kind_rows(results: Results) -> list[list[str]]:
    """Return CPU-ms each by process kind, its head first. Medians of the rounds."""
    kinds: list[str] = []
    for one in results["scenarios"].values():
        for figures in one["rounds"]["ours"]:
            kinds += [kind for kind in figures["cpu_ms"] if kind not in kinds]
    rows = [["CPU-ms each", *kinds]]
    for one in results["scenarios"].values():
        rounds = one["rounds"]["ours"]
        if rounds and not one["is_growth"]:
            median = sorted(rounds, key=lambda figures: figures["measures"].get("cpu_ms", 0.0))[len(rounds) // 2]
            rows.append([one["title"], *(_figure(median["cpu_ms"].get(kind, 0.0)) for kind in kinds)])
    return rows


def more_rows(results: Results) -> list[list[str]]:
    """Return what only single scenarios have, its head first."""
    rows = [["also", "measure", "figure"]]
    common = {"per_second", "cpu_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms", "kib_per_socket"}
    for one in results["scenarios"].values():
        if not one["is_growth"]:
            found = one["figures"]["ours"].items()
            rows += [[one["title"], name, _spread(spread)] for name, spread in found if name not in common]
    return rows


def growth_rows(results: Results) -> list[list[str]]:
    """Return CPU-ms each at the three sizes and the ratios, its head first."""
    rows = [["growth of", *(f"{factor}x" for factor in FACTORS), *(f"{factor}x / 1x" for factor in FACTORS[1:])]]
    for one in results["scenarios"].values():
        figures = one["figures"]["ours"]
        if not one["is_growth"] or not figures:
            continue
        ratios = [figures[f"growth_{factor}x"] for factor in FACTORS[1:]]
        rows.append(
            [one["title"], *(_figure(figures[f"cpu_ms_{factor}x"]["median"]) for factor in FACTORS)]
            + [f"{_spread(ratio)}{' ✗' if ratio['median'] > GROWTH_LIMIT else ''}" for ratio in ratios]
        )
    return rows


def ratio_rows(results: Results) -> list[list[str]]:
    """Return ours over the base, its head first; only a head where there was no base."""
    rows = [["over the base", "CPU-ms each", "a second", "p50 ms", "p99 ms", "KiB a socket"]]
    for one in results["scenarios"].values():
        found = one.get("ratios")
        if found:
            names = ("cpu_ms", "per_second", "p50_ms", "p99_ms", "kib_per_socket")
            rows.append([one["title"], *(_spread(found.get(name)) for name in names)])
    return rows


def _tables(results: Results) -> list[list[list[str]]]:
    """Return all tables that have more than a head."""
    tables = [
        ratio_rows(results),
        target_rows(results),
        scenario_rows(results),
        kind_rows(results),
        more_rows(results),
        growth_rows(results),
    ]
    return [table for table in tables if len(table) > 1]


def _heading(results: Results) -> str:
    machine = results["machine"]
    rounds = max((len(one["rounds"]["ours"]) for one in results["scenarios"].values()), default=0)
    base = f" against {results['base']}" if results["base"] else ""
    peers = "".join(f", beside {text}" for text in results.get("beside", {}).values())  # older reports have none
    load = " ".join(f"{value:g}" for value in machine["load_at_start"])
    settings = ", ".join(f"{name}={value}" for name, value in results["settings"].items())
    return (
        f"Revision {results['revision']}{base}{peers}, {results['started_at'][:10]}. {machine['cores']} cores"
        f" ({machine['processor']}), {machine['memory_gib']} GiB, Python {machine['python']}, {machine['system']}."
        f" Load average at the start {load}; other work took {busy_share(results):.0%} of the processors."
        f" Medians and ranges of up to {rounds} rounds of {results['seconds']:g} s; defaults but {settings}."
    )


# Forms


def as_text(results: Results) -> str:
    """Return the tables for a terminal."""
    lines = [_heading(results)]
    for table in _tables(results):
        widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
        lines.append("")
        for row in table:
            first, rest = row[0].ljust(widths[0]), zip(row[1:], widths[1:], strict=True)
            lines.append("  ".join([first, *(cell.rjust(width) for cell, width in rest)]).rstrip())
    lines += ["", *(f"problem: {text}" for text in problems(results)), *(f"note: {text}" for text in warnings(results))]
    return "\n".join(lines) + "\n"


def as_html(results: Results) -> str:
    """Return a page that needs no other file."""
    parts = [f"<p>{escape(_heading(results))}</p>"]
    for text in [*problems(results), *warnings(results)]:
        parts.append(f"<p class='problem'>{escape(text)}</p>")
    parts.append(plots.draw(results))
    for table in _tables(results):
        head = "".join(f"<th>{escape(cell)}</th>" for cell in table[0])
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table[1:])
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    page = "\n".join(parts)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>make bench</title>"
        f"<style>{_STYLE}</style></head><body><h1>make bench</h1>\n{page}\n</body></html>\n"
    )


def as_markdown(results: Results) -> str:
    """Return what stands between the markers of docs/benchmarks.md."""
    parts = [_heading(results), "![costs, throughput, latencies and growth](benchmarks.svg)"]
    for table in _tables(results):
        lines = [f"| {' | '.join(row)} |" for row in table]
        lines.insert(1, f"|{'---|' * len(table[0])}")
        parts.append("\n".join(lines))
    notes = [*problems(results), *warnings(results)]
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def publish(results: Results, docs: Path) -> None:
    """Write the figures into docs/benchmarks.md and docs/operations.md, between their markers, and the plots beside them.

    Raises ValueError: a page has no markers; nothing was written.
    """
    pages = [
        (docs / "benchmarks.md", BEGIN, END, as_markdown(results)),
        (docs / "operations.md", sizing.BEGIN, sizing.END, sizing.as_markdown(results)),
    ]
    texts = [(page, between(page, begin, end, figures)) for page, begin, end, figures in pages]
    for page, text in texts:
        page.write_text(text)
    (docs / "benchmarks.svg").write_text(plots.draw(results))


def between(page: Path, begin: str, end: str, figures: str) -> str:
    """Return the page's text with the figures between its markers. Raises ValueError: it has none."""
    before, found_begin, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"{page} has no {begin} and {end}")
    return f"{before}{begin}\n{figures}\n{end}{after}"
