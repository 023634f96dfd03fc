"""Questions that wait for the automatic answer of their recipient: noted in the transaction that stores the message (flaw G5).

So a question that stands is answered, whatever dies meanwhile. Who answers, and what, is decided in `tasks/answering.py`.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, String, delete, insert, or_, select, update
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base
from models.requests import Request

# Ids of what follows from a question: derived, so that whoever does it twice does it once.
_NAMESPACE = uuid.UUID("b1a0c9de-5a1f-4c38-8f0e-3d0f6d1b7c52")


class PendingAnswer(Base):
    __tablename__ = "pending_answer"

    question_id: Mapped[str] = mapped_column(String(36), primary_key=True)
    created_at_ms: Mapped[int] = mapped_column(BigInteger, index=True)
    handed_at_ms: Mapped[int | None] = mapped_column(BigInteger)  # when an answer was on its way to the outbox


def is_asked(request: Request) -> bool:
    """Return whether a send asks for the recipient's automatic answer. An answer does not, so none is answered."""
    options = request.options
    return isinstance(options, dict) and bool(options.get("askanswer")) and request.type == "text"


def answer_id(question_id: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"answer:{question_id}"))


def notice_id(question_id: str) -> str:
    """Name what tells the recipient of the answer that was given for him."""
    return str(uuid.uuid5(_NAMESPACE, f"notice:{question_id}"))


def note(connection: Connection, requests: Sequence[Request]) -> None:
    """Note questions, in the transaction that stores them."""
    rows = [{"question_id": each.id, "created_at_ms": each.created_at_ms} for each in requests]
    connection.execute(insert(PendingAnswer), rows)


def load_new(connection: Connection, most: int) -> list[str]:
    """Return the oldest questions that nobody has looked at."""
    query = select(PendingAnswer.question_id).where(PendingAnswer.handed_at_ms.is_(None))
    return list(connection.execute(query.order_by(PendingAnswer.created_at_ms).limit(most)).scalars())


def load_handed(connection: Connection, most: int) -> list[Any]:
    """Return questions whose answer waits for a verdict, for the longest time first: question_id and handed_at_ms."""
    query = select(PendingAnswer.question_id, PendingAnswer.handed_at_ms).where(PendingAnswer.handed_at_ms.is_not(None))
    return list(connection.execute(query.order_by(PendingAnswer.handed_at_ms).limit(most)))


def mark_handed(connection: Connection, question_ids: Sequence[str], now_ms: int) -> None:
    """Note that answers are about to be handed to the outbox."""
    handed = update(PendingAnswer).where(PendingAnswer.question_id.in_(question_ids))
    connection.execute(handed.values(handed_at_ms=now_ms))


def drop(connection: Connection, question_ids: Sequence[str], handed_before_ms: int) -> None:
    """Forget questions that are not answered, but for those whose answer somebody else has handed over since that time."""
    is_ours = or_(PendingAnswer.handed_at_ms.is_(None), PendingAnswer.handed_at_ms < handed_before_ms)
    connection.execute(delete(PendingAnswer).where(PendingAnswer.question_id.in_(question_ids), is_ours))


def forget(connection: Connection, question_id: str) -> bool:
    """Forget a question whose answer is decided. False: somebody else has, a moment ago."""
    return connection.execute(delete(PendingAnswer).where(PendingAnswer.question_id == question_id)).rowcount == 1
