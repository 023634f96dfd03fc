"""Sending, recalling and asking after a message (contract sections 4 and 6, ORIG 3.5 and 6.5)."""

from __future__ import annotations

import time

from flask import Blueprint, Response, request

from models.errors import StoreUnavailable
from models.requests import Request, conversation_key, recall_id
from schemas import envelope
from schemas.recall import RECALL_PARAMS
from settings import Settings
from webapp.auth import Caller, Gatekeeper, token_of
from webapp.delivery_state import DeliveryStates
from webapp.errors import FAILURES, ApiError
from webapp.http import answer, read_body
from webapp.language import language_of_request
from webapp.sending import build_send
from webapp.services import Acceptor
from webapp.sockets.office import SocketOffice
from webapp.sockets.registry import Registry, VerdictWait


def make_blueprint(
    settings: Settings,
    process_id: str,
    gatekeeper: Gatekeeper,
    acceptor: Acceptor,
    registry: Registry,
    office: SocketOffice,
    states: DeliveryStates,
) -> Blueprint:
    blueprint = Blueprint("messages", __name__)

    def decided(caller: Caller, accepted: Request, wait: VerdictWait, seconds: float) -> Response:
        """Accept a request and answer with its verdict, or with 202 where none came in time."""
        try:
            acceptor.accept(accepted)
        except StoreUnavailable as error:
            raise ApiError("outcome_unknown") from error
        result = wait.get(seconds) if seconds > 0 else None
        if result is None:
            return answer(envelope.ok({"id": accepted.id, "status": "accepted"}), 202)
        verdict, body = result
        if verdict.code is None and body is not None:
            return answer(envelope.ok_encoded(body), 200)
        failure = FAILURES[verdict.code or "internal_error"]
        text = failure.text(language_of_request(settings.language), role=caller.role)
        return answer(envelope.fail(failure.code, text), failure.status)

    @blueprint.post("/api/chat/socket/sendmessage")
    def post_message() -> Response:
        caller = gatekeeper.admit(token_of(request))
        with VerdictWait(registry) as wait:
            accepted = build_send(caller, settings, (process_id, wait.number), request.args, read_body())
            seconds = 0.0 if "respond-async" in request.headers.get("Prefer", "") else settings.send_wait_seconds
            return decided(caller, accepted, wait, seconds)

    @blueprint.post("/api/chat/revokeMessage")
    def post_recall() -> Response:
        caller = gatekeeper.admit(token_of(request))
        params = RECALL_PARAMS.read(request.args, read_body())
        conversation = conversation_key(params["chatType"], caller.user_id, params["to_id"])
        with VerdictWait(registry) as wait:
            accepted = Request(
                id=recall_id(caller.user_id, conversation, params["id"]),
                kind="recall",
                chat_type=params["chatType"],
                sender_id=caller.user_id,
                role=caller.role,
                device=caller.device,
                to_id=params["to_id"],
                type="systemNotice",
                data=params["id"],
                options=None,
                created_at_ms=time.time_ns() // 1_000_000,
                client_msg_id=None,
                reply_to=(process_id, wait.number),
                conversation=conversation,
            )
            return decided(caller, accepted, wait, settings.send_wait_seconds)

    @blueprint.post("/api/chat/chatGetmessageOffLine")
    def post_offline() -> Response:
        caller = gatekeeper.admit(token_of(request))
        office.wake(caller.user_id)
        return answer(envelope.ok("ok"), 200)

    @blueprint.get("/api/chat/messages/<message_id>")
    def get_message(message_id: str) -> Response:
        caller = gatekeeper.admit(token_of(request))
        state = states.load(caller.user_id, message_id)
        if state is None:
            raise ApiError("not_found")
        return answer(envelope.ok(state), 200)

    return blueprint
