"""A web process's way to Redis: what is repeated while no answer comes, and what never is. Against a real Redis."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from models.errors import StoreUnavailable
from models.store import keys, tickets
from models.store.connection import Client, Command, run
from webapp.errors import ApiError
from webapp.limiting import Limits, LockOut
from webapp.services import Redis, offload
from webapp.tickets import Tickets


class _Losing:
    """Lets the next round trip take place, and loses its answers."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self._exchange = client.exchange
        self.is_losing = False
        monkeypatch.setattr(client, "exchange", self._lose)

    def _lose(self, commands: list[Command], meanwhile: Callable[[], None] | None = None) -> list[Any]:
        answers = self._exchange(commands, meanwhile)
        if self.is_losing:
            self.is_losing = False
            raise RedisConnectionError("the answer was lost")
        return answers


@pytest.fixture
def losing(client: Client, monkeypatch: pytest.MonkeyPatch) -> _Losing:
    return _Losing(client, monkeypatch)


@pytest.fixture
def store(client: Client) -> Redis:
    store = Redis(client)
    store.start()
    return store


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex


def test_a_lost_answer_is_asked_for_again(store: Redis, losing: _Losing, name: str) -> None:
    """What may be repeated is: nobody notices."""
    losing.is_losing = True

    assert store.call(("SET", name, "kept")) == b"OK"


def test_a_command_that_redis_refuses_fails_nobody_else(store: Redis, name: str) -> None:
    """Of those who share a round trip only the one whose command is refused is told so, and nobody waits."""
    store.call(("RPUSH", name, "x"))
    began = time.monotonic()
    refused = gevent.spawn(store.call, ("GET", name))
    others = [gevent.spawn(store.call, ("LLEN", name)) for _ in range(5)]

    gevent.joinall([refused, *others], timeout=10)

    assert [other.value for other in others] == [1] * 5
    assert isinstance(refused.exception, StoreUnavailable)
    assert time.monotonic() - began < 1.0


def test_a_ticket_whose_answer_was_lost_is_not_called_invalid(store: Redis, losing: _Losing, name: str) -> None:
    """It is used up, but a client that is told so logs in again, where it should only come back."""
    nobody: Any = None
    store.call(tickets.keep_command(name, b"[]"))
    losing.is_losing = True

    with pytest.raises(StoreUnavailable):
        Tickets(store, nobody).admit(name)


def test_a_failed_login_whose_answer_was_lost_counts_once(
    store: Redis, losing: _Losing, client: Client, name: str
) -> None:
    """Each try counts: a lost answer brings nobody nearer to the lock than he is."""
    others = set(client.keys(keys.failures("*")))

    with LockOut(store).attempt(name, "192.0.2.1") as attempt:
        losing.is_losing = True
        with pytest.raises(StoreUnavailable):
            attempt.failed()

    (counter,) = set(client.keys(keys.failures("*"))) - others
    assert run(client, [("LLEN", counter)]) == [1]


def test_a_hit_whose_answer_was_lost_counts_once(store: Redis, losing: _Losing, client: Client, name: str) -> None:
    """And lets pass, as where Redis is away."""
    rates = {"rate_limit_sends": "off", "rate_limit_auth": "off"}
    settings: Any = SimpleNamespace(**rates, upload_quota_bytes=0, upload_quota_visitor_bytes=0)
    others = set(client.keys(keys.counter("*")))
    losing.is_losing = True

    Limits(settings, store).count_device("visitor_logins", name)

    (counter,) = set(client.keys(keys.counter("*"))) - others
    assert run(client, [("GET", counter)]) == [b"1"]


def test_what_a_thread_raises_is_raised_here_and_nowhere_else(capfd: pytest.CaptureFixture[str]) -> None:
    """A refusal leaves SQLite's thread as it is, with where it came from, and is no crash in the log."""
    database: Any = SimpleNamespace(is_sqlite=True)

    def refuse(code: str) -> None:
        raise ApiError(code)

    with pytest.raises(ApiError, match="not_found") as refused:
        offload(database, refuse, "not_found")

    assert offload(database, len, "four") == 4
    assert refused.traceback[-1].name == "refuse"
    assert capfd.readouterr().err == ""
