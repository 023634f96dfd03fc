"""Profiles: what a user says of himself beyond name and avatar (ORIG section 5, table `user_info`, one row per user)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import DateTime, Enum, ForeignKey, Integer, String
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base
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
