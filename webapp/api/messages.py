"""Sending a message (contract section 4): token, schema, accept, wait for the verdict."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response, request

from models.errors import StoreUnavailable
from schemas import envelope
from schemas.params import InvalidParams
from settings import Settings
from webapp.auth import Gatekeeper, token_of
from webapp.errors import FAILURES, ApiError
from webapp.sending import build_send
from webapp.services import Acceptor
from webapp.sockets.registry import Registry, VerdictWait


def make_blueprint(
    settings: Settings, process_id: str, gatekeeper: Gatekeeper, acceptor: Acceptor, registry: Registry
) -> Blueprint:
    blueprint = Blueprint("messages", __name__)

    @blueprint.post("/api/chat/socket/sendmessage")
    def post_message() -> Response:
        caller = gatekeeper.admit(token_of(request))
        with VerdictWait(registry) as wait:
            accepted = build_send(caller, settings, (process_id, wait.number), request.args, read_body())
            try:
                acceptor.accept(accepted)
            except StoreUnavailable as error:
                raise ApiError("outcome_unknown") from error
            waits = "respond-async" not in request.headers.get("Prefer", "")
            result = wait.get(settings.send_wait_seconds) if waits else None
        if result is None:
            return _json(envelope.ok({"id": accepted.id, "status": "accepted"}), 202)
        verdict, body = result
        if verdict.code is None and body is not None:
            return _json(envelope.ok_encoded(body), 200)
        failure = FAILURES[verdict.code or "internal_error"]
        return _json(envelope.fail(failure.code, failure.text(settings.language, role=caller.role)), failure.status)

    return blueprint


def read_body() -> Any:
    """Return the body's parameters: a JSON object or a form. Raises InvalidParams."""
    if not request.is_json:
        return request.form
    try:
        body = orjson.loads(request.get_data(cache=False) or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidParams("", "请求体不是合法的 JSON") from error
    if not isinstance(body, dict):
        raise InvalidParams("", "请求体必须是 JSON 对象")
    return body


def _json(body: bytes, status: int) -> Response:
    return Response(body, status, mimetype="application/json")
