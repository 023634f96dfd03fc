"""Blocks: who wants to hear nothing from whom, friend or not (C17). Apart from the friend row, so unfriending keeps it.

ORIG's flag on the friend row (`isblack`) is kept equal, since its clients read it there.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Connection, ForeignKey, delete, select, update
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_missing
from models.friendships import Friendship
from models.users import touch_facts


class Block(Base):
    __tablename__ = "block"

    blocker_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    blocked_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True, index=True)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


def block(connection: Connection, blocker_id: int, blocked_id: int, now_ms: int) -> None:
    """Block a user. Idempotent."""
    touch_facts(connection, blocker_id)  # first: whoever ends a friendship locks the users before their rows, too
    row = {"blocker_id": blocker_id, "blocked_id": blocked_id, "created_at_ms": now_ms}
    insert_missing(connection, Block, [row], key=("blocker_id", "blocked_id"))
    _flag_friend(connection, blocker_id, blocked_id, 1)


def unblock(connection: Connection, blocker_id: int, blocked_id: int) -> None:
    """Lift a block. Idempotent."""
    touch_facts(connection, blocker_id)
    connection.execute(delete(Block).where(Block.blocker_id == blocker_id, Block.blocked_id == blocked_id))
    _flag_friend(connection, blocker_id, blocked_id, 0)


def is_blocked(connection: Connection, blocker_id: int, blocked_id: int) -> bool:
    """Return whether the first has blocked the second, on his friend row or apart from it."""
    block = select(Block.blocker_id).where(Block.blocker_id == blocker_id, Block.blocked_id == blocked_id)
    flag = select(Friendship.id).where(
        Friendship.user_id == blocker_id, Friendship.friend_id == blocked_id, Friendship.isblack != 0
    )
    return connection.execute(select(block.exists() | flag.exists())).scalar_one()


def _flag_friend(connection: Connection, blocker_id: int, blocked_id: int, isblack: int) -> None:
    row = (Friendship.user_id == blocker_id, Friendship.friend_id == blocked_id)
    connection.execute(update(Friendship).where(*row).values(isblack=isblack))
