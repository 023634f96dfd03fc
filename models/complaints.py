"""Complaints: what users report of other users and of groups, and what administrators made of it (ORIG section 5, 6.6).

A complaint that its author has taken back stays as a row and is shown to nobody. Who is told of a change is said elsewhere.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    ColumnElement,
    Connection,
    DateTime,
    ForeignKey,
    Integer,
    SmallInteger,
    String,
    Text,
    and_,
    false,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base
from models.groups import ACTIVE, Group, GroupMember
from models.requests import ChatType
from models.users import MAX_ID, User, load_person, now_utc
from models.users import lock as lock_user

PENDING, PROCESSING, HANDLED, CLOSED = 0, 1, 2, 3
OPEN = (PENDING, PROCESSING)  # of these a user may have so many
# Complaints that were taken back count as long as this, or one could be made and taken back without end.
_WITHDRAWN_COUNTS = timedelta(days=1)

Refusal = Literal["not_found", "closed"]


class Complaint(Base):
    __tablename__ = "chat_complaint"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), index=True)  # who complains
    target_id: Mapped[int] = mapped_column(Integer)  # a user, or a group
    target_type: Mapped[str] = mapped_column(String(10))  # models.requests.ChatType
    target_name: Mapped[str] = mapped_column(String(255), default="")  # as it was then
    reason: Mapped[str] = mapped_column(String(500))
    content: Mapped[str] = mapped_column(Text, default="")
    images: Mapped[list[Any]] = mapped_column(JSON)
    complaint_chatinfo: Mapped[list[Any]] = mapped_column(JSON)  # messages, as evidence
    status: Mapped[int] = mapped_column(SmallInteger, default=PENDING, index=True)
    admin_reply: Mapped[str | None] = mapped_column(Text)
    create_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc)
    update_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc, onupdate=now_utc)
    is_deleted: Mapped[bool] = mapped_column(default=False)


_TABLE = Complaint.__table__
_STANDS = Complaint.is_deleted.is_(False)
_BULKY = "complaint_chatinfo"  # 64 KB of each is too much for a page
_AUTHOR = (User.uuid, User.username, User.nickname, User.avatar)


def load_target_name(connection: Connection, user_id: int, target_type: ChatType, target_id: int) -> str | None:
    """Return the public name of what a user may complain about, None where there is no such thing for him.

    Every other user, since everybody can look one up; and a group that is open, or in which he has a membership whatever
    its state: of a group that is closed to him he must not learn that it exists.
    """
    if target_type == "single":
        person = load_person(connection, target_id)
        return person.public_name if person is not None else None
    group_id = min(target_id, MAX_ID)
    mine = select(GroupMember.id).where(GroupMember.group_id == group_id, GroupMember.user_id == user_id).exists()
    query = select(Group.name).where(Group.id == group_id, or_(Group.status == ACTIVE, mine))
    return connection.execute(query).scalar_one_or_none()


def make(connection: Connection, user_id: int, most_open: int, **columns: Any) -> int | None:
    """Write a user's complaint; return its id. None: he has as many open ones as he may.

    Of parallel ones each counts those before it: the user is locked until the transaction ends.
    """
    lock_user(connection, user_id)
    is_open = and_(_STANDS, Complaint.status.in_(OPEN))
    is_fresh = and_(Complaint.is_deleted.is_(True), Complaint.create_time > now_utc() - _WITHDRAWN_COUNTS)
    query = select(func.count()).where(Complaint.user_id == user_id, or_(is_open, is_fresh))
    if connection.execute(query).scalar_one() >= most_open:
        return None
    made: int = connection.execute(
        insert(Complaint).returning(Complaint.id), {"user_id": user_id, **columns}
    ).scalar_one()
    return made


def load_own(connection: Connection, user_id: int, offset: int, most: int) -> list[Any]:
    """Return a user's complaints, newest first, without the evidence."""
    return _load_page(connection, (Complaint.user_id == user_id, _STANDS), offset, most)


def load(connection: Connection, complaint_id: int, user_id: int | None = None) -> Any | None:
    """Return a complaint with its author, None where there is none such. user_id: only where it is his"""
    query = select(_TABLE, *_AUTHOR).join(User, User.id == Complaint.user_id).where(*_one(complaint_id, user_id))
    return connection.execute(query).one_or_none()


def change(connection: Connection, complaint_id: int, user_id: int, columns: dict[str, Any]) -> Refusal | None:
    """Change a user's own complaint that nobody has begun to handle. Returns why it was not."""
    mine = _one(complaint_id, user_id)
    # In one statement: an administrator may begin at this moment.
    pending = update(Complaint).where(*mine, Complaint.status == PENDING).values(**columns, update_time=now_utc())
    if connection.execute(pending).rowcount == 1:
        return None
    stands = connection.execute(select(Complaint.id).where(*mine)).scalar_one_or_none() is not None
    return "closed" if stands else "not_found"


def withdraw(connection: Connection, complaint_id: int, user_id: int) -> bool:
    """Take back a user's own complaint, whatever its state. False: there is none such."""
    taken_back = update(Complaint).where(*_one(complaint_id, user_id)).values(is_deleted=True)
    return connection.execute(taken_back).rowcount == 1


def load_queue(connection: Connection, status: int | None, offset: int, most: int) -> tuple[int, list[Any]]:
    """Return how many complaints have a status, or there are, and some of them, newest first, without the evidence."""
    asked = (_STANDS,) if status is None else (_STANDS, Complaint.status == status)
    count = connection.execute(select(func.count()).select_from(Complaint).where(*asked)).scalar_one()
    return count, _load_page(connection, asked, offset, most)


def lock(connection: Connection, complaint_id: int) -> Any | None:
    """Return a complaint, locked until the transaction ends, None where there is none such."""
    return connection.execute(select(_TABLE).where(*_one(complaint_id)).with_for_update()).one_or_none()


def handle(connection: Connection, complaint_id: int, status: int, reply: str | None) -> None:
    """Set the status of a complaint that is locked, and what its author is told."""
    handled = update(Complaint).where(Complaint.id == complaint_id)
    connection.execute(handled.values(status=status, admin_reply=reply, update_time=now_utc()))


def _one(complaint_id: int, user_id: int | None = None) -> tuple[ColumnElement[bool], ...]:
    # An id that no column holds is nobody's.
    found = Complaint.id == complaint_id if complaint_id <= MAX_ID else false()
    return (found, _STANDS) if user_id is None else (found, _STANDS, Complaint.user_id == user_id)


def _load_page(connection: Connection, asked: tuple[ColumnElement[bool], ...], offset: int, most: int) -> list[Any]:
    columns = [column for column in _TABLE.c if column.name != _BULKY]
    query = select(*columns, *_AUTHOR).join(User, User.id == Complaint.user_id).where(*asked)
    return list(connection.execute(query.order_by(Complaint.id.desc()).offset(offset).limit(most)))
