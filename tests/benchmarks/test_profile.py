"""Samples go to the part they belong to, and parts add up to what their kind of process costs."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.profile import PARTS, Profile, as_table, main, sort_samples
from benchmarks.scenarios import SCENARIOS

_GUNICORN = "Worker.handle (webapp/gunicorn_conf.py:56);AsyncWorker.handle (gunicorn/workers/base_async.py:98)"
_PLAIN = "Worker.handle (webapp/gunicorn_conf.py:56);PlainRequests.serve (webapp/plain_requests.py:98)"
_FLASK = f"{_GUNICORN};Repeaters.__call__ (webapp/repeaters.py:90);Flask.wsgi_app (flask/app.py:1511)"
_VIEW = f"{_FLASK};make_blueprint.<locals>.post_message (webapp/api/messages.py:91)"


def test_a_sample_belongs_to_the_first_part_that_knows_it() -> None:
    found = sort_samples(
        "web",
        [
            f"{_GUNICORN};Parser.__next__ (gunicorn/http/parser.py:119) 3",
            f"{_PLAIN};PlainRequests._read_head (webapp/plain_requests.py:120) 4",
            f"{_PLAIN};PlainRequests._answer (webapp/plain_requests.py:160);SocketMixin.sendall (gevent/_socketcommon.py:698) 2",
            "Batcher._serve (models/store/batching.py:70);SocketMixin.sendall (gevent/_socketcommon.py:698) 1",
            f"{_FLASK} 5",
            f"{_VIEW};Batcher.call (models/store/batching.py:61) 7",  # what a view waits for is the view's
            "Hub.run (gevent/hub.py:647) 11",
            "Hub.run (gevent/hub.py:647);Transport._read (webapp/sockets/transport.py:83) 13",
            "something (nobody/knows.py:1) 17",
            "_WorkerGreenlet.run (gevent/threadpool.py:216);acquire_with_timeout (gevent/_threading.py:36) 1000",
        ],
    )

    assert found == {
        "reading requests: gunicorn, or in its place": 7,
        "Flask and Werkzeug": 5,
        "the view: token, session, rate, validation, waits": 7,
        "the event loop": 11,
        "frames from sockets": 13,
        "everything else": 17,
        "writing answers": 2,
        "Redis: sessions, rates, acceptance": 1,
    }


def test_the_parts_of_a_kind_add_up_to_its_cost() -> None:
    samples = {kind: Counter({title: 1 + place for place, (title, _) in enumerate(PARTS[kind])}) for kind in PARTS}
    profile = Profile({"web": 0.6, "worker": 0.2, "redis": 0.1}, samples)

    rows = profile.rows()

    for kind, cpu_ms in (("web", 0.6), ("worker", 0.2)):
        mine = [row for (of_kind, _), row in rows.items() if of_kind == kind]
        assert sum(share for share, _ in mine) == pytest.approx(1.0)
        assert sum(cost for _, cost in mine) == pytest.approx(cpu_ms)


def test_the_table_names_the_builds_and_leaves_out_what_nobody_has() -> None:
    samples = {"web": Counter({"writing answers": 1, "the event loop": 3}), "worker": Counter({"news": 2})}
    one = Profile({"web": 0.4, "worker": 0.2}, samples)

    table = as_table(SCENARIOS[0], {"base": one, "ours": one}, {"base": "abc", "ours": "def"})

    assert table.splitlines()[0].count("CPU-ms a message, abc") == table.splitlines()[0].count("share, def") == 1
    assert "| writing answers | 25% | 0.100 | 25% | 0.100 |" in table
    assert "frames from sockets" not in table


def test_a_scenario_that_is_not_there_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--only", "http_64,nothing"])

    assert ended.value.code == 2
    assert "no such scenario: nothing" in capsys.readouterr().err
