"""Logins: the one way in which a session starts, whoever asks for it and however he has shown who he is.

SQL has the session when a login answers. It is copied to Redis as by a request of the new token, under the generation that
stood before SQL was asked once more, and so two logins that overlap cannot leave the older one's behind.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection

from models import accounts, sessions
from models.database import Database
from models.errors import ModelError
from schemas.accounts import show_account
from settings import Settings
from webapp.auth import Caller, Gatekeeper
from webapp.devices import Devices
from webapp.errors import ApiError
from webapp.services import offload
from webapp.session_ends import SessionEnds
from webapp.tokens import Tokens

log = structlog.get_logger()

Login = dict[str, Any]  # what a login answers: the user's row and his token


@dataclass(frozen=True, slots=True)
class _Begun:
    user_id: int
    account: dict[str, Any]
    ended: list[str]


class Logins:
    def __init__(
        self,
        settings: Settings,
        database: Database,
        tokens: Tokens,
        gatekeeper: Gatekeeper,
        session_ends: SessionEnds,
        devices: Devices,
    ) -> None:
        self._settings = settings
        self._database = database
        self._tokens = tokens
        self._gatekeeper = gatekeeper
        self._session_ends = session_ends
        self._devices = devices

    def open(self, enter: Callable[[Connection], int], *, role: str, device: str) -> Login:
        """Start a session and return what a login answers.

        enter: lets the user in, in the transaction of the session, and returns his id; it must hold his row. What it
        raises passes through, and it is called again where it was not the end. Raises StoreUnavailable: the session may
        have started, but nobody has its token.
        """
        session_id = secrets.token_hex(16)
        leaving: list[str] = []
        while True:
            try:
                begun = offload(self._database, self._begin, enter, session_id, role, device, leaving)
                break
            except sessions.TooManyDevices as full:
                leaving.append(self._devices.least_recent(full.user_id, full.devices))
        for ended in begun.ended:
            self._session_ends.end(begun.user_id, ended, "relogin")
        login = self._answer(begun.account, session_id, role, device)
        self._make_known(begun.user_id, device, login["token"])
        log.info("logged_in", user_id=begun.user_id, role=role, ended=len(begun.ended))
        return login

    def renew(self, caller: Caller) -> Login:
        """Let a session last anew and return what a login answers. Raises ApiError with token_invalid: it is over."""
        account = offload(self._database, self._renew, caller)
        if account is None:
            raise ApiError("token_invalid")
        return self._answer(account, caller.session_id, caller.role, caller.device, after=caller.expires_at)

    def _begin(
        self, enter: Callable[[Connection], int], session_id: str, role: str, device: str, leaving: list[str]
    ) -> _Begun:
        with self._database.writing() as connection:
            user_id = enter(connection)
            row = {
                "user_id": user_id,
                "device": device,
                "session_id": session_id,
                "created_at_ms": _now_ms(),
                "expires_at_ms": self._expires_at_ms(),
                "role": role,
            }
            ended = sessions.start_session(connection, row, most=self._settings.devices_per_user, leaving=leaving)
            account = accounts.load_account(connection, user_id)
        assert account is not None  # `enter` holds the row
        return _Begun(user_id, account, ended)

    def _renew(self, caller: Caller) -> dict[str, Any] | None:
        with self._database.writing() as connection:
            is_renewed = sessions.renew_session(
                connection, caller.user_id, caller.device, caller.session_id, self._expires_at_ms()
            )
            return accounts.load_account(connection, caller.user_id) if is_renewed else None

    def _make_known(self, user_id: int, device: str, token: str) -> None:
        """Let the device count from now on, so that it misses nothing until it connects, and Redis know the session.

        Without that the first request would ask SQL, and a send of a token that is new get 503 while SQL is away.
        """
        try:
            self._devices.register(user_id, device)
        except ModelError as error:
            log.warning("device_not_registered", user_id=user_id, error=str(error))  # connecting does it
            return  # what does not answer is not waited for twice
        try:
            self._gatekeeper.admit(token)
        except (ModelError, ApiError) as error:
            # A later login of the device has ended it, perhaps. Else its first request does it.
            log.warning("session_not_remembered", user_id=user_id, error=str(error))

    def _answer(
        self, account: dict[str, Any], session_id: str, role: str, device: str, *, after: int | None = None
    ) -> Login:
        token = self._tokens.sign(
            user_id=account["id"], uuid=account["uuid"], role=role, session_id=session_id, device=device, after=after
        )
        return show_account(account, token)

    def _expires_at_ms(self) -> int:
        return _now_ms() + self._settings.token_ttl_seconds * 1000


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
