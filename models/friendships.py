"""Friendships: one directed row per side (ORIG section 5, table `goodfriend`).

A row says what its owner thinks of the friend: the private remark, the black flag, the administrator's switch.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    ForeignKey,
    Integer,
    SmallInteger,
    String,
    UniqueConstraint,
    delete,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_missing
from models.users import MAX_ID, User, now_utc, touch_facts


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


def make(connection: Connection, owner_id: int, friend_id: int, *, remark: str, is_black: bool) -> None:
    """Write one side of a friendship. A row that exists is left as it is."""
    row = {"user_id": owner_id, "friend_id": friend_id, "nickname": remark, "isblack": int(is_black)}
    insert_missing(connection, Friendship, [row], key=("user_id", "friend_id"))


def are_friends(connection: Connection, user_id: int, other_id: int) -> bool:
    """Return whether each lists the other."""
    pair = tuple_(Friendship.user_id, Friendship.friend_id)
    query = select(func.count()).where(pair.in_([(user_id, other_id), (other_id, user_id)]))
    return connection.execute(query).scalar_one() == 2


def load(connection: Connection, owner_id: int, friend_id: int) -> Any | None:
    """Return the owner's row about a friend, None where he lists none such."""
    return connection.execute(select(Friendship.__table__).where(*_row(owner_id, friend_id))).one_or_none()


def load_page(connection: Connection, owner_id: int, offset: int, most: int) -> tuple[int, list[Any]]:
    """Return how many friends a user lists, and some of them: id, remark, friend_id and the friend's names, avatar, uuid."""
    count = connection.execute(select(func.count()).where(Friendship.user_id == owner_id)).scalar_one()
    columns = (User.username, User.avatar, User.nickname.label("friend_nickname"), User.uuid)
    query = (
        select(Friendship.id, Friendship.nickname.label("remark"), Friendship.friend_id, *columns)
        .join(User, User.id == Friendship.friend_id)
        .where(Friendship.user_id == owner_id)
    )
    return count, list(connection.execute(query.order_by(Friendship.id).offset(offset).limit(most)))


def set_remark(connection: Connection, owner_id: int, friend_id: int, remark: str) -> bool:
    """Set the owner's private name for a friend. False: he lists none such."""
    return _change(connection, owner_id, friend_id, nickname=remark)


def set_star(connection: Connection, owner_id: int, friend_id: int, target: int | None) -> bool:
    """Mark a friend with a star (1), take it away (0), or turn it over (None). False: no such friend, or he is blocked."""
    value = 1 - Friendship.ismystarfriend if target is None else target
    return _change(connection, owner_id, friend_id, Friendship.isblack == 0, ismystarfriend=value)


def set_visibility(connection: Connection, owner_id: int, friend_id: int, friendlookme: int, melookfriend: int) -> bool:
    """Say who of the two sees whose feed. False: no such friend, or he is blocked."""
    views = {"friendlookme": friendlookme, "melookfriend": melookfriend}
    return _change(connection, owner_id, friend_id, Friendship.isblack == 0, **views)


def remove(connection: Connection, user_id: int, other_id: int) -> None:
    """Remove both sides of a friendship."""
    pair = tuple_(Friendship.user_id, Friendship.friend_id)
    connection.execute(delete(Friendship).where(pair.in_([(user_id, other_id), (other_id, user_id)])))


def _change(connection: Connection, owner_id: int, friend_id: int, *also: ColumnElement[bool], **columns: Any) -> bool:
    # The user before his rows, as everybody else locks them: the other way round two changes may wait for each other.
    touch_facts(connection, owner_id)
    changed = update(Friendship).where(*_row(owner_id, friend_id), *also).values(**columns)
    return connection.execute(changed).rowcount == 1


def _row(owner_id: int, friend_id: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return Friendship.user_id == owner_id, Friendship.friend_id == min(friend_id, MAX_ID)
