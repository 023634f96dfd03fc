"""The list of conversations and of message requests: right, bounded, and read with a bounded number of statements."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import insert

from models import audiences, first_contacts, groups, history, read_markers, tables
from models.database import Base, Database, open_database
from models.groups import Group
from models.messages import Message
from models.users import User
from tests.support.statements import statements_to

_ME = 1
_START_MS = 1_700_000_000_000
_MOST_LISTED = 500
# Markers, newest of both kinds, users; their newest messages and what is unread, 100 at a time; members of groups, 500 at a time.
_STATEMENTS = 4 + 5 + 5 + 2

assert tables  # so that all of them are there


@pytest.fixture
def database(tmp_path: Path, database_url: str) -> Iterator[Database]:
    database = open_database(database_url or f"sqlite:///{tmp_path / 'history.db'}")
    Base.metadata.create_all(database.engine)
    yield database
    database.engine.dispose()


def _row(number: int, conversation: str, seq: int, **columns: Any) -> dict[str, Any]:
    message_id = str(uuid.uuid4())
    return {
        "id": message_id,
        "conversation": conversation,
        "seq": seq,
        "shard": 0,
        "shard_seq": number,
        "kind": "send",
        "verdict": "stored",
        "code": None,
        "device": "default",
        "recipient_id": None,
        "group_id": None,
        "audience_version": None,
        "target_id": None,
        "is_recalled": False,
        "is_to_sender": True,
        "content_hash": "",
        "body": orjson.dumps({"id": message_id, "number": number}).decode(),
        "body_for_sender": None,
        "created_at_ms": _START_MS + number,
        "decided_at_ms": _START_MS + number,
    } | columns


def _add_users(database: Database, last_id: int) -> None:
    rows = [{"id": i, "uuid": str(i), "username": str(i), "password": ""} for i in range(1, last_id + 1)]
    with database.writing() as connection:
        connection.execute(insert(User), rows)


def test_the_newest_of_many_conversations_are_listed_at_a_bounded_cost(database: Database) -> None:
    """Of 600, half of them groups, the newest 500 come, each with what is unread: with as many statements as for few."""
    _add_users(database, 320)
    rows = []
    with database.writing() as connection:
        for group_id in range(1, 301):
            connection.execute(insert(Group), [{"id": group_id, "uuid": str(group_id), "user_id": 2, "name": ""}])
            groups.add_members(connection, group_id, [_ME, 2])
            audiences.record(connection, group_id, 1, [2])
            audiences.record(connection, group_id, 2, [_ME, 2])
        for number in range(300):
            group = {"sender_id": 2, "group_id": number + 1}
            rows += [
                _row(4 * number + 1, f"single:1:{number + 10}", 1, sender_id=number + 10, recipient_id=_ME),
                _row(4 * number + 2, f"single:1:{number + 10}", 2, sender_id=number + 10, recipient_id=_ME),
                _row(4 * number + 3, f"group:{number + 1}", 1, **group, audience_version=1),
                _row(4 * number + 4, f"group:{number + 1}", 2, **group, audience_version=2),
            ]
        connection.execute(insert(Message), rows)
        read_markers.raise_all(connection, {(_ME, "single:1:309"): 1, (_ME, "group:300"): 2})

    with database.reading() as connection, statements_to(database) as statements:
        listed = history.load_conversations(connection, _ME)

    assert len(statements) <= _STATEMENTS, statements
    expected = [
        pair
        for number in reversed(range(300))
        for pair in (("group", number + 1, 1 if number < 299 else 0), ("single", number + 10, 2 if number < 299 else 1))
    ]
    assert [(one.chat_type, one.peer_id, one.unread_count) for one in listed] == expected[:_MOST_LISTED]
    assert [orjson.loads(one.last or "{}").get("number") for one in listed[:3]] == [1200, 1198, 1196]


def test_unread_is_counted_among_the_last_thousand(database: Database) -> None:
    """A group that went on for long without him costs a bounded count."""
    _add_users(database, 2)
    rows = [_row(seq, "single:1:2", seq, sender_id=2, recipient_id=_ME) for seq in range(1, 1_301)]
    with database.writing() as connection:
        connection.execute(insert(Message), rows)

    with database.reading() as connection:
        (listed,) = history.load_conversations(connection, _ME)

    assert (listed.seq, listed.unread_count) == (1_300, 1_000)


def test_open_requests_are_bounded(database: Database) -> None:
    """The newest 500 come; older ones follow as these are answered."""
    _add_users(database, 610)
    pairs = [
        (sender_id, _row(sender_id, f"single:1:{sender_id}", 1, sender_id=sender_id, recipient_id=_ME))
        for sender_id in range(2, 602)
    ]
    with database.writing() as connection:
        connection.execute(insert(Message), [row for _, row in pairs])
        first_contacts.record(
            connection,
            [
                {
                    "sender_id": sender_id,
                    "recipient_id": _ME,
                    "message_id": row["id"],
                    "created_at_ms": row["created_at_ms"],
                }
                for sender_id, row in pairs
            ],
        )

    with database.reading() as connection:
        listed = [row.sender_id for row in first_contacts.load_open(connection, _ME)]
    with database.writing() as connection:
        for sender_id in listed:
            assert first_contacts.answer(connection, sender_id, _ME, "accepted")
    with database.reading() as connection:
        older = [row.sender_id for row in first_contacts.load_open(connection, _ME)]

    assert listed == [*range(601, 101, -1)]
    assert older == [*range(101, 1, -1)]
