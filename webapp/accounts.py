"""Accounts: registration, login, visitors, users of host applications, passwords (ORIG 1.7, contract section 3).

What is compared and what is written are two steps, since argon2 is not computed inside a transaction; so each write says
what it was compared with, and where that has changed the request starts over.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

from sqlalchemy import Connection

from models import accounts, sessions
from models.accounts import UNUSABLE_PASSWORD, Credentials, NewUser, RowTaken, UsernameTaken
from models.database import Database
from models.users import ACTIVE
from settings import Settings
from webapp.auth import Caller
from webapp.errors import ApiError
from webapp.limiting import LockOut
from webapp.logins import Login, Logins
from webapp.passwords import Passwords
from webapp.services import offload
from webapp.session_ends import SessionEnds

_TRIES = 8  # at a row that other requests change at the same time
_VISITOR_NAME_SIGNS = 8

Enter = Callable[[Connection], int]


class _ChangedMeanwhile(Exception):
    """What was compared is not what stands there any more: compare again."""


class Accounts:
    """Lets people in. What it gives is what a login answers; `address` is the client's."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        passwords: Passwords,
        lock_out: LockOut,
        logins: Logins,
        session_ends: SessionEnds,
    ) -> None:
        self._settings = settings
        self._database = database
        self._passwords = passwords
        self._lock_out = lock_out
        self._logins = logins
        self._session_ends = session_ends
        self._default_avatar = settings.media_url + "user.jpg"

    def register(
        self, username: str, password: str, *, device: str, address: str, device_id: str | None = None
    ) -> Login:
        """Make a user, of the visitor of `device_id` where there is one. Raises ApiError: username_taken, account_disabled."""
        if offload(self._database, self._is_taken, username):
            raise ApiError("username_taken")
        hashed = self._passwords.hash(password)
        upgraded: list[int] = []

        def enter(connection: Connection) -> int:
            upgraded.clear()
            if device_id is not None:
                visitor = accounts.find_visitor(connection, device_id)
                if visitor.user_id is not None:
                    upgraded.append(visitor.user_id)
                    return upgrade(connection, visitor.user_id)
            return accounts.create_user(connection, NewUser(username, hashed, "user", self._default_avatar, address))

        def upgrade(connection: Connection, user_id: int) -> int:
            if not accounts.note_login(connection, user_id, address):
                raise ApiError("account_disabled")
            if not accounts.upgrade_visitor(connection, user_id, username=username, password=hashed):
                raise _ChangedMeanwhile
            # They were opened with nothing but the fingerprint, and that opens no registered account (E6).
            sessions.end_other_sessions(connection, user_id, device)
            return user_id

        try:
            login = self._open(enter, role="user", device=device)
        except UsernameTaken as error:
            raise ApiError("username_taken") from error
        if upgraded:
            self._session_ends.end_all(login["id"], "password", but_device=device)
        return login

    def log_in(self, username: str, password: str, *, device: str, address: str) -> Login:
        """Raises ApiError with wrong_password, for names that do not exist too; account_disabled; login_locked."""
        for _ in range(_TRIES):
            with self._lock_out.attempt(username, address) as attempt:
                found = offload(self._database, self._load_credentials, username)
                if not self._passwords.is_right(password, None if found is None else found.password) or found is None:
                    attempt.failed()
                    raise ApiError("wrong_password")
                attempt.succeeded()
            if found.status != ACTIVE:
                raise ApiError("account_disabled")
            try:
                return self._log_in(found, password, device, address)
            except _ChangedMeanwhile:
                continue
        raise ApiError("unavailable")

    def _log_in(self, found: Credentials, password: str, device: str, address: str) -> Login:
        is_outdated = self._passwords.needs_rehash(found.password)
        rehashed = self._passwords.hash(password) if is_outdated else None

        def enter(connection: Connection) -> int:
            has_entered = accounts.note_login(
                connection, found.user_id, address, verified=found.password, rehashed=rehashed
            )
            if not has_entered:
                raise _ChangedMeanwhile
            return found.user_id

        return self._logins.open(enter, role="user", device=device)

    def enter_visitor(self, device_id: str, traits: Mapping[str, str], *, device: str, address: str) -> Login:
        """Let the visitor of a fingerprint in, who is made where there is none. Raises ApiError with account_disabled."""

        def enter(connection: Connection) -> int:
            visitor = accounts.find_visitor(connection, device_id)
            if visitor.user_id is None:
                name = _visitor_name(connection, device_id)
                return _create_named(
                    connection,
                    NewUser(
                        name,
                        UNUSABLE_PASSWORD,
                        "visitor",
                        self._default_avatar,
                        address,
                        fingerprint=visitor.fingerprint,
                        traits=traits,
                    ),
                )
            if not accounts.note_login(connection, visitor.user_id, address):
                raise ApiError("account_disabled")
            accounts.update_traits(connection, visitor.user_id, traits)
            return visitor.user_id

        return self._open(enter, role="visitor", device=device)

    def enter_external(self, external_id: str, profile: Mapping[str, str], *, device: str, address: str) -> Login:
        """Let a host application's user in, made or changed to what it says of him. Raises ApiError with account_disabled.

        profile: nickname and avatar, where the host says them
        """

        def enter(connection: Connection) -> int:
            found = accounts.find_external(connection, external_id)
            if found is None:
                new = NewUser(
                    f"ext_{secrets.token_hex(8)}",
                    UNUSABLE_PASSWORD,
                    "user",
                    profile.get("avatar", self._default_avatar),
                    address,
                    nickname=profile.get("nickname", ""),
                    external_id=external_id,
                )
                return _create_named(connection, new)
            if not accounts.note_login(connection, found, address):
                raise ApiError("account_disabled")
            accounts.update_profile(connection, found, profile)
            return found

        return self._open(enter, role="user", device=device)

    def change_password(self, caller: Caller, old: str, new: str, *, address: str) -> None:
        """End the sessions of all other devices with it. Raises ApiError: password_of_nobody, old_password_wrong, login_locked;
        StoreUnavailable.
        """
        # Counted apart from logins: those who only guess from outside lock out nobody who is in.
        with self._lock_out.attempt(f"id {caller.user_id}", address) as attempt:
            found = offload(self._database, self._load_credentials_of, caller.user_id)
            if found is None:
                raise ApiError("password_of_nobody")
            if not self._passwords.is_right(old, found.password):
                attempt.failed()
                raise ApiError("old_password_wrong")
            attempt.succeeded()
        hashed = self._passwords.hash(new)
        self._session_ends.prepare_end_all(caller.user_id, but_device=caller.device)
        if not offload(self._database, self._change_password, caller, found, hashed):
            raise ApiError("old_password_wrong")  # another request has changed it meanwhile
        self._session_ends.end_all(caller.user_id, "password", but_device=caller.device)

    def leave(self, caller: Caller) -> None:
        """End the caller's session. Raises StoreUnavailable: it is over, and goes on being told."""
        offload(self._database, self._end_session, caller)
        # Whether or not SQL had it: an end that Redis was not told of is told by the repeat. A newer one of the device stays.
        self._session_ends.end(caller.user_id, caller.device, "logout")

    def _open(self, enter: Enter, *, role: str, device: str) -> Login:
        """Open a session, again where another request made the same row at the same time."""
        for _ in range(_TRIES):
            try:
                return self._logins.open(enter, role=role, device=device)
            except (RowTaken, _ChangedMeanwhile):
                continue
        raise ApiError("unavailable")

    # Run where SQL may run

    def _is_taken(self, username: str) -> bool:
        with self._database.reading() as connection:
            return accounts.is_username_taken(connection, username)

    def _load_credentials(self, username: str) -> Credentials | None:
        with self._database.reading() as connection:
            return accounts.load_credentials(connection, username)

    def _load_credentials_of(self, user_id: int) -> Credentials | None:
        with self._database.reading() as connection:
            return accounts.load_credentials_of(connection, user_id)

    def _change_password(self, caller: Caller, found: Credentials, hashed: str) -> bool:
        with self._database.writing() as connection:
            if not accounts.change_password(connection, found.user_id, verified=found.password, new=hashed):
                return False
            sessions.end_other_sessions(connection, caller.user_id, caller.device)
            return True

    def _end_session(self, caller: Caller) -> None:
        with self._database.writing() as connection:
            sessions.end_session(connection, caller.user_id, caller.device, caller.session_id)


def _create_named(connection: Connection, new: NewUser) -> int:
    """Create somebody whose name we have chosen: another one will do as well. Raises RowTaken."""
    try:
        return accounts.create_user(connection, new)
    except UsernameTaken as error:
        raise RowTaken from error


def _visitor_name(connection: Connection, device_id: str) -> str:
    """Return ORIG's name of a visitor, with something behind it where another one has that (E12)."""
    name = f"VIS{device_id[:_VISITOR_NAME_SIGNS]}"
    return f"{name}_{secrets.token_hex(4)}" if accounts.is_username_taken(connection, name) else name
