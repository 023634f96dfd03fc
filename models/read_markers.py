"""Read markers: up to which `seq` a user has read each of his conversations. They only rise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import BigInteger, Connection, Integer, String, select, tuple_
from sqlalchemy.orm import Mapped, mapped_column

from models import messages
from models.database import Base, dialect_insert
from models.groups import ACTIVE, MUTED, GroupMember
from models.messages import Message

_MAX_ID = 2**31 - 1  # PostgreSQL's integer
_PLACES = select(Message.conversation, Message.seq)


class ReadMarker(Base):
    __tablename__ = "read_marker"

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    conversation: Mapped[str] = mapped_column(String(64), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, default=0)


def bound(connection: Connection, wanted: Mapping[tuple[int, str], int]) -> dict[tuple[int, str], int]:
    """Return, by (user, conversation), how far each marker may be raised: not beyond the newest message, and of a group
    only by its members. A marker in the future would hide what is still to come.
    """
    exact = tuple_(Message.conversation, Message.seq)
    asked = sorted({(conversation, seq) for (_, conversation), seq in wanted.items()})
    found = {(row[0], row[1]) for row in connection.execute(_PLACES.where(exact.in_(asked)))}
    beyond = sorted({conversation for conversation, seq in asked if (conversation, seq) not in found})
    newest = messages.load_last_seqs(connection, beyond) if beyond else {}
    members = _load_memberships(connection, wanted)
    allowed = {}
    for (user_id, conversation), seq in wanted.items():
        seq = min(seq, newest.get(conversation, seq)) if (conversation, seq) not in found else seq
        if seq > 0 and (not conversation.startswith("group:") or (user_id, conversation) in members):
            allowed[user_id, conversation] = seq
    return allowed


def raise_all(connection: Connection, wanted: Mapping[tuple[int, str], int]) -> dict[tuple[int, str], int]:
    """Raise markers, by (user, conversation). Return those that rose; the others stood there or beyond already."""
    # In order, so that two processes that raise the same ones cannot wait for each other.
    rows = [{"user_id": key[0], "conversation": key[1], "seq": wanted[key]} for key in sorted(wanted)]
    insert = dialect_insert(connection, ReadMarker).values(rows)
    upsert = insert.on_conflict_do_update(
        index_elements=["user_id", "conversation"],
        set_={"seq": insert.excluded.seq},
        where=ReadMarker.seq < insert.excluded.seq,
    )
    returned = connection.execute(upsert.returning(ReadMarker.user_id, ReadMarker.conversation, ReadMarker.seq))
    return {(row.user_id, row.conversation): row.seq for row in returned}


def _load_memberships(connection: Connection, wanted: Iterable[tuple[int, str]]) -> set[tuple[int, str]]:
    """Return those of the (user, conversation) pairs that are of a group whose messages the user receives."""
    ids = [(int(name[6:]), user_id) for user_id, name in wanted if name.startswith("group:")]
    asked = [pair for pair in ids if pair[0] <= _MAX_ID]
    if not asked:
        return set()
    key = tuple_(GroupMember.group_id, GroupMember.user_id)
    query = select(GroupMember.group_id, GroupMember.user_id).where(
        key.in_(asked), GroupMember.status.in_((ACTIVE, MUTED))
    )
    return {(user_id, f"group:{group_id}") for group_id, user_id in connection.execute(query)}


def load(connection: Connection, user_id: int) -> dict[str, int]:
    """Return a user's markers by conversation; what is absent is 0."""
    rows = connection.execute(select(ReadMarker.conversation, ReadMarker.seq).where(ReadMarker.user_id == user_id))
    return {row.conversation: row.seq for row in rows}
