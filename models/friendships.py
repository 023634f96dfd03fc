"""Friendships: one directed row per side (ORIG section 5, table `goodfriend`).

A row says what its owner thinks of the friend: the private remark, the black flag, the administrator's switch.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, DateTime, ForeignKey, Integer, SmallInteger, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_missing
from models.users import now_utc


class Friendship(Base):
    __tablename__ = "goodfriend"
    __table_args__ = (UniqueConstraint("user_id", "friend_id"),)  # F1: parallel requests must not double a row

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))
    friend_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), index=True)
    nickname: Mapped[str] = mapped_column(String(50), default="")  # the owner's private remark for the friend
    friendlookme: Mapped[int] = mapped_column(SmallInteger, default=1)
    melookfriend: Mapped[int] = mapped_column(SmallInteger, default=1)
    ismystarfriend: Mapped[int] = mapped_column(SmallInteger, default=0)
    isblack: Mapped[int] = mapped_column(SmallInteger, default=0)
    status: Mapped[int] = mapped_column(SmallInteger, default=1)
    order: Mapped[int] = mapped_column(Integer, default=50)
    create_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc)
    update_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc, onupdate=now_utc)


def befriend(connection: Connection, pairs: Iterable[tuple[int, int]]) -> None:
    """Make each pair friends of each other. Rows that exist are left as they are."""
    rows = [{"user_id": a, "friend_id": b} for pair in pairs for a, b in (pair, pair[::-1])]
    insert_missing(connection, Friendship, rows, key=("user_id", "friend_id"))
