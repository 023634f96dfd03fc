"""What administrators do: say who is one, and set the status of users, friend rows and groups (contract section 3).

The status values are the original's (0 disabled, 1 normal, 2 locked). Only 1 may do anything; what follows from the others
is decided where verdicts are. Disabling a user ends his sessions here, in SQL; whoever calls closes his sockets after the commit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, CursorResult, delete, select, update

from models import groups, users
from models.friendships import Friendship
from models.groups import Group
from models.sessions import ChatSession
from models.users import ACTIVE, User

_MAX_ID = 2**31 - 1  # PostgreSQL refuses a larger one for an integer column; no row has it


@dataclass(frozen=True, slots=True)
class Administrator:
    user_id: int
    username: str
    nickname: str
    status: int


# A visitor can be no administrator: his device id alone would open everything.
Change = Literal["changed", "unchanged", "no_such_user", "visitor", "disabled"]


def grant(connection: Connection, username: str) -> Change:
    """Make a registered, active user an administrator."""
    row = _lock(connection, username)
    if row is None:
        return "no_such_user"
    if row.is_administrator:
        return "unchanged"
    if row.role == "visitor":
        return "visitor"
    if row.status != ACTIVE:
        return "disabled"
    _set_administrator(connection, row.id, is_administrator=True)
    return "changed"


def revoke(connection: Connection, username: str) -> Change:
    """Make an administrator an ordinary user again, whatever his status."""
    row = _lock(connection, username)
    if row is None:
        return "no_such_user"
    if not row.is_administrator:
        return "unchanged"
    _set_administrator(connection, row.id, is_administrator=False)
    return "changed"


def load_administrators(connection: Connection) -> list[Administrator]:
    """Return all administrators by id, the disabled ones too."""
    query = select(User.id, User.username, User.nickname, User.status).where(User.is_administrator)
    return [Administrator(*row) for row in connection.execute(query.order_by(User.id))]


def set_user_status(connection: Connection, user_id: int, status: int) -> bool:
    """Set a user's status; any but ACTIVE ends all his sessions. False: there is no such user.

    The row is changed before his sessions are deleted, so that a login which locks the row has either started its session
    by then or finds him disabled.
    """
    if not _exist(user_id):
        return False
    if not _changes(connection, update(User).where(User.id == user_id).values(status=status)):
        return False
    if status != ACTIVE:
        connection.execute(delete(ChatSession).where(ChatSession.user_id == user_id))
    users.touch_facts(connection, user_id)
    return True


def set_relation_status(connection: Connection, owner_id: int, friend_id: int, status: int) -> bool:
    """Set the status of the owner's friend row. False: he does not list that friend."""
    if not _exist(owner_id, friend_id):
        return False
    row = (Friendship.user_id == owner_id, Friendship.friend_id == friend_id)
    if not _changes(connection, update(Friendship).where(*row).values(status=status)):
        return False
    users.touch_facts(connection, owner_id)
    return True


def set_group_status(connection: Connection, group_id: int, status: int) -> bool:
    """Set a group's status. False: there is no such group."""
    if not _exist(group_id):
        return False
    if not _changes(connection, update(Group).where(Group.id == group_id).values(status=status)):
        return False
    groups.touch_facts(connection, group_id)
    return True


def _lock(connection: Connection, username: str) -> Any:
    columns = (User.id, User.role, User.status, User.is_administrator)
    return connection.execute(select(*columns).where(User.username == username).with_for_update()).one_or_none()


def _set_administrator(connection: Connection, user_id: int, *, is_administrator: bool) -> None:
    connection.execute(update(User).where(User.id == user_id).values(is_administrator=is_administrator))


def _changes(connection: Connection, change: Any) -> bool:
    result: CursorResult[Any] = connection.execute(change)
    return result.rowcount == 1


def _exist(*ids: int) -> bool:
    return all(0 < each <= _MAX_ID for each in ids)
