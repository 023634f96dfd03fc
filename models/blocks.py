"""Blocks: who wants to hear nothing from whom, friend or not (C17). Apart from the friend row, so unfriending keeps it."""

from __future__ import annotations

from sqlalchemy import BigInteger, Connection, ForeignKey, delete
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_missing
from models.users import touch_facts


class Block(Base):
    __tablename__ = "block"

    blocker_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    blocked_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True, index=True)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


def block(connection: Connection, blocker_id: int, blocked_id: int, now_ms: int) -> None:
    """Block a user. Idempotent."""
    row = {"blocker_id": blocker_id, "blocked_id": blocked_id, "created_at_ms": now_ms}
    insert_missing(connection, Block, [row], key=("blocker_id", "blocked_id"))
    touch_facts(connection, blocker_id)


def unblock(connection: Connection, blocker_id: int, blocked_id: int) -> None:
    """Lift a block. Idempotent."""
    connection.execute(delete(Block).where(Block.blocker_id == blocker_id, Block.blocked_id == blocked_id))
    touch_facts(connection, blocker_id)
