"""Read markers: up to which `seq` a user has read each of his conversations. They only rise."""

from __future__ import annotations

from sqlalchemy import BigInteger, Connection, Integer, String, select, update
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_missing


class ReadMarker(Base):
    __tablename__ = "read_marker"

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    conversation: Mapped[str] = mapped_column(String(64), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, default=0)


def raise_to(connection: Connection, user_id: int, conversation: str, seq: int) -> bool:
    """Raise the marker. False: it stood there or beyond already."""
    row = {"user_id": user_id, "conversation": conversation, "seq": 0}
    insert_missing(connection, ReadMarker, [row], key=("user_id", "conversation"))
    mine = (ReadMarker.user_id == user_id, ReadMarker.conversation == conversation, ReadMarker.seq < seq)
    return connection.execute(update(ReadMarker).where(*mine).values(seq=seq)).rowcount == 1


def load(connection: Connection, user_id: int) -> dict[str, int]:
    """Return a user's markers by conversation; what is absent is 0."""
    rows = connection.execute(select(ReadMarker.conversation, ReadMarker.seq).where(ReadMarker.user_id == user_id))
    return {row.conversation: row.seq for row in rows}
