"""Couriers on a real Redis and each database: who delivers, what a stale one may do, what is kept of attempts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, update

from models import shards, tables, webhooks
from models.database import Database
from models.messages import STORED, Message
from models.shards import Shard
from models.webhooks import ATTEMPTS_KEPT, Attempt, Webhook
from tasks import courier
from tasks.courier import Courier
from tasks.posting import new_secret
from tasks.webhook_events import take
from tests.model.rig import RedisServer
from tests.support.instance import wait_until
from tests.support.webhook_target import WebhookTarget

_AT_MS = 1_000_000


class Log:
    """The decisions of two shards, and webhooks on them."""

    def __init__(self, server: RedisServer, database: Database) -> None:
        self.server = server
        self.database = database
        server.empty()
        with database.writing() as connection:
            for table in reversed(tables.Message.metadata.sorted_tables):
                connection.execute(delete(table))
            rows = [{"shard": shard, "fence": 1, "last_shard_seq": 0} for shard in (0, 1)]
            connection.execute(insert(Shard), rows)

    def decide(self, shard: int, count: int, *, at_ms: int = _AT_MS) -> list[str]:
        """Store messages, a millisecond apart; return their ids."""
        with self.database.writing() as connection:
            last = shards.load_last_positions(connection)[shard]
            rows = [self._row(shard, last + number, at_ms + number) for number in range(1, count + 1)]
            connection.execute(insert(Message), rows)
            moved = update(Shard).where(Shard.shard == shard).values(last_shard_seq=last + count)
            connection.execute(moved)
        return [row["id"] for row in rows]

    def _row(self, shard: int, position: int, at_ms: int) -> dict[str, Any]:
        row: dict[str, Any] = dict.fromkeys(column.name for column in tables.Message.__table__.columns)
        told = {"id": f"{shard}-{position}", "conversation": f"c{shard}", "seq": position, "shard": shard}
        row |= told | {"shard_seq": position, "kind": "send", "verdict": STORED, "sender_id": 1, "recipient_id": 2}
        row |= {"device": "d", "content_hash": "h", "is_recalled": False, "is_to_sender": True}
        return row | {"created_at_ms": at_ms, "decided_at_ms": at_ms, "body": '{"data":"{\\"data\\":\\"\\"}"}'}

    def hook(self, url: str, **columns: Any) -> int:
        values = {"url": url, "events": "message.stored", "chat_type": "all", "max_events": 10, "secret": new_secret()}
        with self.database.writing() as connection:
            webhook_id = webhooks.create(connection, values, _AT_MS, 10)
            assert webhook_id is not None
            if columns:
                webhooks.change(connection, webhook_id, columns)
        return webhook_id

    def load(self, webhook_id: int) -> Any:
        with self.database.reading() as connection:
            return webhooks.load(connection, webhook_id)

    def courier(self) -> Courier:
        settings = replace(self.server.settings, webhook_allowed_networks=("127.0.0.0/8",), webhook_timeout_seconds=10)
        return Courier(settings, self.database, self.server.client)


@pytest.fixture
def log(redis_server: RedisServer, rig_database: Database) -> Iterator[Log]:
    made = Log(redis_server, rig_database)
    yield made
    with rig_database.writing() as connection:
        connection.execute(delete(Webhook))
    names = ("webhooks", "webhook")
    assert wait_until(lambda: not any(thread.name in names for thread in threading.enumerate()), 5.0)


def test_two_workers_never_deliver_for_the_same_webhook(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that does renews its lease, however long its target takes."""
    monkeypatch.setattr(courier, "LEASE_SECONDS", 0.8)
    at_once = most_at_once = 0

    def answer(_: Any) -> int:
        nonlocal at_once, most_at_once
        at_once += 1
        most_at_once = max(most_at_once, at_once)
        time.sleep(1.2)
        at_once -= 1
        return 200

    with WebhookTarget(answer) as target:
        log.hook(target.url, max_events=1, batch_events=1)
        ids = log.decide(0, 2)
        couriers = [log.courier() for _ in range(3)]
        started = time.monotonic()
        assert [each.run() for each in couriers] == [1, 1, 1]
        assert time.monotonic() - started < 1.0, "a bell waits for no target"
        assert wait_until(lambda: [event["id"] for event in target.taken] == ids, 10.0)
        assert len(target.posted) == 2
        assert most_at_once == 1


def test_who_has_lost_his_lease_makes_no_further_post(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one under way ends; what follows is the other's."""
    monkeypatch.setattr(courier, "LEASE_SECONDS", 0.4)

    def answer(_: Any) -> int:
        log.server.client.set("lease:{w%d}" % webhook_id, "another's")  # noqa: UP031
        time.sleep(0.5)
        return 200

    with WebhookTarget(answer) as target:
        webhook_id = log.hook(target.url, max_events=1, batch_events=1)
        log.decide(0, 3)
        log.courier().run()

        assert wait_until(lambda: log.load(webhook_id).delivered_count == 1, 5.0)
        time.sleep(1.0)
        assert len(target.posted) == 1
        assert log.server.client.get("lease:{w%d}" % webhook_id) == b"another's"  # noqa: UP031


def test_a_courier_whose_dependency_fails_leaves_the_position(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of our own is a failure like one of the target: it waits, it is seen, and nothing is passed over."""

    def fail(*_: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(courier, "take", fail)
    with WebhookTarget() as target:
        webhook_id = log.hook(target.url)
        ids = log.decide(0, 1)
        log.courier().run()
        assert wait_until(lambda: log.load(webhook_id).failures == 1, 5.0)
        assert log.load(webhook_id).last_error == "internal_error"
        assert target.posted == []
        monkeypatch.setattr(courier, "take", take)
        assert wait_until(lambda: [event["id"] for event in target.taken] == ids, 5.0)


def _attempt(number: int, error: str | None = None) -> Attempt:
    return Attempt(_AT_MS + number, f"m{number}", 1, f"e{number}", None if error else 200, 5, error)


def test_the_last_attempts_are_kept_and_no_more(log: Log) -> None:
    webhook_id = log.hook("http://127.0.0.1:9/")
    with log.database.writing() as connection:
        for number in range(1, ATTEMPTS_KEPT + 31):
            webhooks.record(connection, log.load(webhook_id), _attempt(number))
        kept = webhooks.load_attempts(connection, webhook_id)

    assert [row.number for row in kept] == list(range(ATTEMPTS_KEPT + 30, 30, -1))
    assert [row.first_event_id for row in kept][:2] == [f"e{ATTEMPTS_KEPT + 30}", f"e{ATTEMPTS_KEPT + 29}"]
    with log.database.writing() as connection:
        assert webhooks.remove(connection, webhook_id)
        assert list(connection.execute(select(webhooks.WebhookAttempt))) == []


def test_who_moves_a_webhook_during_a_post_prevails(log: Log) -> None:
    """A replay is not undone by the confirmation of what was under way."""
    log.decide(0, 5)
    webhook_id = log.hook("http://127.0.0.1:9/")
    found = log.load(webhook_id)
    with log.database.writing() as connection:
        webhooks.move(connection, webhook_id, {0: 1})

        webhooks.record(connection, found, _attempt(1), positions={0: 5}, batch_events=10)
        webhooks.pass_over(connection, found, {0: 5})

        after = webhooks.load(connection, webhook_id)
    assert webhooks.decode_positions(after.positions) == {0: 1, 1: 0}
    assert after.delivered_count == 1
    with log.database.writing() as connection:
        webhooks.record(connection, after, _attempt(2), positions={0: 3})
        assert webhooks.decode_positions(webhooks.load(connection, webhook_id).positions) == {0: 3, 1: 0}


def test_a_time_is_found_between_the_decisions_of_each_shard(log: Log) -> None:
    log.decide(0, 100)
    log.decide(1, 7, at_ms=_AT_MS + 50)
    with log.database.writing() as connection:
        last = shards.load_last_positions(connection)
        for since_ms in (0, _AT_MS, _AT_MS + 1, _AT_MS + 2, _AT_MS + 53, _AT_MS + 100, _AT_MS + 101, 2**60):
            expected = {0: 0, 1: 0}
            rows = connection.execute(select(Message.shard, Message.shard_seq).where(Message.decided_at_ms < since_ms))
            for shard, position in rows:
                expected[shard] = max(expected[shard], position)
            assert webhooks.find_positions(connection, last, since_ms) == expected


def test_there_are_so_many_and_an_id_is_never_given_twice(log: Log) -> None:
    values = {"url": "http://x/", "events": "message.stored", "chat_type": "all", "max_events": 1, "secret": "s"}
    with log.database.writing() as connection:
        first = [webhooks.create(connection, values, 0, 2) for _ in range(3)]
        assert [each is None for each in first] == [False, False, True]
        webhooks.remove(connection, first[1] or 0)
        assert (webhooks.create(connection, values, 0, 2) or 0) > (first[1] or 0)
        assert connection.execute(select(Webhook.positions)).scalars().first() == '{"0": 0, "1": 0}'
