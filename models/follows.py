"""Follows: who follows whom, for those who ask it of strangers (`needFollow`, contract P7)."""

from __future__ import annotations

from sqlalchemy import BigInteger, Connection, ForeignKey, delete
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_missing
from models.users import touch_facts


class Follow(Base):
    __tablename__ = "follow"

    follower_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    followed_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True, index=True)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


def follow(connection: Connection, follower_id: int, followed_id: int, now_ms: int) -> None:
    """Follow a user. Idempotent."""
    row = {"follower_id": follower_id, "followed_id": followed_id, "created_at_ms": now_ms}
    insert_missing(connection, Follow, [row], key=("follower_id", "followed_id"))
    touch_facts(connection, follower_id)


def unfollow(connection: Connection, follower_id: int, followed_id: int) -> None:
    """Stop following. Idempotent."""
    connection.execute(delete(Follow).where(Follow.follower_id == follower_id, Follow.followed_id == followed_id))
    touch_facts(connection, follower_id)
