"""Pending notices: what a change of friends or groups must tell, written in that change's own transaction.

So a change that stands is told, whatever dies after the commit: whoever committed hands the notice to the outbox at once,
and a drain sweeps up what was left behind. The request's id keeps a notice that is handed over twice from being told twice.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import BigInteger, Connection, LargeBinary, String, delete, insert, select
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base
from models.requests import ChatType, Request, mint_id

SWEEP_AFTER_MS = 2_000  # until then, the process that committed is expected to do it


class PendingNotice(Base):
    __tablename__ = "pending_notice"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    request: Mapped[bytes] = mapped_column(LargeBinary)
    created_at_ms: Mapped[int] = mapped_column(BigInteger, index=True)


def build(
    chat_type: ChatType,
    *,
    about_id: int,
    to_id: int,
    conversation: str,
    message: dict[str, Any],
    for_sender: dict[str, Any] | None = None,
    is_to_sender: bool = True,
) -> Request:
    """Build a notice. `message` and `for_sender` hold the Message's fields but id, seq, create_time and isremove.

    about_id: the user it is about, who also gets it unless `is_to_sender` is False. to_id: recipient, or the group whose
    active members get it. for_sender: the notice from his viewpoint, where it differs.
    """
    data = {"message": message, "for_sender": for_sender, "is_to_sender": is_to_sender}
    return Request(
        id=mint_id(about_id, None),
        kind="notice",
        chat_type=chat_type,
        sender_id=about_id,
        role="system",
        device="",
        to_id=to_id,
        type="systemNotice",
        data=orjson.dumps(data).decode(),
        options=None,
        created_at_ms=time.time_ns() // 1_000_000,
        client_msg_id=None,
        reply_to=None,
        conversation=conversation,
    )


def queue(connection: Connection, notices: Sequence[Request]) -> None:
    """Keep notices with the change they tell of. Call it in that change's transaction."""
    rows = [{"id": n.id, "request": n.encode(), "created_at_ms": n.created_at_ms} for n in notices]
    connection.execute(insert(PendingNotice), rows)


def load_left_behind(connection: Connection, now_ms: int, most: int) -> list[tuple[str, bytes]]:
    """Return notices that nobody has handed over in time, oldest first: id, and the request as it is encoded."""
    query = select(PendingNotice.id, PendingNotice.request).where(PendingNotice.created_at_ms < now_ms - SWEEP_AFTER_MS)
    rows = connection.execute(query.order_by(PendingNotice.created_at_ms).limit(most))
    return [(notice_id, request) for notice_id, request in rows]


def forget(connection: Connection, notice_ids: Sequence[str]) -> None:
    """Forget notices that stand in the outbox."""
    connection.execute(delete(PendingNotice).where(PendingNotice.id.in_(notice_ids)))
