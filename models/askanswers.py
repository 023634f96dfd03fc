"""Questions and answers that users keep for their groups and for when they are away (ORIG section 5 and 6.6), as rows.

Of type `single` they are a user's, of type `group` the group's and so its owner's, whoever that is at the time. What
answers which question is decided elsewhere.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    String,
    Text,
    UniqueConstraint,
    and_,
    delete,
    false,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, mapped_column

from models import groups, users
from models.database import Base, insert_or_update
from models.groups import ACTIVE, Group
from models.requests import ChatType
from models.users import MAX_ID


class AskAnswer(Base):
    __tablename__ = "askanswer"
    # Flaw G4: parallel requests must not double a question. It also finds what an owner has.
    __table_args__ = (UniqueConstraint("type", "owner_id", "ask", name="uq_askanswer_type_owner_id_ask"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    type: Mapped[str] = mapped_column(String(10))  # models.requests.ChatType
    owner_id: Mapped[int] = mapped_column(Integer)  # a user, or a group
    ask: Mapped[str] = mapped_column(String(200))
    answer: Mapped[str] = mapped_column(Text)
    like_count: Mapped[int] = mapped_column(Integer, default=0)  # no route of the original's raises it
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    updated_at_ms: Mapped[int] = mapped_column(BigInteger)


_TABLE = AskAnswer.__table__


def load_all(connection: Connection, kind: ChatType, owner_id: int) -> list[Any]:
    """Return all that an owner has, newest first: as many as a setting allows."""
    return load_page(connection, kind, owner_id, 0, None)


def load_page(connection: Connection, kind: ChatType, owner_id: int, offset: int, most: int | None) -> list[Any]:
    """Return some of what an owner has, newest first."""
    query = select(_TABLE).where(*_of(kind, owner_id)).order_by(AskAnswer.id.desc())
    return list(connection.execute(query.offset(offset).limit(most)))


def load(connection: Connection, entry_id: int, user_id: int) -> Any | None:
    """Return an entry of a user's, or of a group that he owns, None where there is none such."""
    return connection.execute(select(_TABLE).where(_owned(entry_id, user_id))).one_or_none()


def put(
    connection: Connection, kind: ChatType, owner_id: int, ask: str, answer: str, *, now_ms: int, most: int
) -> Any | None:
    """Write an entry, or the answer of the one with the same question; return it. None: the owner has as many as he may.

    Of parallel ones each counts those before it: the owner is locked until the transaction ends.
    """
    if kind == "group":
        groups.lock(connection, owner_id)
    else:
        users.lock(connection, owner_id)
    same = select(_TABLE).where(*_of(kind, owner_id), AskAnswer.ask == ask)
    if connection.execute(same).one_or_none() is None:
        count = connection.execute(select(func.count()).where(*_of(kind, owner_id))).scalar_one()
        if count >= most:
            return None
    row = {
        "type": kind,
        "owner_id": owner_id,
        "ask": ask,
        "answer": answer,
        "created_at_ms": now_ms,
        "updated_at_ms": now_ms,
    }
    key = ("type", "owner_id", "ask")
    insert_or_update(connection, AskAnswer, [row], key=key, update=("answer", "updated_at_ms"))
    return connection.execute(same).one()


class Doubled(Exception):
    """The owner has another entry with this question. The transaction must be rolled back."""


def change(connection: Connection, entry_id: int, user_id: int, ask: str, answer: str, now_ms: int) -> bool:
    """Change an entry of a user's, or of a group that he owns. False: there is none such. Raises Doubled."""
    changed = update(AskAnswer).where(_owned(entry_id, user_id)).values(ask=ask, answer=answer, updated_at_ms=now_ms)
    try:
        return connection.execute(changed).rowcount == 1
    except IntegrityError as error:
        raise Doubled from error


def remove(connection: Connection, entry_id: int, user_id: int) -> bool:
    """Remove an entry of a user's, or of a group that he owns. False: there is none such."""
    return connection.execute(delete(AskAnswer).where(_owned(entry_id, user_id))).rowcount == 1


def _of(kind: ChatType, owner_id: int) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return AskAnswer.type == kind, AskAnswer.owner_id == owner_id


def _owned(entry_id: int, user_id: int) -> ColumnElement[bool]:
    his_groups = select(Group.id).where(Group.user_id == user_id, Group.status == ACTIVE)
    of_group = and_(AskAnswer.type == "group", AskAnswer.owner_id.in_(his_groups))
    is_his = or_(and_(*_of("single", user_id)), of_group)
    # An id that no column holds is nobody's.
    return and_(AskAnswer.id == entry_id, is_his) if entry_id <= MAX_ID else false()
