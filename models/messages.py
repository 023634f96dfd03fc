"""Messages and the decisions on them: one row per accepted request, refusals too. The row is the commit point.

From the moment a row stands, only it counts: its verdict, its `seq` in the conversation, its `shard_seq` (the order in
which its shard decided, the position by which Redis ignores what it has already applied).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Index,
    Integer,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, each_text
from models.errors import AlreadyDecided
from models.prepared import Prepared

STORED = "stored"
REFUSED = "refused"


def _index_where_set(name: str, first: str, *more: str) -> Index:
    """Give an index of the rows that have its first column: each index costs a message some microseconds."""
    is_set = text(f"{first} IS NOT NULL")
    return Index(name, first, *more, sqlite_where=is_set, postgresql_where=is_set)


class Message(Base):
    __tablename__ = "message"
    __table_args__ = (
        UniqueConstraint("conversation", "seq"),
        UniqueConstraint("shard", "shard_seq"),
        Index("ix_message_sender", "sender_id", "shard", "shard_seq"),
        _index_where_set("ix_message_recipient", "recipient_id", "shard", "shard_seq"),
        _index_where_set("ix_message_group_id", "group_id"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    conversation: Mapped[str] = mapped_column(String(64))
    seq: Mapped[int | None] = mapped_column(Integer)  # NULL when refused, and for a recall: it has no place of its own
    shard: Mapped[int] = mapped_column(SmallInteger)
    shard_seq: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(10))  # models.requests.Kind
    verdict: Mapped[str] = mapped_column(String(10))
    code: Mapped[str | None] = mapped_column(String(40))  # why it was refused
    sender_id: Mapped[int] = mapped_column(Integer)
    device: Mapped[str] = mapped_column(String(64))  # the device that sent
    recipient_id: Mapped[int | None] = mapped_column(BigInteger)  # one-to-one
    group_id: Mapped[int | None] = mapped_column(BigInteger)
    audience_version: Mapped[int | None] = mapped_column(BigInteger)  # group: see audiences.py
    target_id: Mapped[str | None] = mapped_column(String(36))  # recall: the message recalled
    is_recalled: Mapped[bool] = mapped_column(default=False)
    is_to_sender: Mapped[bool] = mapped_column(default=True)  # False: a notice that only its recipient gets
    content_hash: Mapped[str] = mapped_column(String(32))
    body: Mapped[str | None] = mapped_column(Text)  # Message as JSON as recipients see it; NULL when refused
    # A private remark is shown only to the person who wrote it (C19). NULL where both sides see the same.
    body_for_sender: Mapped[str | None] = mapped_column(Text)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    decided_at_ms: Mapped[int] = mapped_column(BigInteger)


_DECISION = select(Message.__table__)
_INSERT = Prepared(insert(Message))
_ASKED = each_text("conversations")
# Not grouped: that would read all of a conversation's index, which grows with its history, where this reads one row of it.
_LAST_SEQS = Prepared(
    select(_ASKED, select(func.max(Message.seq)).where(Message.conversation == _ASKED).scalar_subquery())
)


def load_decisions(connection: Connection, message_ids: Sequence[str]) -> dict[str, Any]:
    """Return the rows that stand for these ids, by id."""
    rows = connection.execute(_DECISION.where(Message.id.in_(message_ids)))
    return {row.id: row for row in rows}


def load_decision(connection: Connection, message_id: str) -> Any:
    """Return the row that stands for an id, None where none does."""
    return connection.execute(_DECISION.where(Message.id == message_id)).one_or_none()


def tombstone(connection: Connection, message_id: str, body: str, body_for_sender: str | None) -> None:
    """Replace what a recalled message said. Repeating changes nothing more."""
    recalled = {"is_recalled": True, "body": body, "body_for_sender": body_for_sender}
    connection.execute(update(Message).where(Message.id == message_id).values(recalled))


def load_bodies(connection: Connection, conversation: str, seqs: Sequence[int]) -> dict[int, str]:
    """Return the bodies of a conversation's messages, by seq."""
    query = select(Message.seq, Message.body).where(Message.conversation == conversation, Message.seq.in_(seqs))
    return {seq: body for seq, body in connection.execute(query) if seq is not None and body is not None}


def load_last_seqs(connection: Connection, conversations: Sequence[str]) -> dict[str, int]:
    """Return the newest `seq` of each conversation; 0 where it has no message yet."""
    return {asked: seq or 0 for asked, seq in _LAST_SEQS.select(connection, {"conversations": conversations})}


def insert_decisions(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert decision rows. Each row holds every column of Message.

    Raises AlreadyDecided: one of the ids has a row, or a `seq` or position is taken. The transaction must be rolled back then.
    """
    try:
        _INSERT.execute(connection, rows)
    except IntegrityError as error:
        raise AlreadyDecided(str(error.orig)) from error
