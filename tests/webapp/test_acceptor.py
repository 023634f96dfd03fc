"""Accepting: where requests are written. Against a client that remembers what it was told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from models.requests import Request, conversation_key, decode, mint_id
from models.store import outbox
from webapp.services import Acceptor

_SHARDS = 8


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bytes]]:
    """Every (shard, entry) that was written, in order."""
    found: list[tuple[int, bytes]] = []

    def accept(_client: object, entries: dict[int, list[bytes]]) -> outbox.Appended:
        found.extend((shard, entry) for shard, some in entries.items() for entry in some)
        return outbox.Appended(is_heard=True, lengths=dict.fromkeys(entries, 1))

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
    settings: Any = SimpleNamespace(outbox_shards=_SHARDS, outbox_max_entries=1_000)
    nobody: Any = None
    acceptor = Acceptor(settings, nobody, nobody)
    requests = [_request(*((1, 2) if number % 2 else (2, 1)), number) for number in range(40)]

    acceptor.start()
    for request in requests:
        acceptor.accept(request)

    assert len({shard for shard, _ in written}) == 1
    assert [decode(entry).id for _, entry in written] == [request.id for request in requests]
