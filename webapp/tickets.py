"""Tickets: a caller's claims under a name that works once and for half a minute, so that no token stands in a URL."""

from __future__ import annotations

import secrets
import time
from dataclasses import astuple

import orjson

from models.store import tickets
from webapp.auth import Caller, Gatekeeper
from webapp.errors import ApiError
from webapp.services import Redis
from webapp.tokens import Claims

TICKET_SECONDS = tickets.TICKET_MS // 1000
_TICKET_BYTES = 16
_MAX_TICKET_CHARACTERS = 64


class Tickets:
    def __init__(self, store: Redis, gatekeeper: Gatekeeper) -> None:
        self._store = store
        self._gatekeeper = gatekeeper

    def issue(self, caller: Caller) -> str:
        """Return a ticket that admits as the caller's token does. Raises StoreUnavailable."""
        ticket = secrets.token_urlsafe(_TICKET_BYTES)
        claims = Claims(caller.user_id, caller.uuid, caller.role, caller.session_id, caller.device, caller.expires_at)
        self._store.call(tickets.keep_command(ticket, orjson.dumps(astuple(claims))))
        return ticket

    def admit(self, ticket: str) -> Caller:
        """Use a ticket up. Raises as `Gatekeeper.admit`: one that is used, unknown or too old is an invalid token.

        Where Redis does not answer it is not known whether the ticket is used up: a second try would find none and tell a
        client to log in again that should only come back.
        """
        # What cannot be one of ours is not looked for: it may be of any length.
        raw = self._store.call_once(tickets.take_command(ticket)) if len(ticket) <= _MAX_TICKET_CHARACTERS else None
        if raw is None:
            raise ApiError("token_invalid")
        claims = Claims(*orjson.loads(raw))
        if claims.expires_at <= time.time():
            raise ApiError("token_expired")
        return self._gatekeeper.admit_claims(claims)
