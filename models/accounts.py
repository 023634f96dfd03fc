"""Accounts: how users come to be, what a login reads and writes, and which visitor a device is (ORIG 1.7).

A device fingerprint opens visitors only. Where the row that carries it has become a registered account, the device's next
visitor carries the fingerprint with a number behind it, so that the account keeps its own (ORIG E6, E11).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from models.errors import ModelError
from models.profiles import UserInfo
from models.users import ACTIVE, User, now_utc, touch_facts

UNUSABLE_PASSWORD = "!"  # no hash: nobody logs in with it
_FINGERPRINTS_PER_QUERY = 8
# What nobody but the row itself may say: the password, the fingerprint (a credential), and what ORIG has no column for.
_HIDDEN = ("password", "devicefingeruuid", "is_administrator", "external_id", "facts_version")


class UsernameTaken(ModelError):
    """Somebody has this username, or took it while we were at it."""


class RowTaken(ModelError):
    """Somebody with this fingerprint or external id is there already: read him and go on with him."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a login compares."""

    user_id: int
    password: str
    status: int


@dataclass(frozen=True, slots=True)
class NewUser:
    """Somebody to be created. traits: device model and such, by column."""

    username: str
    password: str
    role: str
    avatar: str
    address: str | None
    nickname: str = ""
    fingerprint: str | None = None
    external_id: str | None = None
    traits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceVisitor:
    """The visitor of a device. user_id None: it has none yet. fingerprint: what its visitor carries."""

    user_id: int | None
    status: int
    fingerprint: str


def load_credentials(connection: Connection, username: str) -> Credentials | None:
    """Return what a login with this name compares, None where nobody has the name."""
    return _credentials(connection, User.username == username)


def load_credentials_of(connection: Connection, user_id: int) -> Credentials | None:
    """Return what a change of the user's password compares."""
    return _credentials(connection, User.id == user_id)


def _credentials(connection: Connection, condition: Any) -> Credentials | None:
    row = connection.execute(select(User.id, User.password, User.status).where(condition)).one_or_none()
    return None if row is None else Credentials(row.id, row.password, row.status)


def is_username_taken(connection: Connection, username: str) -> bool:
    return bool(connection.execute(select(exists().where(User.username == username))).scalar_one())


def create_user(connection: Connection, new: NewUser) -> int:
    """Create a user with his profile row and return his id. Raises UsernameTaken, RowTaken; the transaction is over then."""
    now = now_utc()
    row = {
        **new.traits,
        "uuid": str(uuid.uuid4()),
        "username": new.username,
        "password": new.password,
        "nickname": new.nickname,
        "avatar": new.avatar,
        "role": new.role,
        "devicefingeruuid": new.fingerprint,
        "external_id": new.external_id,
        "register_ip": new.address,
        "last_login": now,
        "last_login_ip": new.address,
    }
    try:
        user_id = int(connection.execute(insert(User).returning(User.id), row).scalar_one())
    except IntegrityError as error:
        raise _translated(error) from error
    connection.execute(insert(UserInfo), {"user_id": user_id})
    return user_id


def note_login(
    connection: Connection,
    user_id: int,
    address: str | None,
    *,
    verified: str | None = None,
    rehashed: str | None = None,
) -> bool:
    """Write when and from where a user has logged in. False: he may not any more, nothing was written.

    verified: the password hash that was compared; another one by now means that the password was changed meanwhile.
    rehashed: takes the place of that hash. Locks the row, so that the user's logins come one after the other.
    """
    may = [User.id == user_id, User.status == ACTIVE]
    if verified is not None:
        may.append(User.password == verified)
    changes: dict[str, Any] = {"last_login": now_utc(), "last_login_ip": address}
    if rehashed is not None:
        changes["password"] = rehashed
    return connection.execute(update(User).where(*may).values(**changes)).rowcount == 1


def change_password(connection: Connection, user_id: int, *, verified: str, new: str) -> bool:
    """Set a user's password where it still is the one that was compared. False: it is not."""
    mine = (User.id == user_id, User.password == verified)
    return connection.execute(update(User).where(*mine).values(password=new)).rowcount == 1


def find_visitor(connection: Connection, device_id: str) -> DeviceVisitor:
    """Return the visitor of a device, or the fingerprint that a new one of it is to carry."""
    number = 0
    while True:
        names = [_fingerprint(device_id, place) for place in range(number, number + _FINGERPRINTS_PER_QUERY)]
        query = select(User.devicefingeruuid, User.id, User.role, User.status).where(User.devicefingeruuid.in_(names))
        found = {row.devicefingeruuid: row for row in connection.execute(query)}
        for name in names:
            row = found.get(name)
            if row is None:
                return DeviceVisitor(None, ACTIVE, name)
            if row.role == "visitor":
                return DeviceVisitor(row.id, row.status, name)
        number += _FINGERPRINTS_PER_QUERY


def _fingerprint(device_id: str, number: int) -> str:
    return f"{device_id}#{number}" if number else device_id


def update_traits(connection: Connection, user_id: int, traits: Mapping[str, str]) -> None:
    """Store what a device says of itself."""
    if traits:
        connection.execute(update(User).where(User.id == user_id).values(**traits))


def upgrade_visitor(connection: Connection, user_id: int, *, username: str, password: str) -> bool:
    """Make a visitor a registered user, who keeps id, history and friends. False: he is no visitor any more.

    Raises UsernameTaken; the transaction is over then.
    """
    query = update(User).where(User.id == user_id, User.role == "visitor", User.status == ACTIVE)
    try:
        is_done = connection.execute(query.values(username=username, password=password, role="user")).rowcount == 1
    except IntegrityError as error:
        raise _translated(error) from error
    if is_done:
        touch_facts(connection, user_id)
    return is_done


def find_external(connection: Connection, external_id: str) -> int | None:
    """Return the id of a host application's user, None where he is new."""
    return connection.execute(select(User.id).where(User.external_id == external_id)).scalar_one_or_none()


def update_profile(connection: Connection, user_id: int, changes: Mapping[str, str]) -> None:
    """Set nickname or avatar where they differ from what stands there."""
    if not changes:
        return
    columns = [User.__table__.c[name] for name in changes]
    row = connection.execute(select(*columns).where(User.id == user_id)).one()
    if dict(row._mapping) != dict(changes):
        connection.execute(update(User).where(User.id == user_id).values(**changes))
        touch_facts(connection, user_id)


def load_account(connection: Connection, user_id: int) -> dict[str, Any] | None:
    """Return the user's row as he himself may see it: without password and fingerprint. None: no such user."""
    columns = [column for column in User.__table__.c if column.name not in _HIDDEN]
    row = connection.execute(select(*columns).where(User.id == user_id)).one_or_none()
    return None if row is None else dict(row._mapping)


def _translated(error: IntegrityError) -> ModelError:
    diagnosis = getattr(error.orig, "diag", None)
    violated = (diagnosis.constraint_name if diagnosis is not None else str(error.orig)) or ""
    return UsernameTaken() if "username" in violated else RowTaken(violated)
