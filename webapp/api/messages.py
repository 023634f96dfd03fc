"""Sending, recalling and asking after a message (contract sections 4 and 6, ORIG 3.5 and 6.5)."""

from __future__ import annotations

import time

from flask import Blueprint, Response

from models.errors import Overloaded, StoreUnavailable
from models.requests import Request, conversation_key
from schemas import envelope
from schemas.answers import Accepted, Message, MessageState, Trace
from schemas.messages import MESSAGE_PARAMS
from schemas.params import InvalidParams
from schemas.recall import RECALL_PARAMS, check_not_ahead
from schemas.sending import SEND_PARAMS
from settings import Settings
from webapp.auth import Caller, Gatekeeper, caller_of, token_of
from webapp.delivery_state import DeliveryStates
from webapp.errors import FAILURES, POLICY_REFUSALS, REWORDED, ApiError
from webapp.http import answer, read_body, read_params, this_request
from webapp.language import language_of_request
from webapp.limiting import Limits
from webapp.repeaters import SEND_PATH, credential_of_send
from webapp.routes import describe
from webapp.sending import build_send
from webapp.services import NO_TERMS, Acceptor, RateExceeded, SessionUnknown, Terms
from webapp.sockets.office import SocketOffice
from webapp.sockets.registry import Registry, VerdictWait
from webapp.tokens import Claims
from webapp.traces import Traces


def make_blueprint(
    settings: Settings,
    process_id: str,
    gatekeeper: Gatekeeper,
    acceptor: Acceptor,
    registry: Registry,
    office: SocketOffice,
    states: DeliveryStates,
    traces: Traces,
    limits: Limits,
) -> Blueprint:
    blueprint = Blueprint("messages", __name__)

    def decided(
        caller: Caller, accepted: Request, wait: VerdictWait, seconds: float, terms: Terms = NO_TERMS
    ) -> Response:
        """Accept a request and answer with its verdict, or with 202 where none came in time.

        Raises SessionUnknown, RateExceeded, Overloaded: it was not accepted.
        """
        if seconds <= 0 and (accepted.client_msg_id is not None or accepted.kind == "recall"):
            # Nobody waits for what a drain says to a repeat, so a verdict that stands is asked for.
            standing = states.verdict_of(accepted)
            if standing is not None:
                return settled(caller, *standing)
        acceptor.submit(accepted, wait.accepted, terms)
        try:
            result = wait.get(seconds)
        except StoreUnavailable as error:
            raise ApiError("outcome_unknown") from error
        if result is None:
            return answer(envelope.ok({"id": accepted.id, "status": "accepted"}), 202)
        verdict, body = result
        return settled(caller, verdict.code, body)

    def settled(caller: Caller, code: str | None, body: bytes | None) -> Response:
        if code is None and body is not None:
            return answer(envelope.ok_encoded(body), 200)
        failure = FAILURES[code or "internal_error"]
        text = failure.text(language_of_request(settings.language), role=caller.role)
        return answer(envelope.fail(failure.code, text), failure.status)

    def check(claims: Claims, terms: Terms) -> None:
        """Ask now what the acceptance would ask for. Raises ApiError."""
        if terms.session is not None:
            gatekeeper.admit_claims(claims)
        if terms.is_counted:
            limits.count_send(claims.user_id, credential_of_send(this_request().environ))

    def sent(claims: Claims, terms: Terms, seconds: float) -> Response:
        """Send what the request asks for. Raises SessionUnknown: nothing was accepted."""
        asked, caller = this_request(), caller_of(claims)
        with VerdictWait(registry) as wait:
            try:
                request = build_send(caller, settings, (process_id, wait.number), asked.args, read_body())
            except (ApiError, InvalidParams):
                check(claims, terms)  # whoever may not send is told that first
                raise
            try:
                return decided(caller, request, wait, seconds, terms)
            except RateExceeded as exceeded:
                raise limits.refused_send(exceeded.left_ms, credential_of_send(asked.environ)) from exceeded
            except Overloaded:
                check(claims, terms)
                raise

    @blueprint.post(SEND_PATH)
    @describe(
        "Send a message to a user or a group",
        access="visitor",
        params=SEND_PARAMS,
        answer=Message(),
        also={202: Accepted()},
        failures=(
            *POLICY_REFUSALS,
            "message_too_large",
            "idempotency_conflict",
            "rate_limited",
            "overloaded",
            "outcome_unknown",
            "internal_error",
        ),
    )
    def post_message() -> Response:
        asked = this_request()
        claims = gatekeeper.read(token_of(asked))
        terms = Terms((claims.user_id, claims.device, claims.session_id), is_counted=True)
        seconds = 0.0 if _prefers_async(asked.environ.get("HTTP_PREFER")) else settings.send_wait_seconds
        if seconds <= 0:
            check(claims, terms)  # before a verdict that stands is looked up
            return sent(claims, NO_TERMS, seconds)
        try:
            return sent(claims, terms, seconds)
        except SessionUnknown:
            gatekeeper.admit_claims(claims)
            return sent(claims, Terms(is_counted=True), seconds)

    @blueprint.post("/api/chat/revokeMessage")
    @describe(
        "Recall a message",
        access="visitor",
        params=RECALL_PARAMS,
        answer=Message(),
        also={202: Accepted()},
        failures=(
            "message_not_found",
            "group_not_found",
            "not_in_group",
            "already_recalled",
            "recall_too_late",
            "rate_limited",
            "overloaded",
            "outcome_unknown",
            "internal_error",
        ),
    )
    def post_recall() -> Response:
        caller = gatekeeper.caller()
        params, now_ms = read_params(RECALL_PARAMS), time.time_ns() // 1_000_000
        check_not_ahead(params["create_time"], now_ms)
        conversation = conversation_key(params["chatType"], caller.user_id, params["to_id"])
        with VerdictWait(registry) as wait:
            accepted = Request(
                id=states.recall_id(caller.user_id, conversation, params["id"]),
                kind="recall",
                chat_type=params["chatType"],
                sender_id=caller.user_id,
                role=caller.role,
                device=caller.device,
                to_id=params["to_id"],
                type="systemNotice",
                data=params["id"],
                options=None,
                created_at_ms=now_ms,
                client_msg_id=None,
                reply_to=(process_id, wait.number),
                conversation=conversation,
            )
            try:
                # Counted with the sends: a refused one stays in SQL for ever, whatever id it names.
                return decided(caller, accepted, wait, settings.send_wait_seconds, Terms(is_counted=True))
            except RateExceeded as exceeded:
                credential = credential_of_send(this_request().environ)
                raise limits.refused_send(exceeded.left_ms, credential) from exceeded

    @blueprint.post("/api/chat/chatGetmessageOffLine")
    @describe("Have the caller's open socket send what it has not sent yet", access="visitor")
    def post_offline() -> Response:
        try:
            caller = gatekeeper.caller()
        except ApiError as error:
            code = error.failure.code
            if code != "token_invalid":
                raise
            # The original's client compares this text (ORIG 8.6), whatever its user's language, and logs out whoever is logged
            # in by then. With the token of a visitor who has registered it asks from a socket that it has forgotten to close,
            # so that the newly registered would be logged out at once.
            has_registered = gatekeeper.has_registered(token_of(this_request()))
            text = REWORDED["chatGetmessageOffLine"][code] if has_registered else FAILURES[code].text("zh")
            raise ApiError(code, text) from error
        office.wake(caller.user_id)
        return answer(envelope.ok("ok"), 200)

    @blueprint.get("/api/chat/messages/<message_id>")
    @describe(
        "What became of a message, for its sender",
        access="visitor",
        params=MESSAGE_PARAMS,
        answer=MessageState(),
        failures=("not_found",),
    )
    def get_message(message_id: str) -> Response:
        caller = gatekeeper.caller()
        state = states.load(caller.user_id, message_id)
        if state is None:
            raise ApiError("not_found")
        return answer(envelope.ok(state), 200)

    @blueprint.get("/api/chat/messages/<message_id>/trace")
    @describe(
        "The way of a message, for its sender, the owner of its group and administrators",
        access="user",
        params=MESSAGE_PARAMS,
        answer=Trace(),
        failures=("not_found",),
    )
    def get_trace(message_id: str) -> Response:
        trace = traces.load(gatekeeper.caller().user_id, message_id)
        if trace is None:
            raise ApiError("not_found")
        return answer(envelope.ok(trace), 200)

    return blueprint


def _prefers_async(header: str | None) -> bool:
    """Say whether a `Prefer` header holds `respond-async`, as RFC 7240 section 4.1 writes it."""
    if not header:
        return False
    return any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in header.split(","))
