"""What a run leaves behind: the verdict in words and as JSON, the picture, the matrix, and the exit codes."""

from __future__ import annotations

import json
import sqlite3
import xml.etree.ElementTree as ET
from contextlib import closing
from pathlib import Path

import pytest

from chaos import matrix, report, timeline
from chaos.__main__ import main
from chaos.checker import check
from chaos.history import Event, Fault, History, Joined, Phase, Probe, Received, Sent, single_conversation
from chaos.run import Options

_OPTIONS = Options(duration=60, seed=7, rate=10, fault_every=5)


def _run(*, is_broken: bool = False) -> History:
    pair = single_conversation(1, 2)
    events: list[Event] = [Phase("load", 0.0), Joined(1, "default", 1), Joined(2, "default", 1)]
    for number in range(1, 60):
        text = f"1 writes {number}"
        events.append(
            Sent(1, pair, text, (2,), number, number + 0.1, "accepted200", f"id-{number}", number, client_id=text)
        )
        if number < 59 or not is_broken:
            events.append(Received(2, 1, f"id-{number}", number, pair, text, number + 0.05))
    events += [Probe(place, place / 10, place / 10 + 0.01) for place in range(600)]
    events += [Fault(1, "kill web", 20.0, 20.0, "<4711>"), Fault(2, "cut redis", 30.0, 32.0)]
    return History([*events, Phase("end", 60.0), Phase("quiet", 63.0)])


def _keep(folder: Path, history: History) -> Path:
    folder.mkdir()
    as_json = report.as_json(_OPTIONS, history, check(history), [], 0.0, "abc")
    (folder / "verdict.json").write_text(json.dumps(as_json))
    return folder / "verdict.json"


def test_the_text_says_what_was_done_and_what_came_of_it() -> None:
    text = report.as_text(_OPTIONS, _run(), check(_run()))

    assert text.startswith("OK: 0 lost, 0 doubled, 0 out of order, 0 unexplained, 0 slow\n")
    assert "     59 sent" in text
    assert "  protocol 1                                2       59        59       0      0" in text
    assert "seed 7" in text
    assert "     59 accepted with 200" in text
    assert "  kill web " in text


def test_a_broken_promise_is_named_first() -> None:
    history = _run(is_broken=True)

    text = report.as_text(_OPTIONS, history, check(history))

    assert text.startswith("BROKEN: 1 lost, 0 doubled, 0 out of order, 0 unexplained, 0 slow\n")
    assert "lost: accepted, never received by user 2" in text


def test_times_of_a_busy_machine_are_doubted() -> None:
    assert "80 % busy with other work" in report.as_text(_OPTIONS, _run(), check(_run()), 80.0)
    assert "busy" not in report.as_text(_OPTIONS, _run(), check(_run()), 10.0)


def test_the_picture_is_svg_and_shows_each_fault() -> None:
    picture = timeline.draw(_run(), check(_run()), "a title with < and &")

    root = ET.fromstring(picture)
    titles = [title.text or "" for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any(title.startswith("kill web at 20.0 s") for title in titles)
    assert any(title.startswith("cut redis at 30.0 s, 2.0 s") for title in titles)


def test_an_empty_run_can_be_drawn() -> None:
    ET.fromstring(timeline.draw([], check([]), ""))


def test_the_matrix_is_made_of_verdicts(tmp_path: Path) -> None:
    """It counts what was injected, says what was not, and replaces what stood there before."""
    page = tmp_path / "guarantees.md"
    page.write_text(f"before\n{matrix.BEGIN}\nold\n{matrix.END}\nafter\n")
    verdicts = [_keep(tmp_path / "a", _run()), _keep(tmp_path / "b", _run(is_broken=True))]

    assert matrix.write(verdicts, page) == 0

    text = page.read_text()
    assert text.count(f", seed {_OPTIONS.seed} | abc | ") == len(verdicts)
    row = next(line for line in text.splitlines() if line.startswith("| kill web"))
    assert "| 2×, 1 broken | 2×, 0 broken |" in row
    assert "not touched" in row
    assert any(line.startswith("| kill beat | not injected") for line in text.splitlines())
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_the_page_has_a_place_for_the_matrix() -> None:
    text = matrix.PAGE.read_text()

    assert text.count(matrix.BEGIN) == 1
    assert text.partition(matrix.BEGIN)[2].count(matrix.END) == 1


@pytest.mark.parametrize(("is_broken", "code"), [(False, 0), (True, 1)])
def test_a_kept_history_is_judged_again(tmp_path: Path, is_broken: bool, code: int) -> None:
    _run(is_broken=is_broken).write(tmp_path / "history.jsonl")

    assert main(["--check", str(tmp_path / "history.jsonl")]) == code


def test_what_is_no_history_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "history.jsonl").write_text('{"event": "surprise"}\n')

    assert main(["--check", str(tmp_path / "history.jsonl")]) == 2
    assert "cannot be judged" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--faults", "earthquake"], ["--duration", "0"], ["--rate", "much"]])
def test_wrong_usage_is_told_with_exit_code_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)

    assert ended.value.code == 2


def test_a_database_that_is_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run fills its database with made-up users: one that holds tables already is refused, before anything is started."""
    path = tmp_path / "used.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE precious (id INTEGER)")

    with pytest.raises(SystemExit) as ended:
        main(["--database-url", f"sqlite:///{path}"])

    assert ended.value.code == 2
    assert "holds 1 tables already" in capsys.readouterr().err
