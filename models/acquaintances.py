"""Acquaintances: who may know of whom beyond messages, such as whether he is online."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, exists, select
from sqlalchemy.orm import aliased

from models.blocks import Block
from models.friendships import Friendship
from models.users import ACTIVE

_mine, _theirs = aliased(Friendship), aliased(Friendship)
_BLOCKS = [
    exists().where(Block.blocker_id == blocker, Block.blocked_id == blocked)
    for blocker, blocked in ((_mine.user_id, _mine.friend_id), (_mine.friend_id, _mine.user_id))
]
_ACQUAINTANCES = (
    select(_mine.user_id, _mine.friend_id)
    .join(_theirs, (_theirs.user_id == _mine.friend_id) & (_theirs.friend_id == _mine.user_id))
    .where(_mine.status == ACTIVE, _theirs.status == ACTIVE, _mine.isblack == 0, _theirs.isblack == 0)
    .where(~_BLOCKS[0], ~_BLOCKS[1])
)


def load(connection: Connection, user_ids: Sequence[int]) -> dict[int, list[int]]:
    """Return of each user those who may know of him and of whom he may know: friends in both directions, whom no
    administrator has parted and of whom neither has blocked the other. Absent = nobody.
    """
    found: dict[int, list[int]] = {}
    for user_id, friend_id in connection.execute(_ACQUAINTANCES.where(_mine.user_id.in_(user_ids))):
        found.setdefault(user_id, []).append(friend_id)
    return found
