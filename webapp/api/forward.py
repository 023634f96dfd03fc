"""Forwarding a message that one may see to users and groups: a send of one's own to each (contract sections 6 and 8)."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import orjson
from flask import Blueprint, Response

from models import search
from models.bodies import USER_TYPES
from models.database import Database
from models.errors import Overloaded, StoreUnavailable
from models.requests import Request
from schemas.answers import Forwarded
from schemas.search import FORWARD_PARAMS
from settings import Settings
from webapp.auth import Caller, Gatekeeper
from webapp.errors import ApiError
from webapp.http import ok, read_params
from webapp.limiting import Limits
from webapp.routes import describe
from webapp.sending import build_send
from webapp.services import Acceptor, read_sql
from webapp.sockets.registry import Registry, VerdictWait

_Target = tuple[str, int]  # chat type, user or group


@dataclass(frozen=True, slots=True)
class _Sent:
    """A send under way, or the code of why it is not. `accepted` tells whether it is durable."""

    code: str | None
    request: Request | None = None
    wait: VerdictWait | None = None

    def result(self, seconds: float) -> dict[str, Any]:
        """Wait for what became of it. Accepted and not decided yet counts as sent: its id tells more later."""
        if self.request is None or self.wait is None:
            return {"ok": False, "code": self.code}
        try:
            verdict = self.wait.get(seconds)
        except StoreUnavailable:
            return {"ok": False, "code": "outcome_unknown"}
        if verdict is not None and (verdict[0].code is not None or verdict[1] is None):
            return {"ok": False, "code": verdict[0].code or "internal_error"}
        return {"ok": True, "id": self.request.id}


def make_blueprint(
    settings: Settings,
    process_id: str,
    gatekeeper: Gatekeeper,
    database: Database,
    acceptor: Acceptor,
    registry: Registry,
    limits: Limits,
) -> Blueprint:
    blueprint = Blueprint("forward", __name__)

    def load(user_id: int, message_id: str) -> dict[str, Any]:
        row = read_sql(database, lambda connection: search.load_visible(connection, user_id, message_id))
        message = orjson.loads(row.body) if row is not None and not row.is_recalled else {}
        if message.get("type") not in USER_TYPES:
            raise ApiError("not_found")
        return message

    def send(caller: Caller, message: dict[str, Any], target: _Target, wait: VerdictWait) -> _Sent:
        """Accept one send, without waiting for it."""
        params = {"chatType": target[0], "sendto_id": target[1], "type": message["type"], "data": message["data"]}
        try:
            limits.count_send(caller.user_id)
            built = build_send(caller, settings, (process_id, wait.number), params)
        except ApiError as error:
            return _Sent(error.failure.code)
        request = replace(built, options=message["options"])  # decoded and measured when it was sent first
        try:
            acceptor.submit(request, wait.accepted)
        except Overloaded:
            return _Sent("overloaded")
        return _Sent(None, request, wait)

    @blueprint.post("/api/chat/forward")
    @describe(
        "Forward a message to users and groups",
        access="user",
        params=FORWARD_PARAMS,
        answer=Forwarded(),
        failures=("not_found", "rate_limited"),
    )
    def post_forward() -> Response:
        caller = gatekeeper.caller()
        params = read_params(FORWARD_PARAMS)
        targets: list[_Target] = [(target["chatType"], target["sendto_id"]) for target in params["to"]]
        message = load(caller.user_id, params["id"])
        deadline = time.monotonic() + settings.send_wait_seconds
        with ExitStack() as waits:
            # A target that is named twice gets it once.
            sent = {
                target: send(caller, message, target, waits.enter_context(VerdictWait(registry)))
                for target in dict.fromkeys(targets)
            }
            if all(one.code == "rate_limited" for one in sent.values()):
                raise ApiError("rate_limited")
            results = {target: one.result(deadline - time.monotonic()) for target, one in sent.items()}
        return ok(
            {"results": [{"chatType": kind, "sendto_id": to_id, **results[kind, to_id]} for kind, to_id in targets]}
        )

    return blueprint
