"""The client: what it does where Redis goes away, and how it finds a Redis behind sentinels. All servers are real."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from celery import Celery
from redis.exceptions import BusyLoadingError

from embedded_redis import redis_server_binary
from models.errors import DatabaseUnavailable, StoreUnavailable
from models.store.connection import SCRIPTS, Client, connect, run, run_each
from settings import load_settings
from tasks.celery_app import DRAIN_QUEUE, make_celery
from tests.support.instance import wait_until

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start Redis servers that end with the test."""
    with ExitStack() as stack:

        def begin(port: int, *arguments: str) -> subprocess.Popen[bytes]:
            folder = tmp_path / str(port)
            folder.mkdir(exist_ok=True)
            options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
            server = subprocess.Popen(
                [redis_server_binary(), *arguments, *options], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
            )
            stack.callback(server.wait, 10)
            stack.callback(server.kill)
            return server

        yield begin


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def _answer(client: Client, *command: str) -> object:
    """Return the answer to a command; None while there is none."""
    try:
        return run(client, [command])[0]
    except StoreUnavailable:
        return None


def test_a_restart_costs_one_call(start: Start) -> None:
    """The connections of before are given up together: the first call after a restart may fail, no later one does."""
    port = _free_port()
    server = start(port)
    client = connect(f"redis://127.0.0.1:{port}/0")
    assert wait_until(lambda: _answer(client, "PING") == b"PONG", 10.0)
    ear = client.listen()
    ear.subscribe("news")
    ear.unsubscribe_all()
    several = [client._take() for _ in range(4)]
    for connection in several:
        connection.connect()
        client._idle.append((connection, float("inf")))  # used so lately that nobody asks whether it stands

    server.kill()
    server.wait(10)
    start(port)
    other = connect(f"redis://127.0.0.1:{port}/0")
    assert wait_until(lambda: _answer(other, "PING") == b"PONG", 10.0)

    answers = [_answer(client, "PING") for _ in range(6)]
    assert answers[1:] == [b"PONG"] * 5
    ear.subscribe("news")
    assert run(client, [("PUBLISH", "news", "heard")]) == [1]
    assert ear.wait(5.0) == [b"heard"]


def test_an_error_of_one_command_spoils_no_other_answer(client: Client) -> None:
    """A command that Redis refuses is an error of the call, and the next call gets its own answers."""
    run(client, [("DEL", "a-list"), ("RPUSH", "a-list", "x")])

    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        run(client, [("GET", "a-list"), ("LLEN", "a-list")])

    assert run(client, [("LLEN", "a-list"), ("PING",)]) == [1, b"PONG"]


def test_each_command_may_have_an_error_of_its_own(client: Client) -> None:
    """Where the commands have nothing to do with each other the others have their answers, those of new scripts too."""
    run(client, [("DEL", "a-list"), ("RPUSH", "a-list", "x"), ("SCRIPT", "FLUSH")])
    script = SCRIPTS["count"].call(["a-list"], [1_000, 1, 1])
    held = SCRIPTS["count"].call(["a-counter"], [1_000, 1, 1])

    refused, length, of_script, counted = run_each(client, [("GET", "a-list"), ("LLEN", "a-list"), script, held])

    assert isinstance(refused, StoreUnavailable)
    assert isinstance(of_script, StoreUnavailable)
    assert "WRONGTYPE" in str(refused)
    assert (length, counted) == (1, 0)


def test_a_redis_that_is_loading_has_not_answered(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so to every command, and is back soon: whoever has patience asks again."""
    monkeypatch.setattr(client, "exchange", lambda commands, _: [BusyLoadingError("loading")] * len(commands))

    with pytest.raises(StoreUnavailable, match="loading"):
        run_each(client, [("GET", "a"), ("GET", "b")])


def test_what_is_to_be_done_meanwhile_is_done_once_the_commands_are_under_way(client: Client) -> None:
    """Also where a script is unknown and asked for twice, and where there is nothing to send."""
    seen: list[str] = []
    script = SCRIPTS["read_inbox"].call(["cursor", "inbox"], [0, 1])
    client.script_flush()

    def look() -> None:
        is_there = wait_until(lambda: client.get("a") == b"1", timeout=5)
        seen.append("sent" if is_there else "too early")

    run(client, [("SET", "a", "1"), script], look)
    run(client, [], lambda: seen.append("nothing to send"))

    assert seen == ["sent", "nothing to send"]


def test_what_fails_meanwhile_takes_no_answer_along(client: Client) -> None:
    """The connection is given up: its answers would be taken for those of the next."""

    def fail() -> None:
        raise DatabaseUnavailable("the disk")

    with pytest.raises(DatabaseUnavailable):
        run(client, [("SET", "a", "1"), ("GET", "a")], fail)

    assert run(client, [("GET", "b"), ("ECHO", "mine")]) == [None, b"mine"]


def test_an_ear_hears_what_is_said_while_it_listens(client: Client) -> None:
    """Publications arrive in order, also several at once; of a channel that was left nothing is heard."""
    ear = client.listen()
    ear.subscribe("a", "b")

    assert run(client, [("PUBLISH", "a", "1"), ("PUBLISH", "b", "2"), ("PUBLISH", "c", "3")]) == [1, 1, 0]
    heard = ear.wait(5.0)
    heard += ear.wait(5.0) if len(heard) < 2 else []
    assert heard == [b"1", b"2"]
    assert ear.wait(0) == []

    ear.unsubscribe("a")
    assert run(client, [("PUBLISH", "a", "4"), ("PUBLISH", "b", "5")]) == [0, 1]
    assert ear.wait(5.0) == [b"5"]
    ear.close()


def test_the_master_is_found_through_sentinels_also_after_a_failover(start: Start, tmp_path: Path) -> None:
    """`redis+sentinel://` leads to the master; when it dies, to the one that takes over."""
    master, replica, sentinel = (_free_port() for _ in range(3))
    dying = start(master)
    start(replica, "--replicaof", "127.0.0.1", str(master))
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"sentinel monitor chat 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds chat 500\nsentinel failover-timeout chat 2000\n"
    )
    client = connect(f"redis+sentinel://127.0.0.1:{sentinel}/chat/0")
    start(sentinel, str(config), "--sentinel")
    assert wait_until(lambda: _answer(client, "SET", "kept", "yes") == b"OK", 10.0)
    at_replica = connect(f"redis://127.0.0.1:{replica}/0")
    assert wait_until(lambda: _answer(at_replica, "GET", "kept") == b"yes", 30.0)
    # A sentinel promotes only replicas that it has seen, which takes it up to ten seconds.
    watching = connect(f"redis://127.0.0.1:{sentinel}/0")
    assert wait_until(lambda: len(watching.exchange([("SENTINEL", "REPLICAS", "chat")])[0]) == 1, 20.0)

    dying.kill()

    assert wait_until(lambda: _answer(client, "SET", "written", "later") == b"OK", 30.0)
    assert _answer(at_replica, "GET", "written") == b"later"


def _bells(client: Client) -> object:
    """Return how many bells wait in the broker's database; None while there is no answer."""
    answer = _answer(client, "LLEN", DRAIN_QUEUE)
    return answer if isinstance(answer, int) else None


def _rings(celery: Celery) -> bool:
    try:
        celery.send_task("drain", queue=DRAIN_QUEUE, retry=False)
    except Exception:  # as a worker says it: the broker is away
        return False
    return True


def _broker(monkeypatch: pytest.MonkeyPatch, folder: Path, redis_url: str) -> Celery:
    """Return the Celery application of someone who has set REDIS_URL only."""
    for name, value in {"DATA_DIR": str(folder), "REDIS_URL": redis_url, "CELERY_BROKER_URL": ""}.items():
        monkeypatch.setenv(name, value)
    return make_celery(load_settings())


def test_the_broker_of_a_socket_is_given_the_password(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where redis-py reads it, in the query, kombu does not."""
    port, path = _free_port(), tmp_path / "redis.sock"
    start(port, "--unixsocket", str(path), "--requirepass", "s3cret@")
    store = connect(f"unix://{path}?password=s3cret%40")
    assert wait_until(lambda: _answer(store, "PING") == b"PONG", 10.0)

    with _broker(monkeypatch, tmp_path, f"unix://{path}?db=0&password=s3cret%40") as celery:
        assert _rings(celery)

    assert _bells(connect(f"unix://{path}?db=1&password=s3cret%40")) == 1


def test_the_broker_is_found_through_sentinels_also_after_a_failover(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a setting of its own it is the same master, and its password."""
    master, replica, sentinel = (_free_port() for _ in range(3))
    secrets = ("--requirepass", "s3cret@", "--masterauth", "s3cret@")
    dying = start(master, *secrets)
    start(replica, "--replicaof", "127.0.0.1", str(master), *secrets)
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"sentinel monitor chat 127.0.0.1 {master} 1\nsentinel auth-pass chat s3cret@\n"
        "sentinel down-after-milliseconds chat 500\nsentinel failover-timeout chat 2000\n"
    )
    at_replica = connect(f"redis://:s3cret%40@127.0.0.1:{replica}/1")
    watching = connect(f"redis://127.0.0.1:{sentinel}/0")
    address = f"redis+sentinel://:s3cret%40@127.0.0.1:{_free_port()},127.0.0.1:{sentinel}/chat"  # one of two is away

    with _broker(monkeypatch, tmp_path, address) as celery:
        start(sentinel, str(config), "--sentinel")
        assert wait_until(lambda: _rings(celery), 20.0)
        assert wait_until(lambda: _bells(at_replica) == 1, 30.0)
        assert wait_until(lambda: len(watching.exchange([("SENTINEL", "REPLICAS", "chat")])[0]) == 1, 20.0)

        dying.kill()

        assert wait_until(lambda: _rings(celery) and _bells(at_replica) == 2, 60.0)


@pytest.mark.parametrize("address", ["127.0.0.1:26379", "127.0.0.1/", "127.0.0.1:26379/chat/first", "/chat"])
def test_a_sentinels_url_names_hosts_and_a_service(address: str) -> None:
    """What names no service, no host or no database of a number is refused."""
    with pytest.raises(ValueError, match="sentinel"):
        connect(f"redis+sentinel://{address}")


@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [
        ("one:1,two:2", [("one", 1), ("two", 2)]),
        ("one,two:2", [("one", 26379), ("two", 2)]),
        ("[::1]:5,[fe80::2]", [("::1", 5), ("fe80::2", 26379)]),
        ("user:a%40b@one", [("one", 26379)]),
    ],
)
def test_a_sentinel_has_a_port_also_where_none_is_named(hosts: str, addresses: list[tuple[str, int]]) -> None:
    """26379, as everywhere; an address of IPv6 stands in brackets."""
    pool = connect(f"redis+sentinel://{hosts}/chat").connection_pool
    named = [sentinel.get_connection_kwargs() for sentinel in pool.sentinel_manager.sentinels]  # type: ignore[attr-defined]

    assert [(each["host"], each["port"]) for each in named] == addresses
