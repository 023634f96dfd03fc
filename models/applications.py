"""Applications: who has asked whom to become friends, and what became of it (ORIG section 5, table `goodfriendapply`).

Rows of status `auto` are no applications and are shown to nobody: they count the friendships a user has lately made
without asking, and outlive these, so that ending one does not make room for another.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    SmallInteger,
    String,
    delete,
    func,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy import insert as sql_insert
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base
from models.users import MAX_ID, User, now_utc

Status = Literal["pending", "refuse", "agree", "ignore"]

AUTOMATIC_WINDOW = timedelta(hours=1)
_AUTOMATIC = "auto"
_IS_PENDING = text("status = 'pending'")


class FriendApplication(Base):
    __tablename__ = "goodfriendapply"
    __table_args__ = (
        # F1: parallel requests must not double what waits for an answer.
        Index(
            "uq_goodfriendapply_pending",
            "user_id",
            "friend_id",
            unique=True,
            sqlite_where=_IS_PENDING,
            postgresql_where=_IS_PENDING,
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"))  # who asks
    friend_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), index=True)  # who is asked
    nickname: Mapped[str] = mapped_column(String(50), default="")  # the applicant's words
    friendlookme: Mapped[int] = mapped_column(SmallInteger, default=1)
    melookfriend: Mapped[int] = mapped_column(SmallInteger, default=1)
    ismystarfriend: Mapped[int] = mapped_column(SmallInteger, default=0)
    isblack: Mapped[int] = mapped_column(SmallInteger, default=0)
    status: Mapped[str] = mapped_column(String(10), default="pending")  # a Status, or _AUTOMATIC
    order: Mapped[int] = mapped_column(Integer, default=50)
    create_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc)
    update_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc, onupdate=now_utc)


def load(connection: Connection, application_id: int) -> Any | None:
    """Return an application, None where there is none such."""
    query = select(_TABLE).where(FriendApplication.id == min(application_id, MAX_ID), _IS_SHOWN)
    return connection.execute(query).one_or_none()


def load_newest(connection: Connection, applicant_id: int, target_id: int) -> Any | None:
    """Return the newest application of one user to another, None where there is none."""
    query = select(_TABLE).where(*_from_to(applicant_id, target_id), _IS_SHOWN)
    return connection.execute(query.order_by(FriendApplication.id.desc()).limit(1)).one_or_none()


def load_pending(connection: Connection, applicant_id: int, target_id: int) -> Any | None:
    """Return the application of one user to another that waits for an answer, None where there is none."""
    query = select(_TABLE).where(*_from_to(applicant_id, target_id), FriendApplication.status == "pending")
    return connection.execute(query).one_or_none()


def load_page(connection: Connection, target_id: int, offset: int, most: int) -> list[Any]:
    """Return applications to a user, newest first, each with the applicant's username, avatar, public nickname and uuid."""
    columns = (User.username, User.avatar, User.nickname.label("user_nickname"), User.uuid)
    query = select(_TABLE, *columns).join(User, User.id == FriendApplication.user_id)
    query = query.where(FriendApplication.friend_id == target_id, _IS_SHOWN)
    return list(connection.execute(query.order_by(FriendApplication.id.desc()).offset(offset).limit(most)))


def count_pending(connection: Connection, target_id: int) -> int:
    """Return how many applications wait for a user's answer."""
    mine = (FriendApplication.friend_id == target_id, FriendApplication.status == "pending")
    return connection.execute(select(func.count()).select_from(FriendApplication).where(*mine)).scalar_one()


def insert(connection: Connection, applicant_id: int, target_id: int, words: str, status: Status) -> None:
    """Write an application. Lock both users first: of two pending ones the second meets a unique key (F1)."""
    row = {"user_id": applicant_id, "friend_id": target_id, "nickname": words, "status": status}
    connection.execute(sql_insert(FriendApplication), row)


def decide(connection: Connection, application_id: int, status: Status) -> bool:
    """Answer an application that waits for it. False: it does not."""
    waiting = (FriendApplication.id == application_id, FriendApplication.status == "pending")
    return connection.execute(update(FriendApplication).where(*waiting).values(status=status)).rowcount == 1


def settle(connection: Connection, user_id: int, other_id: int) -> None:
    """Agree to whatever waits between two users, whoever asked: they have become friends."""
    waiting = (_between(user_id, other_id), FriendApplication.status == "pending")
    connection.execute(update(FriendApplication).where(*waiting).values(status="agree"))


def remove_all(connection: Connection, user_id: int, other_id: int) -> None:
    """Remove the applications between two users, in both directions."""
    connection.execute(delete(FriendApplication).where(_between(user_id, other_id), _IS_SHOWN))


def note_automatic(connection: Connection, user_id: int, other_id: int) -> None:
    """Remember that a user made a friendship by himself, also when it ends at once: `load_automatic` counts it."""
    old = now_utc() - AUTOMATIC_WINDOW
    mine = (FriendApplication.user_id == user_id, FriendApplication.status == _AUTOMATIC)
    connection.execute(delete(FriendApplication).where(*mine, FriendApplication.create_time < old))
    connection.execute(sql_insert(FriendApplication), {"user_id": user_id, "friend_id": other_id, "status": _AUTOMATIC})


def load_automatic(connection: Connection, user_id: int) -> list[datetime]:
    """Return when a user made friendships by himself within the window, oldest first."""
    mine = (FriendApplication.user_id == user_id, FriendApplication.status == _AUTOMATIC)
    query = select(FriendApplication.create_time).where(*mine)
    query = query.where(FriendApplication.create_time > now_utc() - AUTOMATIC_WINDOW)
    return list(connection.execute(query.order_by(FriendApplication.create_time)).scalars())


def _from_to(applicant_id: int, target_id: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return FriendApplication.user_id == applicant_id, FriendApplication.friend_id == target_id


def _between(user_id: int, other_id: int) -> ColumnElement[bool]:
    pair = tuple_(FriendApplication.user_id, FriendApplication.friend_id)
    return pair.in_([(user_id, other_id), (other_id, user_id)])


_TABLE = FriendApplication.__table__
_IS_SHOWN = FriendApplication.status != _AUTOMATIC
