"""Audiences: who was a member of a group when a message to it was decided.

One row per group and facts version at which somebody spoke, not one row per recipient: a busy group of 1,000 writes its
member list once per change of membership, and a message costs no SQL row per recipient.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from sqlalchemy import BigInteger, Connection, Integer, Text, select, tuple_
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_missing

_VERSIONS_PER_QUERY = 500  # two parameters each, of which a driver takes some ten thousand


class Audience(Base):
    __tablename__ = "audience"

    group_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    facts_version: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    user_ids: Mapped[str] = mapped_column(Text)  # JSON array, ascending


def record(connection: Connection, group_id: int, facts_version: int, user_ids: Sequence[int]) -> None:
    """Keep the members of a group at a facts version. Idempotent."""
    row = {"group_id": group_id, "facts_version": facts_version, "user_ids": json.dumps(sorted(user_ids))}
    insert_missing(connection, Audience, [row], key=("group_id", "facts_version"))


def load(connection: Connection, group_id: int, facts_version: int) -> list[int]:
    """Return the members of a group at a facts version; empty where nobody spoke at that version."""
    query = select(Audience.user_ids).where(Audience.group_id == group_id, Audience.facts_version == facts_version)
    text = connection.execute(query).scalar_one_or_none()
    return list(json.loads(text)) if text else []


def find_heard(connection: Connection, user_id: int, versions: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
    """Return those of the (group id, facts version) pairs at which the user was a member."""
    asked, heard = list(versions), set()
    key = tuple_(Audience.group_id, Audience.facts_version)
    for start in range(0, len(asked), _VERSIONS_PER_QUERY):
        query = select(Audience.group_id, Audience.facts_version, Audience.user_ids)
        rows = connection.execute(query.where(key.in_(asked[start : start + _VERSIONS_PER_QUERY])))
        heard |= {(group_id, version) for group_id, version, text in rows if user_id in json.loads(text)}
    return heard
