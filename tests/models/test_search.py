"""Search merges a user's streams by time: against the plain answer on made-up messages, and with a bounded effort."""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, insert

from models import audiences, groups, search, tables
from models.database import Base, Database, open_database
from models.groups import Group
from models.messages import Message
from models.users import User

_ME, _SHARDS = 1, range(4)
_START_MS = 1_700_000_000_000

assert tables  # so that all of them are there


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'search.db'}")
    Base.metadata.create_all(database.engine)
    yield database
    database.engine.dispose()


class _Archive:
    """Makes rows as drains do: positions rise per shard and per conversation, time nearly does."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._positions = dict.fromkeys(_SHARDS, 0)
        self._seqs: dict[str, int] = {}

    def add(self, at_ms: int, text: str, *, sender_id: int, to_id: int, group_version: int | None = None) -> None:
        is_group = group_version is not None
        peers = sorted((sender_id, to_id))
        conversation = f"group:{to_id}" if is_group else f"single:{peers[0]}:{peers[1]}"
        shard = sum(conversation.encode()) % len(_SHARDS)
        self._positions[shard] += 1
        seq = self._seqs[conversation] = self._seqs.get(conversation, 0) + 1
        message_id = str(uuid.uuid4())
        data = json.dumps({"data": text})
        self.rows.append(
            {
                "id": message_id,
                "conversation": conversation,
                "seq": seq,
                "shard": shard,
                "shard_seq": self._positions[shard],
                "kind": "send",
                "verdict": "stored",
                "code": None,
                "sender_id": sender_id,
                "device": "default",
                "recipient_id": None if is_group else to_id,
                "group_id": to_id if is_group else None,
                "audience_version": group_version,
                "target_id": None,
                "is_recalled": False,
                "is_to_sender": True,
                "content_hash": "",
                "body": orjson.dumps({"id": message_id, "type": "text", "data": data}).decode(),
                "body_for_sender": None,
                "created_at_ms": at_ms,
                "decided_at_ms": at_ms,
            }
        )

    def store(self, database: Database) -> None:
        with database.writing() as connection:
            connection.execute(insert(Message), self.rows)


def _pages(connection: Connection, text: str, limit: int) -> list[list[str]]:
    pages: list[list[str]] = []
    before = None
    while True:
        bodies, more = search.search(connection, _ME, text, before, limit, _SHARDS)
        pages.append([orjson.loads(body)["id"] for body in bodies])
        if not more or not bodies:
            return pages
        before = search.load_visible(connection, _ME, pages[-1][-1])


@pytest.mark.parametrize("seed", range(6))
def test_pages_together_are_the_plain_answer(database: Database, seed: int) -> None:
    """Each match once and in one order, over many chats, groups, pages, ties and clocks that differ."""
    chance = random.Random(seed)
    archive = _Archive()
    with database.writing() as connection:
        connection.execute(
            insert(User), [{"id": i, "uuid": str(i), "username": str(i), "password": ""} for i in range(1, 9)]
        )
        connection.execute(insert(Group), [{"id": i, "uuid": str(i), "user_id": 2, "name": ""} for i in (1, 2, 3)])
        for group_id in (1, 2):
            groups.add_members(connection, group_id, [_ME, 2])
        for group_id in (1, 2, 3):
            audiences.record(connection, group_id, 1, [2])
            audiences.record(connection, group_id, 2, [_ME, 2])
    at_ms = _START_MS
    for number in range(1_500):
        at_ms += chance.choice((0, 0, 1, 40, 3_000))
        skewed = at_ms - chance.choice((0, 0, 1_500))
        text = "needle" if chance.random() < 0.2 else f"hay {number}"
        if chance.random() < 0.3:
            version = chance.choice((1, 2))
            archive.add(skewed, text, sender_id=2, to_id=chance.choice((1, 2, 3)), group_version=version)
        else:
            sender_id, to_id = chance.sample(range(1, 9), 2)
            archive.add(skewed, text, sender_id=sender_id, to_id=to_id)
    archive.store(database)
    mine = [
        row
        for row in archive.rows
        if "needle" in row["body"]
        and (
            (row["group_id"] in (1, 2) and row["audience_version"] == 2)
            or (row["group_id"] is None and _ME in (row["sender_id"], row["recipient_id"]))
        )
    ]
    expected = sorted(mine, key=lambda row: (row["decided_at_ms"], row["seq"], row["id"]), reverse=True)

    with database.reading() as connection:
        pages = _pages(connection, "NEEDLE", chance.choice((1, 7, 50)))

    assert [message_id for page in pages for message_id in page] == [row["id"] for row in expected]


def test_one_request_reads_a_bounded_number_of_rows(database: Database) -> None:
    """And says that there may be more, from where the next one goes on."""
    archive = _Archive()
    for number in range(45_000):
        text = "needle" if number in (10_000, 30_000) else "hay"
        archive.add(_START_MS + number * 1_000, text, sender_id=2 + number % 3, to_id=_ME)
    archive.store(database)

    with database.reading() as connection:
        first, more = search.search(connection, _ME, "needle", None, 5, _SHARDS)
        assert (len(first), more) == (1, True)
        before = search.load_visible(connection, _ME, orjson.loads(first[0])["id"])
        second, more = search.search(connection, _ME, "needle", before, 5, _SHARDS)
        assert (len(second), more) == (0, True)
        assert search.search(connection, _ME, "nothing", None, 5, _SHARDS) == ([], True)
