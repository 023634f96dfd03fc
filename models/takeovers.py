"""The takeover: how far the import of an original's data is, and what it writes. One row; a system takes over one original.

While it is under way its users and groups carry a status of their own, so that nobody logs in or is written to before
everything of his is there: a system that runs meanwhile sees them all at once, at the end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Connection, SmallInteger, String, Text, exists, insert, select, update
from sqlalchemy.orm import Mapped, mapped_column

from models.blocks import Block
from models.database import Base, among, insert_missing
from models.errors import ModelError
from models.friendships import Friendship
from models.groups import Group
from models.users import User

_ONLY = 1
_HELD = 10  # added to the status of what is not released yet


class Overtaken(ModelError):
    """Another import goes on with the same takeover. Nothing was written."""


class Takeover(Base):
    __tablename__ = "takeover"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)  # _ONLY
    dump_sha256: Mapped[str] = mapped_column(String(64))
    has_queues: Mapped[bool]
    step: Mapped[str] = mapped_column(String(20))
    place: Mapped[int] = mapped_column(BigInteger)  # how far the step is, in the order of the scratch file
    started_at_ms: Mapped[int] = mapped_column(BigInteger)
    finished_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    report: Mapped[str | None] = mapped_column(Text)  # JSON, once it is finished


@dataclass(frozen=True, slots=True)
class Place:
    """How far a takeover is."""

    step: str
    at: int


def load(connection: Connection) -> Any | None:
    """Return the takeover's row, None where there has been none."""
    return connection.execute(select(Takeover.__table__)).one_or_none()


def is_empty(connection: Connection) -> bool:
    """Return whether nobody is there yet."""
    return not connection.execute(select(exists().where(User.id > 0))).scalar_one()


def begin(
    connection: Connection,
    dump_sha256: str,
    place: Place,
    users: Sequence[Any],
    groups: Sequence[Any],
    *,
    has_queues: bool,
) -> bool:
    """Begin a takeover. False: somebody is there already, nothing was written.

    users, groups: those with the greatest ids, and whom they need: who registers meanwhile gets a greater one.
    """
    if connection.dialect.name == "postgresql":
        # Registrations under way come to an end first, and those that follow take their id behind ours.
        connection.exec_driver_sql('LOCK TABLE "user" IN SHARE ROW EXCLUSIVE MODE')
    if not is_empty(connection):
        return False
    row = {"id": _ONLY, "dump_sha256": dump_sha256, "has_queues": has_queues, "step": place.step, "place": place.at}
    connection.execute(insert(Takeover), {**row, "started_at_ms": time.time_ns() // 1_000_000})
    add_users(connection, users)
    add_groups(connection, groups)
    if connection.dialect.name == "postgresql":
        for table in ("user", "group"):
            newest = f'(SELECT greatest(max(id), 1) FROM "{table}")'
            connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('\"{table}\"', 'id'), {newest})")
    return True


def advance(connection: Connection, before: Place, after: Place) -> None:
    """Note how far it is, in the transaction that writes what lies between. Raises Overtaken."""
    mine = (Takeover.step == before.step, Takeover.place == before.at, Takeover.finished_at_ms.is_(None))
    changed = update(Takeover).where(*mine).values(step=after.step, place=after.at)
    if connection.execute(changed).rowcount != 1:
        raise Overtaken(f"the takeover is not at {before.step} {before.at} any more")


def finish(connection: Connection, report: str) -> None:
    """Note that everything is written."""
    values = {"finished_at_ms": time.time_ns() // 1_000_000, "report": report}
    connection.execute(update(Takeover).where(Takeover.finished_at_ms.is_(None)).values(values))


def find_names(connection: Connection, names: Sequence[str]) -> dict[str, int]:
    """Return who has these usernames."""
    query = select(User.username, User.id).where(User.username.in_(names))
    return {row.username: row.id for row in connection.execute(query)}


def find_fingerprints(connection: Connection, fingerprints: Sequence[str]) -> dict[str | None, int]:
    """Return who has these fingerprints."""
    query = select(User.devicefingeruuid, User.id).where(User.devicefingeruuid.in_(fingerprints))
    return {row.devicefingeruuid: row.id for row in connection.execute(query)}


def add_users(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write users, held back until they are released. Those who are there already are left as they are."""
    insert_missing(connection, User, [{**row, "status": row["status"] + _HELD} for row in rows], key=("id",))


def add_groups(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write groups, held back until they are released. Those that are there already are left as they are."""
    insert_missing(connection, Group, [{**row, "status": row["status"] + _HELD} for row in rows], key=("id",))


def add_friends(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write friend rows, and of those who are blocked on one the block (C17)."""
    connection.execute(insert(Friendship), list(rows))
    now_ms = time.time_ns() // 1_000_000
    blocks = [
        {"blocker_id": row["user_id"], "blocked_id": row["friend_id"], "created_at_ms": now_ms}
        for row in rows
        if row["isblack"]
    ]
    insert_missing(connection, Block, blocks, key=("blocker_id", "blocked_id"))


def add(connection: Connection, table: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of which there are none yet."""
    connection.execute(insert(table), list(rows))


def release(connection: Connection, table: type[User] | type[Group], ids: Sequence[int]) -> None:
    """Give users or groups the status they are to have."""
    held = update(table).where(among(table.id, "ids"), table.status >= _HELD)
    changes = {
        "status": table.status - _HELD,
        "facts_version": table.facts_version + 1,
        "update_time": table.update_time,
    }
    connection.execute(held.values(changes), {"ids": ids})
