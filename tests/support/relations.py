"""Who knows whom on an instance: users, friends, settings and groups, written with the product's own operations.

Each change raises the facts version that workers check, as the routes do, so that running workers see it at once.
"""

from __future__ import annotations

import json
import secrets
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from sqlalchemy import Connection, delete, insert, update

from models import first_contacts, friendships, groups, sessions, users
from models.database import insert_missing, open_database
from models.friendships import Friendship
from models.groups import Group, GroupMember
from models.store import keys
from models.users import User
from tests.support.instance import Instance
from webapp.tokens import Tokens

DEVICE = "default"
_SESSION_SECONDS = 3_600


@contextmanager
def writing(instance: Instance) -> Iterator[Connection]:
    """One transaction on the instance's database, whichever it is."""
    url = instance.environment.get("DATABASE_URL") or f"sqlite:///{instance.data_dir / 'hongyan.db'}"
    database = open_database(url)
    try:
        with database.writing() as connection:
            yield connection
    finally:
        database.engine.dispose()


# Users


def add_users(
    instance: Instance, count: int = 1, *, role: str = "user", avatar: str = "", nickname: str = ""
) -> list[int]:
    """Make users whom nobody knows, with a session each, and remember their tokens. nickname: empty = `用户<id>`."""
    first_id = max(instance.tokens, default=0) + 1
    user_ids = list(range(first_id, first_id + count))
    rows = [
        {
            "id": user_id,
            "uuid": _uuid_of(user_id),
            "username": f"{'VIS' if role == 'visitor' else 'added'}{user_id}",
            "password": "",
            "nickname": nickname or ("" if role == "visitor" else f"用户{user_id}"),
            "avatar": avatar,
            "role": role,
        }
        for user_id in user_ids
    ]
    with writing(instance) as connection:
        insert_missing(connection, User, rows, key=("id",))
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('\"user\"', 'id'), {user_ids[-1]})")
    for user_id in user_ids:
        instance.tokens[user_id] = start_session(instance, user_id, role=role)
    return user_ids


def start_session(instance: Instance, user_id: int, *, device: str = DEVICE, role: str = "user") -> str:
    """Log a user in on a device in a session role, ending the session it had there, and return the token."""
    now_ms = time.time_ns() // 1_000_000
    session_id = secrets.token_hex(8)
    row = {
        "user_id": user_id,
        "device": device,
        "session_id": session_id,
        "created_at_ms": now_ms,
        "expires_at_ms": now_ms + _SESSION_SECONDS * 1000,
    }
    with writing(instance) as connection:
        sessions.start_sessions(connection, [row])
    with closing(instance.redis()) as client:
        client.hset(keys.sessions(user_id), device, session_id)
    secret = (instance.data_dir / "jwt_secret").read_text().strip()
    tokens = Tokens(secret, _SESSION_SECONDS)
    return tokens.sign(user_id=user_id, uuid=_uuid_of(user_id), role=role, session_id=session_id, device=device)


def change_user(instance: Instance, user_id: int, **columns: Any) -> None:
    """Set columns of a user's row."""
    with writing(instance) as connection:
        connection.execute(update(User).where(User.id == user_id).values(**columns))
        users.touch_facts(connection, user_id)


def set_strangers(instance: Instance, user_id: int, *, visitor: Any = None, user: Any = None) -> None:
    """Say how strangers may write to a user: per session role a `sendCount`, or all that ORIG keeps for the role."""
    rules = {role: rule for role, rule in (("visitor", visitor), ("user", user)) if rule is not None}
    chatset = {
        role: {"sendCount": rule, "needFollow": False} if isinstance(rule, int) else rule
        for role, rule in rules.items()
    }
    change_user(instance, user_id, userset=json.dumps({"chatset": chatset}))


# Friends


def befriend(instance: Instance, user_id: int, friend_id: int, *, remark: str = "", their_remark: str = "") -> None:
    """Make two users friends of each other, each with a private remark about the other."""
    with writing(instance) as connection:
        friendships.befriend(connection, [(user_id, friend_id)])
        for owner, other, name in ((user_id, friend_id, remark), (friend_id, user_id, their_remark)):
            row = (Friendship.user_id == owner, Friendship.friend_id == other)
            connection.execute(update(Friendship).where(*row).values(nickname=name))
        first_contacts.forget(connection, user_id, friend_id)
        users.touch_facts(connection, user_id, friend_id)


def unfriend(instance: Instance, user_id: int, friend_id: int) -> None:
    """End a friendship on both sides."""
    with writing(instance) as connection:
        for owner, other in ((user_id, friend_id), (friend_id, user_id)):
            connection.execute(delete(Friendship).where(Friendship.user_id == owner, Friendship.friend_id == other))
        first_contacts.forget(connection, user_id, friend_id)
        users.touch_facts(connection, user_id, friend_id)


def disable_friend_row(instance: Instance, owner_id: int, friend_id: int) -> None:
    """Disable one side of a friendship, as an administrator does."""
    with writing(instance) as connection:
        row = (Friendship.user_id == owner_id, Friendship.friend_id == friend_id)
        connection.execute(update(Friendship).where(*row).values(status=0))
        users.touch_facts(connection, owner_id)


# Groups


def make_group(instance: Instance, owner_id: int, member_ids: Iterable[int], *, name: str = "a group") -> int:
    """Make a group of its owner and others, and return its id."""
    with writing(instance) as connection:
        row = {"uuid": str(uuid.uuid4()), "user_id": owner_id, "name": name}
        group_id = int(connection.execute(insert(Group).returning(Group.id), row).scalar_one())
        groups.add_members(connection, group_id, [owner_id, *member_ids])
    return group_id


def add_member(instance: Instance, group_id: int, user_id: int) -> None:
    """Make a user an active member."""
    with writing(instance) as connection:
        groups.add_members(connection, group_id, [user_id])


def set_membership(instance: Instance, group_id: int, user_id: int, status: int) -> None:
    """Set the status of a membership: 1 active, 0 muted as ORIG did, 2 waiting for approval."""
    with writing(instance) as connection:
        mine = (GroupMember.group_id == group_id, GroupMember.user_id == user_id)
        connection.execute(update(GroupMember).where(*mine).values(status=status))
        groups.touch_facts(connection, group_id)


def _uuid_of(user_id: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"hongyan-seed-{user_id}"))
