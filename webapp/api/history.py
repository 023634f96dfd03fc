"""Reading again: history, the list of conversations, the read marker, search (contract section 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from flask import Blueprint, Response
from sqlalchemy import Connection

from models import history, search
from models.database import Database
from models.requests import conversation_key
from schemas.answers import Conversations, Messages
from schemas.history import HISTORY_PARAMS, READ_PARAMS
from schemas.search import SEARCH_PARAMS
from webapp.auth import Gatekeeper
from webapp.errors import ApiError
from webapp.http import ok, read_params
from webapp.reading import Reading, ReadMarks
from webapp.routes import describe
from webapp.services import read_sql

_MAX_SEQ = 2**31 - 1  # PostgreSQL's integer; beyond it there is no message to leave out


def make_blueprint(
    gatekeeper: Gatekeeper, database: Database, read_marks: ReadMarks, shards: Sequence[int]
) -> Blueprint:
    blueprint = Blueprint("history", __name__)

    def check_open(connection: Connection, user_id: int, params: dict[str, Any]) -> None:
        """Raises ApiError: the conversation is not his to see."""
        if not history.is_open_to(connection, user_id, params["chatType"], params["peer_id"]):
            raise ApiError("not_found")

    @blueprint.get("/api/chat/history")
    @describe(
        "A page of a conversation, oldest first",
        access="visitor",
        params=HISTORY_PARAMS,
        answer=Messages(),
        failures=("not_found",),
    )
    def get_history() -> Response:
        caller = gatekeeper.caller()
        params = read_params(HISTORY_PARAMS)
        conversation = conversation_key(params["chatType"], caller.user_id, params["peer_id"])
        before = None if params["before"] > _MAX_SEQ else params["before"]

        def load(connection: Connection) -> tuple[list[str], bool]:
            check_open(connection, caller.user_id, params)
            return history.load_page(connection, caller.user_id, conversation, before, params["limit"])

        page, more = read_sql(database, load)
        return ok({"messages": [orjson.Fragment(message) for message in page], "more": more})

    @blueprint.get("/api/chat/conversations")
    @describe(
        "The caller's conversations, newest first: 500 at most, with what is unread among the last 1,000 messages of each",
        access="visitor",
        answer=Conversations(),
    )
    def get_conversations() -> Response:
        caller = gatekeeper.caller()
        found = read_sql(database, lambda connection: history.load_conversations(connection, caller.user_id))
        return ok({"conversations": [_shown(conversation) for conversation in found]})

    @blueprint.post("/api/chat/read")
    @describe(
        "Move the caller's read marker of a conversation forward",
        access="visitor",
        params=READ_PARAMS,
        failures=("not_found",),
    )
    def post_read() -> Response:
        caller = gatekeeper.caller()
        params = read_params(READ_PARAMS)
        read_sql(database, lambda connection: check_open(connection, caller.user_id, params))
        read_marks.mark(Reading(caller.user_id, caller.device, params["chatType"], params["peer_id"], params["seq"]))
        return ok("ok")

    @blueprint.get("/api/chat/search")
    @describe(
        "Search the caller's messages, newest first",
        access="user",
        params=SEARCH_PARAMS,
        answer=Messages(),
        failures=("not_found",),
    )
    def get_search() -> Response:
        caller = gatekeeper.caller()
        params = read_params(SEARCH_PARAMS)

        def load(connection: Connection) -> tuple[list[str], bool]:
            before = None
            if params["before"]:
                before = search.load_visible(connection, caller.user_id, params["before"])
                if before is None:
                    raise ApiError("not_found")
            return search.search(connection, caller.user_id, params["q"], before, params["limit"], shards)

        page, more = read_sql(database, load)
        return ok({"messages": [orjson.Fragment(message) for message in page], "more": more})

    return blueprint


def _shown(conversation: history.Conversation) -> dict[str, Any]:
    return {
        "chatType": conversation.chat_type,
        "peer_id": conversation.peer_id,
        "name": conversation.name,
        "avatar": conversation.avatar,
        "last": orjson.Fragment(conversation.last) if conversation.last is not None else None,
        "seq": conversation.seq,
        "read_seq": conversation.read_seq,
        "unread": conversation.unread_count,
    }
