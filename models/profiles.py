"""Profiles: what a user says of himself beyond name and avatar (ORIG section 5, table `user_info`, one row per user)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, DateTime, Enum, ForeignKey, Integer, String, select, update
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_missing
from models.users import now_utc


class UserInfo(Base):
    __tablename__ = "user_info"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), unique=True)
    gender: Mapped[str] = mapped_column(
        Enum("male", "female", "unknown", name="gender", native_enum=False, length=10), default="unknown"
    )
    birthday: Mapped[datetime | None] = mapped_column(DateTime)
    bio: Mapped[str | None] = mapped_column(String(200))
    location: Mapped[str | None] = mapped_column(String(100))
    website: Mapped[str | None] = mapped_column(String(255))
    order: Mapped[int] = mapped_column(Integer, default=50)
    create_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc)
    update_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc, onupdate=now_utc)


def load(connection: Connection, user_id: int) -> Any | None:
    """Return what a user says of himself (id, gender, birthday, bio, location, website), None where he has said nothing."""
    return connection.execute(select(*_SHOWN).where(UserInfo.user_id == user_id)).one_or_none()


def change(connection: Connection, user_id: int, **columns: str | datetime) -> None:
    """Set columns of a user's profile, which may not be there yet."""
    insert_missing(connection, UserInfo, [{"user_id": user_id}], key=("user_id",))
    connection.execute(update(UserInfo).where(UserInfo.user_id == user_id).values(**columns))


_SHOWN = (UserInfo.id, UserInfo.gender, UserInfo.birthday, UserInfo.bio, UserInfo.location, UserInfo.website)
