"""The database or the broker away for half a minute: sends are accepted meanwhile, and all is decided soon after (G7).

The way to PostgreSQL and to RabbitMQ leads through a proxy that is cut: connections end, new ones are refused. "Within 5 s"
is counted from the first answer again, which is when the proxy lets through.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest

from chaos.proxy import Proxy, Route
from tests.conftest import InstanceFactory
from tests.support.acting import stopped
from tests.support.client import ChatSocket, HttpClient, message_text
from tests.support.instance import Instance, wait_until
from tests.support.receiver import PersistentReceiver

_AWAY_SECONDS = float(os.environ.get("TEST_AWAY_SECONDS", "30"))
_RECOVERY_SECONDS = 5.0
_SEND_EVERY_SECONDS = 0.1
_PAIRS = ((1, 2), (3, 4), (5, 6))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _proxied(name: str, url: str, default_port: int) -> Iterator[tuple[Proxy, str]]:
    """Give a proxy before a server, and the URL that leads through it."""
    parts = urlsplit(url)
    port = _free_port()
    user, at, _ = parts.netloc.rpartition("@")
    with Proxy([Route(name, ("127.0.0.1", port), (parts.hostname or "", parts.port or default_port))]) as proxy:
        yield proxy, urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{port}"))


class _Senders:
    """Sends from the first of each pair to the second, steadily, and remembers what came of it."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.accepted: dict[str, str] = {}  # message id -> text
        self.answers: list[tuple[float, int, str]] = []  # monotonic seconds of asking, status, code
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=pair) for pair in _PAIRS]

    def _run(self, sender_id: int, recipient_id: int) -> None:
        client = HttpClient(self.instance.base, self.instance.tokens[sender_id])
        for number in itertools.count():
            if self._stop.wait(_SEND_EVERY_SECONDS * len(_PAIRS)):
                return
            text = f"from {sender_id} number {number}"
            asked_at = time.monotonic()
            status, body = client.send(recipient_id, text, respond_async=True)
            self.answers.append((asked_at, status, body.get("code", "")))
            if status == 202:
                self.accepted[body["data"]["id"]] = text

    def __enter__(self) -> _Senders:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30.0)


def _undecided(instance: Instance) -> int:
    with instance.redis() as client:
        return sum(int(client.llen(f"outbox:{{s{shard}}}")) for shard in range(8))


def _status_and_headers(instance: Instance, path: str, body: dict[str, str]) -> tuple[int, str, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=20.0)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())["code"], response.headers["Retry-After"]
    finally:
        connection.close()


def _shown_once_in_order(receiver: PersistentReceiver, accepted: dict[str, str]) -> bool:
    """Whether one recipient was shown all that was accepted for him, each once, in order."""
    own = [text for text in accepted.values() if text.startswith(f"from {receiver.user_id - 1} ")]
    shown = [received.text for received in list(receiver.received)]
    return shown == own


@pytest.fixture
def receivers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _run_away(instance: Instance, proxy: Proxy, name: str, stack: ExitStack, *, is_database: bool) -> None:
    ends = [stack.enter_context(PersistentReceiver(instance, pair[1], instance.tokens[pair[1]], 2)) for pair in _PAIRS]
    for end in ends:
        end.wait_connected(20.0)
    # A socket that exists stays open while the database is away.
    stays = stack.enter_context(ChatSocket(instance.base, instance.tokens[7], 2))
    stays.wait_for(lambda frame: frame.data.get("type") == "hello")
    with _Senders(instance) as senders:
        assert wait_until(lambda: len(senders.accepted) > 10, 20.0)
        proxy.tell(name, "cut")
        away_at = time.monotonic()
        if is_database:
            login = {"username": "nobody", "password": "secret-1"}
            assert _status_and_headers(instance, "/api/loginChat", login) == (503, "unavailable", "1")
            assert HttpClient(instance.base, instance.tokens[1]).get("/api/chat/conversations")[0] == 503
            assert HttpClient(instance.base, None).get("/readyz")[0] == 503
        # What waits for a verdict while there can be none is told so, in time.
        began = time.monotonic()
        status, body = HttpClient(instance.base, instance.tokens[7]).send(8, "while away")
        if is_database:
            assert (status, body["data"]["status"]) == (202, "accepted")
            assert time.monotonic() - began < 8.0
        time.sleep(max(0.0, away_at + _AWAY_SECONDS - time.monotonic()))
        assert _undecided(instance) > 10, f"without {name} all goes on: it was not away"
        proxy.tell(name, "mend")
        back_at = time.monotonic()
        waiting_ids = set(senders.accepted)

        def is_caught_up() -> bool:
            return waiting_ids <= {received.message_id for end in ends for received in list(end.received)}

        is_in_time = wait_until(is_caught_up, 3 * _RECOVERY_SECONDS)
        seconds = time.monotonic() - back_at
        print(f"{len(waiting_ids)} accepted, all shown {seconds:.2f} s after the return of {name}")
        assert is_in_time, f"not caught up after {seconds:.1f} s"
        assert seconds < _RECOVERY_SECONDS
        if is_database:
            assert wait_until(lambda: _status_and_headers(instance, "/api/loginChat", login)[0] == 400, 5.0)
        assert wait_until(lambda: HttpClient(instance.base, None).get("/readyz")[0] == 200, 5.0)
    away = [answer for answer in senders.answers if away_at < answer[0] < back_at]
    assert {status for _, status, _ in away} == {202}, [answer for answer in away if answer[1] != 202][:5]
    # They went on all the time.
    assert len(away) > _AWAY_SECONDS / _SEND_EVERY_SECONDS / 2
    for end in ends:
        assert wait_until(lambda end=end: _shown_once_in_order(end, senders.accepted), 10.0), (  # type: ignore[misc]
            f"user {end.user_id} was shown {len(end.received)} messages, not what was accepted for him in order"
        )
    assert stays.is_open
    with ChatSocket(instance.base, instance.tokens[8], 2) as late:
        late.wait_for(lambda frame: frame.message is not None and message_text(frame.message) == "while away")


@pytest.mark.timeout(150)
def test_postgresql_is_away(fresh_instance: InstanceFactory, postgres_url: str, receivers: ExitStack) -> None:
    """Sends are 202, what needs the database is 503; five seconds after its return all is decided, once and in order."""
    with _proxied("sql", postgres_url, 5432) as (proxy, url):
        instance = fresh_instance(DATABASE_URL=url)
        instance.seed(8, 0)

        _run_away(instance, proxy, "sql", receivers, is_database=True)
        receivers.close()
        instance.stop()


@pytest.mark.timeout(150)
def test_rabbitmq_is_away(fresh_instance: InstanceFactory, rabbitmq_url: str, receivers: ExitStack) -> None:
    """Without a broker bells are not heard: sends are 202, and are decided when it is back."""
    with _proxied("broker", rabbitmq_url, 5672) as (proxy, url):
        instance = fresh_instance(CELERY_BROKER_URL=url)
        instance.seed(8, 0)

        _run_away(instance, proxy, "broker", receivers, is_database=False)
        receivers.close()
        instance.stop()


def test_redis_hangs_until_nobody_can_connect(fresh_instance: InstanceFactory) -> None:
    """Whoever asks is told that it is away, also once its backlog is full."""
    instance = fresh_instance(WEB_PROCESSES="1")
    instance.seed(2, 0)
    client = HttpClient(instance.base, instance.tokens[1])
    assert client.send(2, "before")[0] == 200
    with stopped(instance.processes("redis")), ExitStack() as stack:
        with contextlib.suppress(BlockingIOError):
            while True:  # until its backlog is full
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(str(instance.redis_socket))
        for _ in range(2):  # a connection that stands hangs first
            status, body = client.send(2, "into the void")
            assert (status, body["code"]) == (503, "outcome_unknown")
        assert client.get(f"/api/chat/messages/{uuid.uuid4()}")[0] == 503
        assert HttpClient(instance.base, None).get("/readyz")[0] == 503

    assert wait_until(lambda: client.send(2, "again")[0] == 200, _RECOVERY_SECONDS)


def test_beat_rings_again_when_rabbitmq_is_back(fresh_instance: InstanceFactory, rabbitmq_url: str) -> None:
    """Also where nobody sends, who would ring himself: else what was accepted meanwhile would wait for the next send."""
    with _proxied("broker", rabbitmq_url, 5672) as (proxy, url):
        instance = fresh_instance(CELERY_BROKER_URL=url)
        with instance.redis() as client:

            def has_rung() -> bool:
                return bool(client.exists("worker_seen"))

            assert wait_until(has_rung, 10.0)
            proxy.tell("broker", "cut")
            assert wait_until(lambda: not client.exists("worker_seen"), 20.0)
            proxy.tell("broker", "mend")
            assert wait_until(has_rung, _RECOVERY_SECONDS)
            client.delete("worker_seen")
            assert wait_until(has_rung, _RECOVERY_SECONDS)
        instance.stop()


def test_a_redis_that_takes_no_writes_makes_nobody_ready(fresh_instance: InstanceFactory) -> None:
    """It answers, but nothing can be accepted: told at once, and as what it is, not as a worker that has been silent for long."""
    instance = fresh_instance()
    anyone = HttpClient(instance.base, None)
    with instance.redis() as client:
        client.config_set("maxmemory", "1")
        status, body = anyone.get("/readyz")
        client.config_set("maxmemory", "0")

    assert status == 503
    assert "redis" in body["data"]
    assert wait_until(lambda: anyone.get("/readyz")[0] == 200, _RECOVERY_SECONDS)
