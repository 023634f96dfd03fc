"""The socket.io peer does the work it is measured for; what it needs is said when it is not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.bench import Options, SetUpFailed
from benchmarks.costs import cpu_by_kind
from benchmarks.load import HttpRoute, Load, Route, SocketRoute
from benchmarks.peer import FOLDER, PeerBench, SocketIoServer, install, is_installed, versions

_SECONDS = 10.0

needs_packages = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None or not is_installed(),
    reason="the peer's packages are not installed: a first `make bench BESIDE=socketio` brings them, with Node 20",
)


@pytest.fixture(scope="module")
def server() -> Iterator[SocketIoServer]:
    made = SocketIoServer()
    try:
        made.start()
        yield made
    finally:
        made.stop()
        made.delete()


@pytest.fixture
def bench(server: SocketIoServer) -> PeerBench:
    """Four users: 1 and 2 are friends, 3 and 4 are."""
    server.seed(4)
    return PeerBench(server, Options())


@pytest.fixture
def load(bench: PeerBench) -> Iterator[Load]:
    with bench.load() as opened:
        yield opened


def _send(load: Load, *routes: Route) -> None:
    """Send a message along each, and wait until all have come."""
    for route in routes:
        load.launch(route)
    load.finish(_SECONDS)


def _texts(server: SocketIoServer, key: str) -> Sequence[str]:
    with server._client() as client:
        found = client.lrange(key, 0, -1)
        assert isinstance(found, list)
        return [json.loads(entry)["data"] for entry in found]


@needs_packages
def test_messages_come_by_socket_and_by_http_and_are_kept(load: Load, server: SocketIoServer) -> None:
    load.connect([1, 2], 2)

    _send(load, SocketRoute(load, 1, 2, (2,)), HttpRoute(load, 2, 1, (1,)))

    assert load.problems == {}
    assert load.delivered == 2
    both = _texts(server, "history:1:2")
    assert len(both) == 2
    assert sorted(_texts(server, "history:2:1")) == sorted(both)


@needs_packages
@pytest.mark.parametrize("way", [SocketRoute, HttpRoute])
def test_a_stranger_and_nobody_are_not_written_to(load: Load, way: type[SocketRoute | HttpRoute]) -> None:
    load.connect([1, 3], 2)

    _send(load, way(load, 1, 3, (3,)), way(load, 1, 99, (99,)))

    assert load.problems == {"refused": 2}
    assert load.delivered == 0


@needs_packages
@pytest.mark.parametrize("token", ["", "e30.AAAA", "e30"])
def test_a_token_that_is_not_ours_is_refused(load: Load, server: SocketIoServer, token: str) -> None:
    good = load.tokens[1]
    load.tokens[1] = token or good[:-2]
    try:
        load.connect([1], 2)
        _send(load, HttpRoute(load, 1, 2, (2,)))
    finally:
        load.tokens[1] = good

    assert load.problems == {"not connected": 1, "refused": 1}


@needs_packages
def test_who_was_away_is_shown_once_what_came_meanwhile(load: Load, server: SocketIoServer) -> None:
    load.connect([1], 2)
    load.send_all([[SocketRoute(load, 1, 2, ())]] * 8, 50)
    load.expect_again(2)

    load.connect([2], 1)
    load.finish(_SECONDS)

    assert load.delivered == 50
    assert load.problems == {}
    assert load.loop.run(_SECONDS, lambda: not _texts(server, "inbox:2"))


@needs_packages
def test_each_member_of_a_group_is_shown_a_message_and_those_away_later(bench: PeerBench, load: Load) -> None:
    group_id = bench.group([1, 2, 3])
    load.connect([1, 2], 2)
    load.loop.run(0.3)  # rooms are joined behind the welcome

    _send(load, HttpRoute(load, 1, group_id, (2,), "group"), SocketRoute(load, 2, group_id, (1,), "group"))
    assert load.delivered == 2
    load.expect_again(3)
    load.connect([3], 1)
    load.finish(_SECONDS)

    assert load.delivered == 4
    assert load.problems == {}


@needs_packages
def test_who_is_in_no_group_does_not_write_to_it(bench: PeerBench, load: Load) -> None:
    group_id = bench.group([1, 2])

    _send(load, HttpRoute(load, 3, group_id, (), "group"))

    assert load.problems == {"refused": 1}


@needs_packages
def test_all_its_processes_are_accounted_for_and_a_fresh_start_replaces_those_of_node(bench: PeerBench) -> None:
    before = dict(bench.processes)

    bench.fresh_web()

    assert {kind: len(pids) for kind, pids in bench.processes.items()} == {"redis": 1, "node-primary": 1, "node": 2}
    assert bench.processes["redis"] == before["redis"]
    assert not set(bench.processes["node"]) & set(before["node"])
    assert min(cpu_by_kind(bench.processes).values()) > 0


@needs_packages
def test_the_report_is_told_what_was_measured() -> None:
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]["socket.io"]

    assert versions().startswith(f"socket.io {wanted}, Node ")


# Without its packages


@pytest.mark.parametrize("missing", ["node", "npm"])
def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in {"node", "npm"} - {missing}:
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(SetUpFailed, match=f"no {missing} on PATH: --beside socketio needs Node"):
        install()


def test_the_lock_pins_each_package_by_its_content_and_names_no_registry() -> None:
    text = (FOLDER / "package-lock.json").read_text()

    packages = json.loads(text)["packages"]
    assert json.loads((FOLDER / "package.json").read_text())["dependencies"] == packages.pop("")["dependencies"]
    assert packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "://" not in text


def test_to_measure_beside_a_peer_what_it_has_no_part_in_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--beside", "socketio", "--only", "history"])

    assert ended.value.code == 2
    assert "--beside measures group_200, http_16," in capsys.readouterr().err
