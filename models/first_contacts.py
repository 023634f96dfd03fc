"""First contacts: the one message a stranger may send, as a unique row (contract P9), and what became of the request.

A row, not a counter: parallel sends meet the primary key, so one of them is the first and the others are refused (C3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import BigInteger, Connection, Integer, String, delete, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base
from models.errors import AlreadyDecided
from models.messages import Message
from models.users import MAX_ID

State = Literal["open", "accepted", "declined"]

_MAX_OPEN = 500  # as many as any stranger may add to; answering some shows older ones


class FirstContact(Base):
    __tablename__ = "first_contact"

    sender_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    recipient_id: Mapped[int] = mapped_column(Integer, primary_key=True, index=True)
    message_id: Mapped[str] = mapped_column(String(36))
    state: Mapped[str] = mapped_column(String(10), default="open")
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


def load(connection: Connection, pairs: Sequence[tuple[int, int]]) -> dict[tuple[int, int], State]:
    """Return the state of the first contact of each (sender, recipient) pair that has had one."""
    key = tuple_(FirstContact.sender_id, FirstContact.recipient_id)
    columns = (FirstContact.sender_id, FirstContact.recipient_id, FirstContact.state)
    known = [pair for pair in pairs if max(pair) <= MAX_ID]
    rows = connection.execute(select(*columns).where(key.in_(known)))
    return {(sender_id, recipient_id): state for sender_id, recipient_id, state in rows}  # type: ignore[misc]


def record(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Record first contacts, in the transaction that stores their messages. Raises AlreadyDecided: one stands already."""
    try:
        connection.execute(insert(FirstContact), rows)
    except IntegrityError as error:
        raise AlreadyDecided(str(error.orig)) from error


def answer(connection: Connection, sender_id: int, recipient_id: int, state: State) -> bool:
    """Accept or decline an open request. False: there is none."""
    mine = (
        FirstContact.sender_id == sender_id,
        FirstContact.recipient_id == recipient_id,
        FirstContact.state == "open",
    )
    return connection.execute(update(FirstContact).where(*mine).values(state=state)).rowcount == 1


def forget(connection: Connection, user_id: int, other_id: int) -> None:
    """Start again at zero, in both directions: they have become friends, or are friends no more."""
    pair = tuple_(FirstContact.sender_id, FirstContact.recipient_id)
    connection.execute(delete(FirstContact).where(pair.in_([(user_id, other_id), (other_id, user_id)])))


def load_open(connection: Connection, recipient_id: int) -> list[Any]:
    """Return the newest 500 unanswered requests to a user, newest first: rows with sender_id, body and created_at_ms."""
    query = (
        select(FirstContact.sender_id, Message.body, FirstContact.created_at_ms)
        .join(Message, Message.id == FirstContact.message_id)
        .where(FirstContact.recipient_id == recipient_id, FirstContact.state == "open")
        .order_by(FirstContact.created_at_ms.desc())
        .limit(_MAX_OPEN)
    )
    return list(connection.execute(query))
