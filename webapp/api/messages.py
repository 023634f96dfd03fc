"""Sending a message (contract section 4): token, schema, accept, wait for the verdict."""

from __future__ import annotations

import time
from typing import Any

import orjson
from flask import Blueprint, Response, request

from models.errors import StoreUnavailable
from models.requests import Request, mint_id
from schemas import envelope
from schemas.params import InvalidParams
from schemas.sending import SEND_PARAMS, decode_options
from settings import Settings
from webapp.auth import Caller, Gatekeeper, token_of
from webapp.errors import FAILURES, ApiError
from webapp.services import Acceptor
from webapp.sockets.registry import Registry, VerdictWait


def make_blueprint(
    settings: Settings, process_id: str, gatekeeper: Gatekeeper, acceptor: Acceptor, registry: Registry
) -> Blueprint:
    blueprint = Blueprint("messages", __name__)

    @blueprint.post("/api/chat/socket/sendmessage")
    def post_message() -> Response:
        caller = gatekeeper.admit(token_of(request))
        params = SEND_PARAMS.read(request.args, read_body())
        _check_sizes(params, settings)
        with VerdictWait(registry) as wait:
            accepted = build_request(caller, params, (process_id, wait.number))
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


def build_request(caller: Caller, params: dict[str, Any], reply_to: tuple[str, int]) -> Request:
    client_msg_id = params["clientMsgId"] or None
    return Request(
        id=mint_id(caller.user_id, client_msg_id),
        kind="send",
        chat_type=params["chatType"],
        sender_id=caller.user_id,
        role=caller.role,
        device=caller.device,
        to_id=params["sendto_id"],
        type=params["type"],
        data=params["data"],
        options=decode_options(params["options"]),
        created_at_ms=time.time_ns() // 1_000_000,
        client_msg_id=client_msg_id,
        reply_to=reply_to,
    )


def _check_sizes(params: dict[str, Any], settings: Settings) -> None:
    limit = settings.message_max_bytes
    if len(params["data"].encode()) > limit or len(params["options"].encode()) > limit // 2:
        raise ApiError("message_too_large")


def _json(body: bytes, status: int) -> Response:
    return Response(body, status, mimetype="application/json")
