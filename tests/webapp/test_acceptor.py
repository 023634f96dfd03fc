"""Accepting: where requests are written. Against a client that remembers what it was told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult

from models.errors import Overloaded, StoreUnavailable
from models.requests import Request, conversation_key, decode, mint_id
from models.store import outbox
from webapp.services import Acceptor, Failure, RateExceeded, Terms

_SHARDS = 8


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """Every (shard, entry) that was written, in order."""
    found: list[tuple[int, bytes]] = []

    def accept(_client: object, offers: dict[int, list[outbox.Offer]], _rate: object) -> outbox.Appended:
        found.extend((shard, offer.entry) for shard, some in offers.items() for offer in some)
        refusals = {shard: [outbox.APPENDED] * len(some) for shard, some in offers.items()}
        return outbox.Appended(is_heard=True, lengths=dict.fromkeys(offers, 1), refusals=refusals)

    monkeypatch.setattr(outbox, "accept", accept)
    return found


def _request(sender_id: int, to_id: int, number: int) -> Request:
    return Request(
        id=mint_id(sender_id, None),
        kind="send",
        chat_type="single",
        sender_id=sender_id,
        role="user",
        device="default",
        to_id=to_id,
        type="text",
        data=str(number),
        options=None,
        created_at_ms=number,
        client_msg_id=None,
        reply_to=None,
        conversation=conversation_key("single", sender_id, to_id),
    )


def test_a_conversation_stays_in_one_list_in_the_order_of_acceptance(written: list[tuple[int, bytes]]) -> None:
    """Whoever of the two sends, and whatever the id: only one list keeps their order (G4)."""
    settings: Any = SimpleNamespace(outbox_shards=_SHARDS, outbox_max_entries=1_000, rate_limit_sends="off")
    nobody: Any = None
    acceptor = Acceptor(settings, nobody, nobody)
    requests = [_request(*((1, 2) if number % 2 else (2, 1)), number) for number in range(40)]

    acceptor.start()
    for request in requests:
        acceptor.accept(request)

    assert len({shard for shard, _ in written}) == 1
    assert [decode(entry).id for _, entry in written] == [request.id for request in requests]


def test_what_is_offered_again_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A try that Redis has not answered may have taken place: what refuses the next one refutes nothing (G6)."""
    offered: list[outbox.Offer] = []
    left_ms = 700

    def accept(_client: object, offers: dict[int, list[outbox.Offer]], _rate: object) -> outbox.Appended:
        offered.extend(offer for some in offers.values() for offer in some)
        if len(offered) == 1:
            raise StoreUnavailable("no answer")
        return outbox.Appended(True, {}, {shard: [left_ms] * len(some) for shard, some in offers.items()})

    monkeypatch.setattr(outbox, "accept", accept)
    settings: Any = SimpleNamespace(outbox_shards=_SHARDS, outbox_max_entries=1_000, rate_limit_sends="1 per second")
    nobody: Any = None
    acceptor = Acceptor(settings, nobody, nobody)
    terms = Terms((1, "default", "s-1"), is_counted=True)

    acceptor.start()
    failures = []
    for number in range(2):
        told: AsyncResult[Failure | None] = AsyncResult()
        acceptor.submit(_request(1, 2, number), told.set, terms)
        failures.append(told.get(timeout=5.0))

    assert isinstance(failures[0], StoreUnavailable)
    assert isinstance(failures[1], RateExceeded)
    assert failures[1].left_ms == left_ms
    assert [(offer.session, offer.counted_as) for offer in offered] == [
        (terms.session, counted) for counted in (1, None, 1)
    ]


def test_a_bug_leaves_no_shard_full_for_ever(monkeypatch: pytest.MonkeyPatch, written: list[tuple[int, bytes]]) -> None:
    """Who looks after full shards goes on looking, whatever a look has ended in."""
    settings: Any = SimpleNamespace(outbox_shards=1, outbox_max_entries=1, rate_limit_sends="off")
    nobody: Any = None
    looks: list[Exception] = [TypeError("a bug"), StoreUnavailable("away")]

    def lengths(_client: object, shards: list[int]) -> dict[int, int]:
        if looks:
            raise looks.pop(0)
        return dict.fromkeys(shards, 0)

    monkeypatch.setattr(outbox, "lengths", lengths)
    acceptor = Acceptor(settings, nobody, nobody)
    acceptor.start()
    acceptor.accept(_request(1, 2, 1))
    with pytest.raises(Overloaded):
        acceptor.accept(_request(1, 2, 2))

    with gevent.Timeout(5):
        while acceptor._full:
            gevent.sleep(0.01)

    acceptor.accept(_request(1, 2, 3))
    assert len(written) == 2
