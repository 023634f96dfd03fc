"""Shards of the outbox, as SQL knows them: the fence that decides who may commit, and the last position given out.

A drain that was stopped and woken later holds an old fence, so its commit is refused (Kleppmann, "How to do distributed
locking", the fencing token). The update of the row also serialises the commits of a shard, so positions have no holes
that could be filled later.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, Connection, SmallInteger, bindparam, literal_column, select, update
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_missing
from models.errors import FenceLost
from models.prepared import Prepared


class Shard(Base):
    __tablename__ = "shard"

    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    fence: Mapped[int] = mapped_column(BigInteger)
    last_shard_seq: Mapped[int] = mapped_column(BigInteger)


_TAKE = Prepared(
    update(Shard)
    .where(Shard.shard == bindparam("of_shard"), Shard.fence == bindparam("of_fence"))
    .values(last_shard_seq=Shard.last_shard_seq + bindparam("count"))
)
_DRAW = Prepared(
    update(Shard)
    .where(Shard.shard == bindparam("of_shard"))
    .values(fence=Shard.fence + literal_column("1"))
    .returning(Shard.fence)
)
_ALL = Prepared(select(Shard.shard, Shard.fence, Shard.last_shard_seq))


def draw_fence(connection: Connection, shard: int) -> int:
    """Give a new fence for the shard; every earlier one is void from this commit on."""
    drawn = _DRAW.select(connection, {"of_shard": shard})
    if not drawn:
        insert_missing(connection, Shard, [{"shard": shard, "fence": 0, "last_shard_seq": 0}], key=("shard",))
        drawn = _DRAW.select(connection, {"of_shard": shard})
    fence: int = drawn[0][0]
    return fence


def take_positions(connection: Connection, wanted: Mapping[int, tuple[int, int]]) -> dict[int, int]:
    """Reserve positions under our fences; return per shard the position before the first of them.

    wanted: shard -> our fence, how many; in ascending order, so that two drains never wait for each other. Raises FenceLost:
    some fence is not the newest. The transaction must be rolled back then.
    """
    rows = [{"of_shard": shard, "of_fence": fence, "count": count} for shard, (fence, count) in wanted.items()]
    _TAKE.execute(connection, rows)
    stands = {shard: (fence, last) for shard, fence, last in _ALL.select(connection, {})}
    lost = frozenset(shard for shard, (fence, _) in wanted.items() if stands.get(shard, (0, 0))[0] != fence)
    if lost:
        raise FenceLost(lost)
    return {shard: stands[shard][1] - count for shard, (_, count) in wanted.items()}


def load_last_positions(connection: Connection) -> dict[int, int]:
    """Return the newest position of every shard."""
    return {shard: last for shard, _, last in _ALL.select(connection, {})}
