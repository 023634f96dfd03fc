"""Whom a user hears: blocks, follows, message requests, and why a send would be refused (contract sections 4 and 6)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import orjson
from flask import Blueprint, Response
from sqlalchemy import Connection

from models import blocks, first_contacts, follows, users
from models.database import Database
from schemas.answers import Explanation, MessageRequests
from schemas.relations import ANSWER_PARAMS, BLOCK_PARAMS, EXPLAIN_PARAMS, FOLLOW_PARAMS
from settings import Settings
from tasks.explain import explain
from webapp.auth import Caller, Gatekeeper
from webapp.errors import FAILURES, REWORDED, ApiError
from webapp.http import ok, read_params
from webapp.language import language_of_request
from webapp.routes import describe
from webapp.services import offload, read_sql, write_sql


def make_blueprint(settings: Settings, gatekeeper: Gatekeeper, database: Database) -> Blueprint:
    blueprint = Blueprint("relations", __name__)

    def check_another(caller: Caller, other_id: int, at: str) -> None:
        """Raises ApiError: he would do this to himself. at: where REWORDED has the text"""
        if other_id == caller.user_id:
            raise ApiError("self", REWORDED[at]["self"] if language_of_request(settings.language) == "zh" else None)

    def change(other_id: int, write: Callable[[Connection], None]) -> None:
        """Change something between the caller and an existing user. Raises ApiError with not_found."""

        def run(connection: Connection) -> bool:
            if other_id > users.MAX_ID or users.load_status(connection, other_id) is None:
                return False
            write(connection)
            return True

        if not write_sql(database, run):
            raise ApiError("not_found")

    @blueprint.post("/api/chat/block/<user_id>")
    @describe("Block a user, or unblock him", access="visitor", params=BLOCK_PARAMS, failures=("not_found", "self"))
    def post_block(user_id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(BLOCK_PARAMS)
        other_id = params["user_id"]
        check_another(caller, other_id, "block")

        def write(connection: Connection) -> None:
            if params["block"]:
                blocks.block(connection, caller.user_id, other_id, _now_ms())
            else:
                blocks.unblock(connection, caller.user_id, other_id)

        change(other_id, write)
        return ok("ok")

    @blueprint.post("/api/chat/follow/<user_id>")
    @describe(
        "Follow a user, or stop following him", access="user", params=FOLLOW_PARAMS, failures=("not_found", "self")
    )
    def post_follow(user_id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(FOLLOW_PARAMS)
        other_id = params["user_id"]
        check_another(caller, other_id, "follow")

        def write(connection: Connection) -> None:
            if params["follow"]:
                follows.follow(connection, caller.user_id, other_id, _now_ms())
            else:
                follows.unfollow(connection, caller.user_id, other_id)

        change(other_id, write)
        return ok("ok")

    @blueprint.get("/api/chat/requests")
    @describe(
        "Message requests that wait for the caller's answer, newest first: 500 at most, of more the older ones follow as these "
        "are answered",
        access="visitor",
        answer=MessageRequests(),
    )
    def get_requests() -> Response:
        caller = gatekeeper.caller()
        found = read_sql(database, lambda connection: first_contacts.load_open(connection, caller.user_id))
        return ok({"requests": [_shown(row) for row in found]})

    @blueprint.post("/api/chat/requests/<user_id>")
    @describe(
        "Accept a message request, or decline it and block its sender",
        access="visitor",
        params=ANSWER_PARAMS,
        failures=("not_found",),
    )
    def post_request_answer(user_id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(ANSWER_PARAMS)
        other_id = params["user_id"]

        def write(connection: Connection) -> bool:
            state: first_contacts.State = "accepted" if params["accept"] else "declined"
            if other_id > users.MAX_ID or not first_contacts.answer(connection, other_id, caller.user_id, state):
                return False
            if state == "declined":
                blocks.block(connection, caller.user_id, other_id, _now_ms())
            return True

        if not write_sql(database, write):
            raise ApiError("not_found")
        return ok("ok")

    @blueprint.post("/api/chat/policy/explain")
    @describe(
        "Whether a send would be allowed, and why not", access="user", params=EXPLAIN_PARAMS, answer=Explanation()
    )
    def post_explain() -> Response:
        caller = gatekeeper.caller()
        params = read_params(EXPLAIN_PARAMS)
        found = offload(
            database, explain, database, caller.user_id, caller.role, params["chatType"], params["sendto_id"]
        )
        text = (
            FAILURES[found.code].text(language_of_request(settings.language), role=caller.role) if found.code else None
        )
        return ok(
            {
                "allowed": found.code is None,
                "rule": found.rule,
                "code": found.code,
                "text": text,
                "would_allow": list(found.would_allow),
            }
        )

    return blueprint


def _shown(row: Any) -> dict[str, Any]:
    message = orjson.loads(row.body)
    return {
        "user_id": row.sender_id,
        "name": message["from_name"],
        "avatar": message["from_avatar"],
        "message": message,
        "at": row.created_at_ms,
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
