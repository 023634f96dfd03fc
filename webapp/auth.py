"""Who calls: the token of a request, checked against its session (ORIG 1.5 and 2.1, contract section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from flask import Request, current_app

from models import sessions, users
from models.database import Database
from models.store import sessions as stored_sessions
from models.users import ACTIVE
from webapp.errors import ApiError
from webapp.http import this_request
from webapp.routes import description_of
from webapp.services import Redis, offload
from webapp.tokens import Claims, TokenExpired, TokenInvalid, Tokens


@dataclass(frozen=True, slots=True)
class Caller:
    user_id: int
    uuid: str
    role: str  # session role (C8)
    device: str
    session_id: str
    expires_at: int  # seconds since 1970


class UserMissing(ApiError):
    """The token's user does not exist: for HTTP the same as a disabled one, a websocket has another text (ORIG 2.1)."""


class Gatekeeper:
    """Turns a token into a Caller."""

    def __init__(self, tokens: Tokens, store: Redis, database: Database) -> None:
        self._tokens = tokens
        self._store = store
        self._database = database

    def admit(self, token: str | None) -> Caller:
        """Raises ApiError with token_missing, token_expired, token_invalid or user_disabled; StoreUnavailable."""
        return self.admit_claims(self.read(token))

    def read(self, token: str | None) -> Claims:
        """Return what a token claims; whether its session stands is another question. Raises ApiError as `admit`."""
        if not token:
            raise ApiError("token_missing")
        try:
            return self._tokens.verify(token)
        except TokenExpired as error:
            raise ApiError("token_expired") from error
        except TokenInvalid as error:
            raise ApiError("token_invalid") from error

    def admit_claims(self, claims: Claims) -> Caller:
        """Admit claims that are ours and not expired, if their session stands. Raises as `admit`."""
        read = stored_sessions.read_command(claims.user_id, claims.device)
        held, generation = stored_sessions.parse_held(self._store.call(read))
        if held != claims.session_id:
            self._check_in_sql(claims, generation)
        return caller_of(claims)

    def caller(self) -> Caller:
        """Return who makes this HTTP request, where its route's description lets him. Raises as `admit`, and ApiError."""
        asked = this_request()
        description = description_of(current_app.view_functions.get(asked.endpoint or ""))
        access = description.access if description is not None else "user"
        try:
            # An upload is not read to look for a token in it.
            is_upload = description is not None and description.file is not None
            caller = self.admit(token_of(asked, in_body=not is_upload))
        except ApiError as error:
            if access == "administrator":
                raise ApiError("not_found") from error  # asking for a token would say that there is something
            raise
        is_visitor = caller.role == "visitor"
        if access == "administrator":
            # Telling a visitor to log in would say that there is something.
            if is_visitor or not offload(self._database, self._is_administrator, caller.user_id):
                raise ApiError("not_found")
        elif is_visitor and access not in ("anyone", "visitor"):
            raise ApiError("visitors_excluded")
        return caller

    def has_registered(self, token: str | None) -> bool:
        """Return whether a token is one that somebody has used as a visitor, and who has registered. Raises DatabaseUnavailable."""
        try:
            claims = self.read(token)
        except ApiError:
            return False
        return claims.role == "visitor" and offload(self._database, self._load_role, claims.user_id) == "user"

    def _load_role(self, user_id: int) -> str | None:
        with self._database.reading() as connection:
            person = users.load_person(connection, user_id)
            return person.role if person is not None else None

    def _is_administrator(self, user_id: int) -> bool:
        with self._database.reading() as connection:
            return users.is_administrator(connection, user_id)

    def _check_in_sql(self, claims: Claims, generation: str) -> None:
        """Admit a session that Redis does not hold yet or any more, and say why another is not admitted."""
        status, session_id = offload(self._database, self._load, claims)
        if status is None:
            raise UserMissing("user_disabled")
        if status != ACTIVE:
            raise ApiError("user_disabled")
        if session_id != claims.session_id:
            raise ApiError("token_invalid")
        # Not remembered where a session of his ended while we asked. This one stood when SQL answered.
        remember = stored_sessions.remember_command(claims.user_id, claims.device, generation, claims.session_id)
        self._store.call(remember)

    def _load(self, claims: Claims) -> tuple[int | None, str | None]:
        with self._database.reading() as connection:
            status = users.load_status(connection, claims.user_id)
            return status, sessions.load_session_id(connection, claims.user_id, claims.device)


def caller_of(claims: Claims) -> Caller:
    return Caller(claims.user_id, claims.uuid, claims.role, claims.device, claims.session_id, claims.expires_at)


def token_of(request: Request, *, in_body: bool = True) -> str | None:
    """Find the token: header `token`, `Authorization: Bearer`, query, body (contract section 2)."""
    token = request.headers.get("token")
    if token:
        return token
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials:
        return credentials.strip()
    token = request.args.get("token")
    if token or not in_body:
        return token
    try:
        # Not Flask's: Python's parser ends in a RecursionError where a body is nested deeply.
        body: Any = orjson.loads(request.get_data()) if request.is_json else request.form
    except orjson.JSONDecodeError:
        return None
    token = body.get("token") if hasattr(body, "get") else None
    return token if isinstance(token, str) else None
