"""What is shown of a run: tables, plots, the page, the part of docs/; every figure from results.json."""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks import plots, report, sizing
from benchmarks.figures import Figures
from benchmarks.growth import GROWTH
from benchmarks.run import BASE, OURS, SOCKETIO, summary
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.targets import OTHERS, TARGETS

_ROOT = Path(__file__).resolve().parents[2]
_BY_NAME = {scenario.name: scenario for scenario in [*SCENARIOS, *GROWTH]}


def _figures(cost: float, unit: str = "message", **changes: Any) -> Figures:
    given: dict[str, Any] = {
        "unit": unit,
        "count": 1_000,
        "seconds": 2.0,
        "cpu_ms": {"web": cost / 2, "worker": cost / 4, "redis": cost / 4},
        "latency_ms": {"p50": 1.5, "p90": 2.5, "p99": 4.5, "max": 9.5},
        "generator_share": 0.1,
        "foreign_cores": 0.1,
    }
    return Figures(**(given | changes))


def _growing(at_16x: float) -> Figures:
    more = {"cpu_ms_1x": 0.5, "cpu_ms_4x": 0.5, "cpu_ms_16x": at_16x / 2, "growth_4x": 1.0, "growth_16x": at_16x}
    return _figures(0.5, latency_ms={}, more=more)


def _results(
    found: dict[str, dict[str, list[Figures]]], failures: dict[str, list[str]] | None = None
) -> dict[str, Any]:
    return {
        "started_at": "2031-02-03T04:05:06+0000",
        "machine": {
            "cores": 2,
            "memory_gib": 4.0,
            "system": "Linux",
            "processor": "<fast>",
            "python": "3.11",
            "load_at_start": [0.5, 0.25, 0.1],
        },
        "revision": "abc",
        "base": "def" if any(BASE in sides for sides in found.values()) else None,
        "beside": {SOCKETIO: "socket.io 4, Node 20"} if any(SOCKETIO in sides for sides in found.values()) else {},
        "settings": {"RATE_LIMIT_SENDS": "many"},
        "seconds": 2.0,
        "scenarios": {
            name: summary(_BY_NAME[name], sides, (failures or {}).get(name, [])) for name, sides in found.items()
        },
    }


@pytest.fixture
def results() -> dict[str, Any]:
    return _results(
        {
            "http_64": {OURS: [_figures(0.5), _figures(0.7), _figures(0.58)]},
            "ws_64": {OURS: [_figures(0.3)]},
            "idle_5000": {OURS: [_figures(1.0, "connection", kib_per_socket=17.25)]},
            "replay_10000": {OURS: [_figures(0.02, latency_ms={}, more={"seconds": 0.25})]},
            "growth_history": {OURS: [_growing(1.1)]},
        }
    )


def _cell(rows: list[list[str]], title: str, column: str) -> str:
    (row,) = [row for row in rows[1:] if row[0].startswith(title)]
    return row[rows[0].index(column)]


def test_each_target_is_about_a_scenario_that_exists() -> None:
    for target in TARGETS:
        assert target.scenario in _BY_NAME
        assert len(target.others) == len(OTHERS)
        assert (target.stretch >= target.target) if target.is_floor else (target.stretch <= target.target)


def test_names_of_scenarios_are_distinct() -> None:
    assert len(_BY_NAME) == len(SCENARIOS) + len(GROWTH)


def test_the_median_stands_beside_its_target_with_its_range(results: dict[str, Any]) -> None:
    rows = report.target_rows(results)

    assert _cell(rows, "HTTP send, 64", "ours") == "0.58 (0.5–0.7) ✓"
    assert _cell(rows, "HTTP send, 64", "target") == "≤ 0.6"
    assert _cell(rows, "native send", "ours") == "0.3 ✗"
    assert _cell(rows, "messages a second", "ours") == "500 ✗"
    assert _cell(rows, "KiB", "ours") == "17.2 ✓"
    assert _cell(rows, "10,000 waiting", "ours") == "0.25 ✓"


def test_what_was_not_measured_is_not_invented(results: dict[str, Any]) -> None:
    assert _cell(report.target_rows(results), "group of 200", "ours") == "–"
    assert _cell(report.scenario_rows(results), "10,000 waiting", "p50 ms") == "–"


def test_costs_are_split_by_kind(results: dict[str, Any]) -> None:
    rows = report.kind_rows(results)

    assert rows[0] == ["CPU-ms each", "web", "worker", "redis"]
    assert _cell(rows, "sends by HTTP, 64", "web") == "0.29"


def test_growth_within_its_limit_is_not_flagged(results: dict[str, Any]) -> None:
    assert _cell(report.growth_rows(results), "history", "16x / 1x") == "1.1"
    assert report.warnings(results) == []


def test_growth_beyond_its_limit_is_flagged() -> None:
    results = _results({"growth_history": {OURS: [_growing(1.3)]}})

    assert _cell(report.growth_rows(results), "history", "16x / 1x") == "1.3 ✗"
    assert report.warnings(results) == ["growth_history: 1.30 times the cost at 16x (at most 1.2)"]


def test_a_generator_that_costs_too_much_is_told() -> None:
    results = _results({"ws_64": {OURS: [_figures(0.2), _figures(0.2, generator_share=0.25)]}})

    assert report.warnings(results) == ["ws_64: the generator used 25% of what the servers did"]


def test_a_busy_machine_is_told() -> None:
    results = _results({"ws_64": {OURS: [_figures(0.2, foreign_cores=1.0)]}})

    assert report.warnings(results) == ["other work took 50% of the 2 processors: do not trust the times"]


def test_what_was_lost_or_failed_is_a_problem() -> None:
    results = _results(
        {"ws_64": {OURS: [_figures(0.2), _figures(0.2, problems={"lost": 3, "doubled": 0})]}, "mixed": {OURS: []}},
        {"mixed": ["ours, round 1: gone"]},
    )

    assert report.problems(results) == ["ws_64, ours, round 2: 3 lost", "mixed: ours, round 1: gone"]
    assert "problem: mixed: ours, round 1: gone" in report.as_text(results)


def test_against_a_base_ratios_are_told() -> None:
    results = _results({"ws_64": {OURS: [_figures(0.3), _figures(0.8)], BASE: [_figures(0.2), _figures(0.4)]}})

    rows = report.ratio_rows(results)

    assert _cell(rows, "sends by websocket, 64", "CPU-ms each") == "1.75 (1.5–2)"
    assert "CPU over that of def" in plots.draw(results)


def test_without_a_base_there_are_no_ratios(results: dict[str, Any]) -> None:
    assert len(report.ratio_rows(results)) == 1
    assert "CPU over that of" not in plots.draw(results)


# Beside a peer


@pytest.fixture
def beside() -> dict[str, Any]:
    return _results(
        {
            "http_64": {OURS: [_figures(0.5), _figures(0.7)], SOCKETIO: [_figures(0.2), _figures(0.3)]},
            "ws_64": {OURS: [_figures(0.3)], SOCKETIO: [_figures(0.25, generator_share=0.3, problems={"lost": 2})]},
            "history": {OURS: [_figures(4.0, "request")]},
        }
    )


def test_a_peer_of_the_same_run_stands_next_to_ours_with_its_range(beside: dict[str, Any]) -> None:
    rows = report.target_rows(beside)

    assert rows[0][:6] == [
        "measure",
        "ours",
        "socket.io, same run",
        "ours / socket.io",
        "target / its column",
        "target",
    ]
    # 0.6 of 0.197 is wanted there, and 0.2 of 0.175.
    assert [_cell(rows, "HTTP send, 64", head) for head in rows[0][3:5]] == ["2.4 ✓", "≤ 3.05"]
    assert [_cell(rows, "native send", head) for head in rows[0][3:5]] == ["1.2 ✗", "≤ 1.14"]
    assert [_cell(rows, "group of 200", head) for head in rows[0][3:5]] == ["–", "–"]
    assert _cell(rows, "HTTP send, 64", "socket.io, same run") == "0.25 (0.2–0.3)"
    assert _cell(rows, "HTTP send, 64", "ours") == "0.6 (0.5–0.7) ✓"
    assert _cell(rows, "HTTP send, 64", "socket.io") == "0.197"
    assert _cell(rows, "native send", "socket.io, same run") == "0.25"
    assert _cell(rows, "group of 200", "socket.io, same run") == "–"
    assert {len(row) for row in rows} == {len(rows[0])}


def test_each_form_of_a_report_has_the_column_of_the_peer(beside: dict[str, Any], results: dict[str, Any]) -> None:
    for form in (report.as_text, report.as_html, report.as_markdown):
        assert "socket.io, same run" in form(beside)
        assert "beside socket.io 4, Node 20" in form(beside)
        assert "same run" not in form(results)
        assert "beside" not in form(results)


def test_a_report_from_before_there_were_peers_can_be_shown(results: dict[str, Any]) -> None:
    del results["beside"]

    assert "same run" not in report.as_markdown(results)


def test_a_peer_that_failed_throughout_has_no_column() -> None:
    results = _results({"ws_64": {OURS: [_figures(0.3)], SOCKETIO: []}}, {"ws_64": ["socketio, round 1: gone"]})

    assert "socket.io, same run" not in report.target_rows(results)[0]
    assert report.problems(results) == ["ws_64: socketio, round 1: gone"]


def test_what_is_doubtful_about_a_peers_figures_is_told(beside: dict[str, Any]) -> None:
    assert report.problems(beside) == ["ws_64, socketio, round 1: 2 lost"]
    assert report.warnings(beside) == ["ws_64: the generator used 30% of what socket.io did"]


def test_the_plots_are_those_of_ours_alone(beside: dict[str, Any]) -> None:
    alone = copy.deepcopy(beside)
    for one in alone["scenarios"].values():
        one["figures"].pop(SOCKETIO, None)

    assert plots.draw(beside) == plots.draw(alone)


def test_the_plots_are_an_image_that_shows_each_scenario(results: dict[str, Any]) -> None:
    picture = plots.draw(results)

    root = ElementTree.fromstring(picture)
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    for name in ("http_64", "ws_64", "idle_5000", "replay_10000"):
        assert _BY_NAME[name].title in texts
    assert "history of the conversation: 1.00 / 1.10" in texts


def test_an_empty_run_is_shown_too() -> None:
    results = _results({"ws_64": {OURS: []}})

    assert ElementTree.fromstring(plots.draw(results)).tag.endswith("svg")
    assert "<h1>" in report.as_html(results)


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(results: dict[str, Any]) -> None:
    page = report.as_html(results)

    assert "<svg" in page
    assert "&lt;fast&gt;" in page
    assert "<fast>" not in page
    assert not [word for word in ("src=", "href=", "@import", "url(") if word in page]


def test_publishing_replaces_what_stands_between_the_markers(tmp_path: Path, results: dict[str, Any]) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text(f"before\n{report.BEGIN}\nold 123\n{report.END}\nafter\n")
    (tmp_path / "operations.md").write_text(f"rule\n{sizing.BEGIN}\nold 123\n{sizing.END}\nlimits\n")

    report.publish(results, tmp_path)
    once = page.read_text()
    other = copy.deepcopy(results)
    other["revision"] = "xyz"
    report.publish(other, tmp_path)

    assert once.startswith(f"before\n{report.BEGIN}\nRevision abc,")
    assert once.endswith(f"{report.END}\nafter\n")
    assert "old 123" not in once
    assert "| HTTP send, 64 in flight, CPU-ms a message | 0.58 (0.5–0.7) ✓ |" in once
    assert page.read_text() == once.replace("Revision abc,", "Revision xyz,")
    assert (tmp_path / "benchmarks.svg").read_text() == plots.draw(results)
    operations = (tmp_path / "operations.md").read_text()
    assert operations == f"rule\n{sizing.BEGIN}\n{sizing.as_markdown(other)}\n{sizing.END}\nlimits\n"


def test_publishing_into_a_page_without_markers_is_refused(tmp_path: Path, results: dict[str, Any]) -> None:
    (tmp_path / "benchmarks.md").write_text(f"{report.BEGIN}{report.END}")
    (tmp_path / "operations.md").write_text("mine\n")

    with pytest.raises(ValueError, match="has no"):
        report.publish(results, tmp_path)

    assert (tmp_path / "benchmarks.md").read_text() == f"{report.BEGIN}{report.END}"
    assert (tmp_path / "operations.md").read_text() == "mine\n"


def test_the_page_of_docs_explains_each_scenario() -> None:
    text = (_ROOT / "docs" / "benchmarks.md").read_text()

    assert text.count(report.BEGIN) == text.count(report.END) == 1
    for scenario in _BY_NAME.values():
        assert _is_explained(scenario, text), scenario.name


def _is_explained(scenario: Scenario, text: str) -> bool:
    prefix, _, number = scenario.name.rpartition("_")
    if scenario.is_growth:
        return f"**{number}**" in text
    return f"`{scenario.name}`" in text or (f"`{prefix}_" in text and f"`_{number}`" in text)
