"""Shards of the outbox, as SQL knows them: the fence that decides who may commit, and the last position given out.

A drain that was stopped and woken later holds an old fence, so its commit is refused (Kleppmann, "How to do distributed
locking", the fencing token). The update of the row also serialises the commits of a shard, so positions have no holes
that could be filled later.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Connection, SmallInteger, select, update
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_missing
from models.errors import FenceLost


class Shard(Base):
    __tablename__ = "shard"

    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    fence: Mapped[int] = mapped_column(BigInteger)
    last_shard_seq: Mapped[int] = mapped_column(BigInteger)


def draw_fence(connection: Connection, shard: int) -> int:
    """Give a new fence for the shard; every earlier one is void from this commit on."""
    insert_missing(connection, Shard, [{"shard": shard, "fence": 0, "last_shard_seq": 0}], key=("shard",))
    drawn = update(Shard).where(Shard.shard == shard).values(fence=Shard.fence + 1).returning(Shard.fence)
    return connection.execute(drawn).scalar_one()


def take_positions(connection: Connection, shard: int, fence: int, count: int) -> int:
    """Reserve `count` positions of the shard under our fence; return the position before the first.

    Raises FenceLost: the fence is not the newest. The transaction must be rolled back then.
    """
    taken = (
        update(Shard)
        .where(Shard.shard == shard, Shard.fence == fence)
        .values(last_shard_seq=Shard.last_shard_seq + count)
        .returning(Shard.last_shard_seq)
    )
    last = connection.execute(taken).scalar_one_or_none()
    if last is None:
        raise FenceLost(frozenset({shard}))
    return last - count


def load_last_positions(connection: Connection) -> dict[int, int]:
    """Return the newest position of every shard."""
    return {row.shard: row.last_shard_seq for row in connection.execute(select(Shard.shard, Shard.last_shard_seq))}
