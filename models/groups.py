"""Groups and their members (ORIG section 5, tables `group` and `group_user`).

`facts_version` of a group rises with every change of the group or its members, as a user's does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    DateTime,
    ForeignKey,
    Integer,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    func,
    select,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_missing
from models.users import now_utc

ACTIVE = 1
MUTED = 0  # a membership ORIG muted by its status: receives, may not send (C20)
PENDING = 2  # a membership that waits for the owner's approval
UNTIL_LIFTED = -1  # of `muted_until_ms`
DISSOLVED = 0  # status of a group; its rows stay, so that those who were in it can be told
RECEIVING = (ACTIVE, MUTED)  # memberships that receive

MAX_ID = 2**31 - 1  # what an id column of PostgreSQL holds; nothing has a greater id


@dataclass(frozen=True, slots=True)
class Summary:
    """What a message tells of its group (contract section 4): never who is in it (B20)."""

    id: int
    uuid: str
    user_id: int  # the owner
    name: str
    avatar: str
    remark: str
    invite_confirm: int
    member_count: int


class Group(Base):
    __tablename__ = "group"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id"), index=True)  # the owner
    name: Mapped[str] = mapped_column(String(50))
    avatar: Mapped[str] = mapped_column(String(4000), default="")
    remark: Mapped[str] = mapped_column(Text, default="")
    invite_confirm: Mapped[int] = mapped_column(SmallInteger, default=0)
    status: Mapped[int] = mapped_column(SmallInteger, default=ACTIVE)
    order: Mapped[int] = mapped_column(Integer, default=50)
    create_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc)
    update_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc, onupdate=now_utc)
    # Contract Q5: while set, only the owner speaks. 0 = not muted, -1 = until lifted, else until that time.
    muted_until_ms: Mapped[int] = mapped_column(BigInteger, default=0)
    facts_version: Mapped[int] = mapped_column(BigInteger, default=1)


class GroupMember(Base):
    __tablename__ = "group_user"
    __table_args__ = (UniqueConstraint("group_id", "user_id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    group_id: Mapped[int] = mapped_column(ForeignKey("group.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), index=True)
    nickname: Mapped[str] = mapped_column(String(50), default="")
    avatar: Mapped[str] = mapped_column(String(1000), default="")
    status: Mapped[int] = mapped_column(SmallInteger, default=ACTIVE)
    order: Mapped[int] = mapped_column(Integer, default=50)
    create_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc)
    update_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc, onupdate=now_utc)
    # C20: a muted member still receives. 0 = not muted, -1 = until lifted, else until that time.
    muted_until_ms: Mapped[int] = mapped_column(BigInteger, default=0)


def lock(connection: Connection, group_id: int) -> Any:
    """Return a group's row, locked until the transaction ends; None where it does not exist.

    Whoever changes a group or its members begins here: limits and states are then checked by one at a time (F1).
    """
    if group_id > MAX_ID:
        return None
    # Not FOR UPDATE: that would also wait for everybody who refers to the row.
    query = select(Group.__table__).where(Group.id == group_id).with_for_update(key_share=True)
    return connection.execute(query).one_or_none()


def load_summary(connection: Connection, group_id: int) -> Summary:
    """Return what a message tells of a group that exists."""
    columns = (Group.id, Group.uuid, Group.user_id, Group.name, Group.avatar, Group.remark, Group.invite_confirm)
    row = connection.execute(select(*columns).where(Group.id == group_id)).one()
    return Summary(*row, count_members(connection, group_id, RECEIVING))


def count_members(connection: Connection, group_id: int, statuses: Iterable[int]) -> int:
    """Count the memberships of these statuses."""
    query = select(func.count()).where(GroupMember.group_id == group_id, GroupMember.status.in_(statuses))
    return connection.execute(query).scalar_one()


def add_members(connection: Connection, group_id: int, user_ids: Iterable[int]) -> None:
    """Make users active members. Members that exist are left as they are."""
    rows = [{"group_id": group_id, "user_id": user_id} for user_id in user_ids]
    insert_missing(connection, GroupMember, rows, key=("group_id", "user_id"))
    touch_facts(connection, group_id)


def load_owner_id(connection: Connection, group_id: int) -> int | None:
    """Return the owner of an active group, None where there is no such group."""
    return connection.execute(
        select(Group.user_id).where(Group.id == group_id, Group.status == ACTIVE)
    ).scalar_one_or_none()


def is_member(connection: Connection, group_id: int, user_id: int) -> bool:
    """Return whether the user is a member who receives: active, or muted."""
    mine = (GroupMember.group_id == group_id, GroupMember.user_id == user_id)
    status = connection.execute(select(GroupMember.status).where(*mine)).scalar_one_or_none()
    return status in RECEIVING


def mute_member(connection: Connection, group_id: int, user_id: int, until_ms: int) -> bool:
    """Mute a member until a time, UNTIL_LIFTED, or 0 to unmute him. False: he is no member."""
    if user_id > MAX_ID:
        return False
    mine = (GroupMember.group_id == group_id, GroupMember.user_id == user_id, GroupMember.status.in_(RECEIVING))
    # The status ORIG muted by is made an ordinary membership, so that unmuting lifts it too.
    changed = update(GroupMember).where(*mine).values(muted_until_ms=until_ms, status=ACTIVE)
    if connection.execute(changed).rowcount != 1:
        return False
    touch_facts(connection, group_id)
    return True


def mute_all(connection: Connection, group_id: int, until_ms: int) -> None:
    """Mute everybody but the owner until a time, UNTIL_LIFTED, or 0 to lift it."""
    connection.execute(update(Group).where(Group.id == group_id).values(muted_until_ms=until_ms))
    touch_facts(connection, group_id)


def touch_facts(connection: Connection, group_id: int) -> None:
    """Raise the facts version of a group. Call it in the transaction that changes the group or a membership."""
    connection.execute(update(Group).where(Group.id == group_id).values(facts_version=Group.facts_version + 1))
