"""Sessions: one per (user, device). SQL is the truth; Redis (`store/sessions.py`) holds the copy that requests check.

A new login on the same device replaces the row, so the former token is dead (contract section 3, ORIG E5).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, ForeignKey, String, select
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_or_update


class ChatSession(Base):
    __tablename__ = "chat_session"

    user_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    session_id: Mapped[str] = mapped_column(String(32))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    role: Mapped[str] = mapped_column(String(20), default="user")


def start_sessions(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Start sessions, ending those the same devices had. Each row holds the columns of ChatSession."""
    columns = ("session_id", "created_at_ms", "expires_at_ms", "role")
    insert_or_update(connection, ChatSession, rows, key=("user_id", "device"), update=columns)


def load_session_id(connection: Connection, user_id: int, device: str) -> str | None:
    """Return the id of the device's session, None where it has none."""
    query = select(ChatSession.session_id).where(ChatSession.user_id == user_id, ChatSession.device == device)
    return connection.execute(query).scalar_one_or_none()
