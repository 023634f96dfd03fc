"""Reading again: history, the list of conversations, the read marker (contract section 6)."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response, request

from models import history, messages, read_markers
from models.database import Database
from models.requests import conversation_key
from schemas.history import HISTORY_PARAMS, READ_PARAMS
from schemas.params import MAX_INT
from webapp.auth import Gatekeeper, token_of
from webapp.http import ok, read_body
from webapp.services import offload


def make_blueprint(gatekeeper: Gatekeeper, database: Database) -> Blueprint:
    blueprint = Blueprint("history", __name__)

    @blueprint.get("/api/chat/history")
    def get_history() -> Response:
        caller = gatekeeper.admit(token_of(request))
        params = HISTORY_PARAMS.read(request.args)
        conversation = conversation_key(params["chatType"], caller.user_id, params["peer_id"])
        before = None if params["before"] == MAX_INT else params["before"]

        def load() -> tuple[list[str], bool]:
            with database.reading() as connection:
                return history.load_page(connection, caller.user_id, conversation, before, params["limit"])

        page, more = offload(database, load)
        return ok({"messages": [orjson.Fragment(message) for message in page], "more": more})

    @blueprint.get("/api/chat/conversations")
    def get_conversations() -> Response:
        caller = gatekeeper.admit(token_of(request))

        def load() -> list[history.Conversation]:
            with database.reading() as connection:
                return history.load_conversations(connection, caller.user_id)

        return ok({"conversations": [_shown(conversation) for conversation in offload(database, load)]})

    @blueprint.post("/api/chat/read")
    def post_read() -> Response:
        caller = gatekeeper.admit(token_of(request))
        params = READ_PARAMS.read(request.args, read_body())
        conversation = conversation_key(params["chatType"], caller.user_id, params["peer_id"])

        def mark() -> None:
            with database.writing() as connection:
                # Not beyond what there is: a marker in the future would hide what is still to come.
                newest = messages.load_last_seqs(connection, [conversation])[conversation]
                seq = min(params["seq"], newest)
                if seq:
                    read_markers.raise_to(connection, caller.user_id, conversation, seq)

        offload(database, mark)
        return ok("ok")

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
