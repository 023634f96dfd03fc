"""Users: accounts and visitors (ORIG section 5, table `user`), and the version that says when their facts changed.

`facts_version` rises with every change of a user's profile, settings, friend rows, blocks and follows, in the same
transaction, so that a worker can tell with one query whether what it has cached about him still holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Connection,
    DateTime,
    Integer,
    SmallInteger,
    String,
    Text,
    bindparam,
    select,
    text,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base
from models.prepared import Prepared

ACTIVE = 1  # the only status that may do anything (ORIG A15)


def now_utc() -> datetime:
    """Return the time as the ORM columns keep it: UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


class User(Base):
    __tablename__ = "user"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    uuid: Mapped[str] = mapped_column(String(36), unique=True)
    username: Mapped[str] = mapped_column(String(50), unique=True)
    password: Mapped[str] = mapped_column(String(255))
    nickname: Mapped[str] = mapped_column(String(50), default="")
    avatar: Mapped[str] = mapped_column(String(1000), default="")
    # NULL when absent: the original's default '' made the second registration violate the unique key (E10).
    devicefingeruuid: Mapped[str | None] = mapped_column(String(200), unique=True)
    uniplatform: Mapped[str] = mapped_column(String(100), default="")
    devicemodel: Mapped[str] = mapped_column(String(100), default="")
    deviceos: Mapped[str] = mapped_column(String(100), default="")
    devicebrand: Mapped[str] = mapped_column(String(100), default="")
    userset: Mapped[str] = mapped_column(Text, default="")
    invite_confirm: Mapped[int] = mapped_column(SmallInteger, default=0)
    mobile: Mapped[str | None] = mapped_column(String(20), unique=True, index=True)
    email: Mapped[str | None] = mapped_column(String(100), unique=True, index=True)
    status: Mapped[int] = mapped_column(SmallInteger, default=ACTIVE)
    role: Mapped[str] = mapped_column(String(20), default="user")
    is_administrator: Mapped[bool] = mapped_column(Boolean, default=False)  # `flask admin grant`
    external_id: Mapped[str | None] = mapped_column(
        String(128), unique=True, index=True
    )  # a host application's name for him
    last_login: Mapped[datetime | None] = mapped_column(DateTime)
    last_login_ip: Mapped[str | None] = mapped_column(String(45))
    register_ip: Mapped[str | None] = mapped_column(String(45))
    register_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc)
    order: Mapped[int] = mapped_column(Integer, default=50)
    create_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc)
    update_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc, onupdate=now_utc)
    facts_version: Mapped[int] = mapped_column(BigInteger, default=1)


def load_status(connection: Connection, user_id: int) -> int | None:
    """Return the user's status, None where no such user exists."""
    found = _STATUS.select(connection, {"user_id": user_id})
    return found[0][0] if found else None


_STATUS = Prepared(select(User.status).where(User.id == bindparam("user_id")))


def is_administrator(connection: Connection, user_id: int) -> bool:
    """Return whether the user is an administrator."""
    query = select(User.is_administrator).where(User.id == user_id, User.status == ACTIVE)
    return bool(connection.execute(query).scalar_one_or_none())


@dataclass(frozen=True, slots=True)
class Profile:
    """What greetings say of a user."""

    id: int
    name: str
    avatar: str
    has_groups: bool
    has_friends: bool


def load_profile(connection: Connection, user_id: int) -> Profile | None:
    """Return what greetings say of a user, None where no such user exists."""
    for found_id, nickname, username, avatar, has_groups, has_friends in _PROFILE.select(
        connection, {"user_id": user_id}
    ):
        return Profile(found_id, nickname or username, avatar, bool(has_groups), bool(has_friends))
    return None


# In one statement, since every connect asks it. The tables are named, not imported: they build on this one.
_PROFILE = Prepared(
    text(
        """
        SELECT id, nickname, username, avatar,
          EXISTS (
            SELECT 1 FROM group_user m JOIN "group" g ON g.id = m.group_id
            WHERE m.user_id = u.id AND m.status = 1 AND g.status = 1
          ) AS has_groups,
          EXISTS (SELECT 1 FROM goodfriend WHERE user_id = u.id AND status = 1 AND isblack = 0) AS has_friends
        FROM "user" u WHERE id = :user_id
        """
    )
)


def touch_facts(connection: Connection, *user_ids: int) -> None:
    """Raise the facts version of users. Call it in the transaction that changes anything a send's verdict depends on."""
    # In ascending order, so that two transactions touching the same pair cannot wait for each other.
    for user_id in sorted(set(user_ids)):
        connection.execute(update(User).where(User.id == user_id).values(facts_version=User.facts_version + 1))


MAX_ID = 2_147_483_647  # ids are 32 bit in SQL: PostgreSQL would answer a greater one with an error


@dataclass(frozen=True, slots=True)
class Person:
    """A user as he deals with others: who he is, and whether he may be befriended without being asked."""

    id: int
    uuid: str
    username: str
    nickname: str
    avatar: str
    role: str
    status: int
    invite_confirm: int

    @property
    def public_name(self) -> str:
        return self.nickname or self.username


_PERSON = (User.id, User.uuid, User.username, User.nickname, User.avatar, User.role, User.status, User.invite_confirm)


def lock(connection: Connection, *user_ids: int) -> dict[int, Person]:
    """Return those of the users who exist, and let no other change of theirs in until the transaction ends."""
    known = [user_id for user_id in user_ids if 0 < user_id <= MAX_ID]
    # The lock that an UPDATE takes, in the order in which `touch_facts` takes it. SQLite has locked everything already.
    query = select(*_PERSON).where(User.id.in_(known)).order_by(User.id).with_for_update(key_share=True)
    return {row.id: Person(*row) for row in connection.execute(query)}


def load_person(connection: Connection, user_id: int) -> Person | None:
    """Return a user, None where no such user exists."""
    row = connection.execute(select(*_PERSON).where(User.id == min(user_id, MAX_ID))).one_or_none()
    return Person(*row) if row is not None else None


def load_person_by_uuid(connection: Connection, user_uuid: str) -> Person | None:
    """Return the user with this public id, None where there is none."""
    row = connection.execute(select(*_PERSON).where(User.uuid == user_uuid)).one_or_none()
    return Person(*row) if row is not None else None


def search(connection: Connection, searcher_id: int, keyword: str, most: int) -> list[Person]:
    """Return active registered users whose name contains the keyword, the one who is named so first."""
    query = select(*_PERSON).where(
        User.username.icontains(keyword, autoescape=True),
        User.status == ACTIVE,
        User.role != "visitor",
        User.id != searcher_id,
    )
    return [Person(*row) for row in connection.execute(query.order_by(User.username != keyword, User.id).limit(most))]


def load_userset(connection: Connection, user_id: int) -> str:
    """Return the text of a user's settings, empty where there is none."""
    return connection.execute(select(User.userset).where(User.id == user_id)).scalar_one_or_none() or ""


def change(connection: Connection, user_id: int, **columns: str | int) -> None:
    """Set columns of a user's row that others see or that verdicts depend on."""
    connection.execute(update(User).where(User.id == user_id).values(**columns))
    touch_facts(connection, user_id)
