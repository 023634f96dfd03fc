"""Applications: who has asked whom to become friends, and what became of it (ORIG section 5, table `goodfriendapply`)."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import DateTime, ForeignKey, Index, Integer, SmallInteger, String, text
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base
from models.users import now_utc

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
    status: Mapped[str] = mapped_column(String(10), default="pending")  # pending, refuse, agree, ignore
    order: Mapped[int] = mapped_column(Integer, default=50)
    create_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc)
    update_time: Mapped[datetime] = mapped_column(DateTime, default=now_utc, onupdate=now_utc)
