"""Policy under pressure (G5): a quota of one stays one, and a block that was answered holds, whoever races with it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg

from tests.conftest import InstanceFactory
from tests.support.client import HttpClient
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users

_THREADS = 50
_SENDS_EACH = 20
_ROUNDS = 200
_RACERS = 4
# As long as a verdict may take while everybody is at it on a machine with two cores; never waited for otherwise.
_PATIENT = {"SEND_WAIT_SECONDS": "30", "RATE_LIMIT_SENDS": "off"}


def _start(fresh_instance: InstanceFactory, database_url: str) -> Instance:
    instance = fresh_instance(DATABASE_URL=database_url, **_PATIENT)
    instance.seed(2, 0)
    return instance


def _outcome(answer: tuple[int, Any]) -> str:
    status, body = answer
    return "stored" if status == 200 else f"{status} {body.get('code')}"


def _stored(instance: Instance, user_id: int, peer_id: int) -> list[dict[str, Any]]:
    """Return all messages of a conversation, oldest first."""
    client = HttpClient(instance.base, instance.tokens[user_id])
    found: list[dict[str, Any]] = []
    path = f"/api/chat/history?chatType=single&peer_id={peer_id}&limit=200"
    while True:
        status, body = client.get(path + (f"&before={found[0]['seq']}" if found else ""))
        assert status == 200, body
        found = body["data"]["messages"] + found
        if not body["data"]["more"]:
            return found


def test_an_unreadable_quota_never_means_allowed(fresh_instance: InstanceFactory, postgres_url: str) -> None:
    """While nobody can read who has written before, a second message waits; when it can be read, it is refused (C4)."""
    instance = _start(fresh_instance, postgres_url)
    stranger, recipient = add_users(instance, 2)
    client = HttpClient(instance.base, instance.tokens[stranger])
    assert client.send(recipient, "first")[0] == 200
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as locking, locking.cursor() as cursor:
        cursor.execute("LOCK TABLE first_contact IN ACCESS EXCLUSIVE MODE")
        status, body = client.send(recipient, "second", respond_async=True)
        assert status == 202
        path = f"/api/chat/messages/{body['data']['id']}"

        def somebody_waits() -> bool:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'first_contact'::regclass"
            return cursor.execute(waiting).fetchone() != (0,)

        for _ in range(2):  # the first try fails, and the next one comes
            assert wait_until(somebody_waits, 10.0)
            assert wait_until(lambda: not somebody_waits(), 10.0, 0.01)
        assert client.get(path)[1]["data"]["status"] == "accepted"

    assert wait_until(lambda: client.get(path)[1]["data"]["status"] == "refused", 20.0)
    assert client.get(path)[1]["data"]["code"] == "stranger_limit"
    assert len(_stored(instance, recipient, stranger)) == 1


def test_a_quota_of_one_gives_one(fresh_instance: InstanceFactory, database_url: str) -> None:
    """A thousand messages of one stranger at the same time: one is stored, each of the others is told the limit."""
    instance = _start(fresh_instance, database_url)
    stranger, recipient = add_users(instance, 2)
    start = threading.Barrier(_THREADS)

    def send(thread: int) -> list[str]:
        client = HttpClient(instance.base, instance.tokens[stranger], timeout=60.0)
        start.wait()
        return [_outcome(client.send(recipient, f"{thread} {number}")) for number in range(_SENDS_EACH)]

    with ThreadPoolExecutor(_THREADS) as pool:
        outcomes = Counter(outcome for each in pool.map(send, range(_THREADS)) for outcome in each)

    assert outcomes == {"stored": 1, "400 stranger_limit": _THREADS * _SENDS_EACH - 1}
    assert [message["seq"] for message in _stored(instance, recipient, stranger)] == [1]
    requests = HttpClient(instance.base, instance.tokens[recipient]).get("/api/chat/requests")[1]["data"]["requests"]
    assert [request["user_id"] for request in requests] == [stranger]


@dataclass(frozen=True, slots=True)
class _Try:
    """One send, with the moments before its request and after its answer."""

    begun: float
    answered: float
    outcome: str
    text: str


def test_an_answered_block_holds(fresh_instance: InstanceFactory, database_url: str) -> None:
    """Whatever was sent after a block was answered, and answered before it was lifted, was refused; and what is stored passed.

    A send that is under way while the block is set or lifted may go either way: it is decided before or after.
    """
    instance = _start(fresh_instance, database_url)
    sender, recipient = 1, 2  # friends
    served_by = {HttpClient(instance.base, None).get("/healthz")[1]["data"]["process"] for _ in range(100)}
    assert len(served_by) == 2  # requests go to both web processes
    tries: list[_Try] = []
    changed = threading.Condition()
    is_over = threading.Event()

    def race(racer: int) -> None:
        client = HttpClient(instance.base, instance.tokens[sender], timeout=60.0)
        number = 0
        while not is_over.is_set():
            text, begun = f"{racer} {number}", time.monotonic()
            outcome = _outcome(client.send(recipient, text))
            with changed:
                tries.append(_Try(begun, time.monotonic(), outcome, text))
                changed.notify_all()
            number += 1

    def switch(block: int) -> tuple[float, float]:
        """Set or lift the block; return the moments before its request and after its answer."""
        before = time.monotonic()
        answer = HttpClient(instance.base, instance.tokens[recipient]).post(
            f"/api/chat/block/{sender}", {"block": block}
        )
        assert answer[0] == 200, answer
        return before, time.monotonic()

    def wait_for_a_try_since(moment: float) -> None:
        with changed:
            assert changed.wait_for(lambda: any(one.begun > moment for one in tries[-_RACERS:]), 30.0)

    racers = [threading.Thread(target=race, args=(number,), daemon=True) for number in range(_RACERS)]
    for racer in racers:
        racer.start()
    spans: list[tuple[str, float, float]] = []
    try:
        for _ in range(_ROUNDS):
            for expected, block in (("400 blocked_by_recipient", 1), ("stored", 0)):
                requested, answered = switch(block)
                if spans:
                    spans[-1] = (*spans[-1][:2], requested)
                spans.append((expected, answered, answered))
                wait_for_a_try_since(answered)
    finally:
        is_over.set()
        for racer in racers:
            racer.join(60.0)

    judged: Counter[str] = Counter()
    for expected, since, until in spans:
        inside = [one for one in tries if one.begun > since and one.answered < until]
        judged[expected] += len(inside)
        wrong = [one for one in inside if one.outcome != expected]
        assert not wrong, f"{wrong} in a span of {until - since:.3f} s that wanted {expected}"
    assert {one.outcome for one in tries} == set(judged)
    assert min(judged.values()) >= _ROUNDS - 1, judged
    passed = {one.text for one in tries if one.outcome == "stored"}
    texts = [message["data"] for message in _stored(instance, recipient, sender)]
    assert len(texts) == len(passed)
    assert all(any(f'"{text}"' in stored for stored in texts) for text in list(passed)[:50])
