"""Questions and answers (ORIG 6.6): kept by users for when they are away, and by owners for their groups.

Whose they are is the session's to say: of type `single` the caller's, whatever the body names; of type `group` those of a
group that he owns, which the body names (flaw G4).
"""

from __future__ import annotations

import time
from typing import Any

from flask import Blueprint, Response
from sqlalchemy import Connection

from models import askanswers, groups, users
from models.database import Database
from models.requests import ChatType
from schemas.answers import many
from schemas.askanswers import (
    ASKANSWER_PARAMS,
    ASKANSWERS_PARAMS,
    CREATE_ASKANSWER_PARAMS,
    SEARCH_ASKANSWERS_PARAMS,
    UPDATE_ASKANSWER_PARAMS,
    AskAnswer,
    FoundAskAnswer,
)
from settings import Settings
from tasks.matching import find_match
from webapp.auth import Caller, Gatekeeper
from webapp.counts import counts
from webapp.errors import ApiError
from webapp.http import ok, read_params
from webapp.routes import describe
from webapp.services import read_sql, write_sql

_INCOMPLETE = "askanswer_incomplete"
_REMOVED = "删除成功"


def make_blueprint(settings: Settings, gatekeeper: Gatekeeper, database: Database) -> Blueprint:
    blueprint = Blueprint("askanswers", __name__)

    @blueprint.post("/api/chat/askanswer/create")
    @describe(
        "Keep a question with its answer; one with the same question gets the new answer",
        access="user",
        params=CREATE_ASKANSWER_PARAMS,
        answer=AskAnswer(),
        failures=(_INCOMPLETE, "group_not_yours", "askanswer_full"),
    )
    def post_entry() -> Response:
        caller = gatekeeper.caller()
        params = read_params(CREATE_ASKANSWER_PARAMS)
        kind, owner_id = _owner(caller, params["type"], params["create_userId"])
        _check_given(params["ask"], params["answer"])

        def write(connection: Connection) -> Any | None:
            if kind == "group":
                _check_owned(connection, caller, owner_id)
            most = settings.answers_per_owner
            return askanswers.put(
                connection, kind, owner_id, params["ask"], params["answer"], now_ms=_now_ms(), most=most
            )

        row = write_sql(database, write)
        if row is None:
            counts.bounds["ANSWERS_PER_OWNER"] += 1
            raise ApiError("askanswer_full")
        return ok(_shown(row))

    @blueprint.post("/api/chat/askanswer/update")
    @describe(
        "Change a question and its answer",
        access="user",
        params=UPDATE_ASKANSWER_PARAMS,
        answer=AskAnswer(),
        failures=(_INCOMPLETE, "askanswer_not_found", "askanswer_doubled"),
    )
    def post_changes() -> Response:
        caller = gatekeeper.caller()
        params = read_params(UPDATE_ASKANSWER_PARAMS)
        entry_id, ask, answer = params["id"], params["ask"], params["answer"]
        _check_given(ask, answer, is_named=bool(entry_id))

        def write(connection: Connection) -> Any:
            try:
                if not askanswers.change(connection, entry_id, caller.user_id, ask, answer, _now_ms()):
                    raise ApiError("askanswer_not_found")
            except askanswers.Doubled as error:
                raise ApiError("askanswer_doubled") from error
            return askanswers.load(connection, entry_id, caller.user_id)

        return ok(_shown(write_sql(database, write)))

    @blueprint.post("/api/chat/askanswer/delete")
    @describe(
        "Remove a question and its answer",
        access="user",
        params=ASKANSWER_PARAMS,
        answer=_REMOVED,
        failures=(_INCOMPLETE, "askanswer_not_found"),
    )
    def post_removal() -> Response:
        caller = gatekeeper.caller()
        entry_id = read_params(ASKANSWER_PARAMS)["id"]
        if not entry_id:
            raise ApiError(_INCOMPLETE)
        if not write_sql(database, lambda connection: askanswers.remove(connection, entry_id, caller.user_id)):
            raise ApiError("askanswer_not_found")
        return ok(_REMOVED)

    @blueprint.post("/api/chat/askanswer/list")
    @describe(
        "My questions with their answers, or a group's, newest first",
        access="user",
        params=ASKANSWERS_PARAMS,
        answer=many(AskAnswer),
        failures=(_INCOMPLETE, "group_not_yours"),
    )
    def post_list() -> Response:
        caller = gatekeeper.caller()
        params = read_params(ASKANSWERS_PARAMS)
        kind, owner_id = _owner(caller, params["type"], params["userId"])
        limit = params["limit"]
        offset = min((params["page"] - 1) * limit, users.MAX_ID)

        def question(connection: Connection) -> list[Any]:
            if kind == "group":
                _check_owned(connection, caller, owner_id)
            return askanswers.load_page(connection, kind, owner_id, offset, limit)

        return ok([_shown(row) for row in read_sql(database, question)])

    @blueprint.post("/api/chat/askanswer/detail")
    @describe(
        "One question with its answer",
        access="user",
        params=ASKANSWER_PARAMS,
        answer=AskAnswer(),
        failures=(_INCOMPLETE, "askanswer_not_found"),
    )
    def post_detail() -> Response:
        caller = gatekeeper.caller()
        entry_id = read_params(ASKANSWER_PARAMS)["id"]
        if not entry_id:
            raise ApiError(_INCOMPLETE)
        row = read_sql(database, lambda connection: askanswers.load(connection, entry_id, caller.user_id))
        if row is None:
            raise ApiError("askanswer_not_found")
        return ok(_shown(row))

    @blueprint.post("/api/chat/askanswer/search")
    @describe(
        "Of my questions, or a group's, the one that answers a text best",
        access="user",
        params=SEARCH_ASKANSWERS_PARAMS,
        answer=FoundAskAnswer(),
        failures=(_INCOMPLETE, "group_not_yours", "askanswer_none", "askanswer_no_match"),
    )
    def post_search() -> Response:
        caller = gatekeeper.caller()
        params = read_params(SEARCH_ASKANSWERS_PARAMS)
        kind, owner_id = _owner(caller, params["type"], params["create_userId"])
        _check_given(params["ask"])

        def question(connection: Connection) -> tuple[Any, float] | None:
            if kind == "group":
                _check_owned(connection, caller, owner_id)
            entries = askanswers.load_all(connection, kind, owner_id)
            if not entries:
                raise ApiError("askanswer_none")
            return find_match(entries, params["ask"], _now_ms())

        found = read_sql(database, question)
        if found is None:
            raise ApiError("askanswer_no_match")
        return ok(_shown(found[0]) | {"score": round(found[1], 3)})

    return blueprint


def _owner(caller: Caller, kind: str, named_id: int) -> tuple[ChatType, int]:
    """Return whose entries a request is about. Raises ApiError with askanswer_incomplete."""
    if kind == "single":
        return "single", caller.user_id
    if kind == "group" and named_id:
        return "group", named_id
    raise ApiError(_INCOMPLETE)


def _check_owned(connection: Connection, caller: Caller, group_id: int) -> None:
    """Raises ApiError with group_not_yours."""
    if group_id > groups.MAX_ID or groups.load_owner_id(connection, group_id) != caller.user_id:
        raise ApiError("group_not_yours")


def _check_given(*texts: str, is_named: bool = True) -> None:
    """Raises ApiError with askanswer_incomplete."""
    if not is_named or not all(text.strip() for text in texts):
        raise ApiError(_INCOMPLETE)


def _shown(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "ask": row.ask,
        "answer": row.answer,
        "type": row.type,
        "create_userId": row.owner_id,
        "create_time": row.created_at_ms,
        "update_time": row.updated_at_ms,
        "likeCount": row.like_count,
        "liked": False,
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
