"""Complaints (ORIG 6.6): made, changed and taken back by their authors, dealt with by administrators, who are told of it.

Text that administrators write reaches the author by a notice, which is committed with the change (`models/notices.py`).
"""

from __future__ import annotations

from typing import Any

import structlog
from flask import Blueprint, Response
from sqlalchemy import Connection

from models import complaints, notices, users
from models.database import Database
from models.requests import Request
from schemas.answers import many
from schemas.complaints import (
    COMPLAINT_PARAMS,
    COMPLAINT_QUEUE_PARAMS,
    COMPLAINTS_PARAMS,
    CREATE_COMPLAINT_PARAMS,
    HANDLE_COMPLAINT_PARAMS,
    UPDATE_COMPLAINT_PARAMS,
    Author,
    Complaint,
    ComplaintQueue,
    MadeComplaint,
    WholeComplaint,
)
from schemas.times import local_text, utc_text
from settings import Settings
from webapp import complaint_notices
from webapp.auth import Gatekeeper
from webapp.counts import counts
from webapp.errors import ApiError
from webapp.http import ok, read_params
from webapp.routes import describe
from webapp.services import read_sql, write_sql
from webapp.telling import Teller

log = structlog.get_logger()

_RETRY_SECONDS = 3_600  # people settle complaints


def make_blueprint(settings: Settings, gatekeeper: Gatekeeper, database: Database, teller: Teller) -> Blueprint:
    blueprint = Blueprint("complaints", __name__)

    @blueprint.post("/api/chat/complaint/create")
    @describe(
        "Complain about a user or a group",
        access="user",
        params=CREATE_COMPLAINT_PARAMS,
        answer=MadeComplaint(),
        failures=("complaint_incomplete", "complaint_self", "complaint_target_unknown", "too_many_complaints"),
    )
    def post_complaint() -> Response:
        caller = gatekeeper.caller()
        params = read_params(CREATE_COMPLAINT_PARAMS)
        kind, target_id = params["target_type"], params["target_id"]
        if not kind or not target_id or not params["reason"].strip():
            raise ApiError("complaint_incomplete")
        if kind == "single" and target_id == caller.user_id:
            raise ApiError("complaint_self")

        def write(connection: Connection) -> int | None:
            name = complaints.load_target_name(connection, caller.user_id, kind, target_id)
            if name is None:
                raise ApiError("complaint_target_unknown")
            given = {"images": [], "complaint_chatinfo": [], **params, "target_name": name}
            return complaints.make(connection, caller.user_id, settings.complaints_per_user, **given)

        complaint_id = write_sql(database, write)
        if complaint_id is None:
            counts.bounds["COMPLAINTS_PER_USER"] += 1
            raise ApiError("too_many_complaints", retry_after=_RETRY_SECONDS)
        log.info("complaint_made", complaint_id=complaint_id, user_id=caller.user_id)
        return ok({"id": complaint_id})

    @blueprint.get("/api/chat/complaint/list")
    @describe("My complaints, newest first", access="user", params=COMPLAINTS_PARAMS, answer=many(Complaint))
    def get_complaints() -> Response:
        caller = gatekeeper.caller()
        params = read_params(COMPLAINTS_PARAMS)
        rows = read_sql(
            database,
            lambda connection: complaints.load_own(connection, caller.user_id, _offset(params), params["limit"]),
        )
        return ok([_shown(row) for row in rows])

    @blueprint.get("/api/chat/complaint/detail/<id>")
    @describe(
        "A complaint of mine",
        access="user",
        params=COMPLAINT_PARAMS,
        answer=WholeComplaint(),
        failures=("complaint_not_found",),
    )
    def get_complaint(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(COMPLAINT_PARAMS)
        row = read_sql(database, lambda connection: complaints.load(connection, params["id"], caller.user_id))
        if row is None:
            raise ApiError("complaint_not_found")
        return ok(_shown_whole(row))

    @blueprint.post("/api/chat/complaint/update/<id>")
    @describe(
        "Change a complaint of mine that nobody has begun to handle; what is left out stays as it is",
        access="user",
        params=UPDATE_COMPLAINT_PARAMS,
        failures=("complaint_not_found", "complaint_closed"),
    )
    def post_changes(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(UPDATE_COMPLAINT_PARAMS)
        columns = {name: value for name, value in params.items() if name != "id" and value != ""}
        refusal = write_sql(
            database, lambda connection: complaints.change(connection, params["id"], caller.user_id, columns)
        )
        if refusal is not None:
            raise ApiError("complaint_not_found" if refusal == "not_found" else "complaint_closed")
        return ok("ok")

    @blueprint.post("/api/chat/complaint/delete/<id>")
    @describe(
        "Take back a complaint of mine", access="user", params=COMPLAINT_PARAMS, failures=("complaint_not_found",)
    )
    def post_withdrawal(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(COMPLAINT_PARAMS)
        if not write_sql(database, lambda connection: complaints.withdraw(connection, params["id"], caller.user_id)):
            raise ApiError("complaint_not_found")
        return ok("ok")

    @blueprint.get("/api/admin/complaints")
    @describe(
        "Complaints of a status, or all, newest first",
        access="administrator",
        params=COMPLAINT_QUEUE_PARAMS,
        answer=ComplaintQueue(),
    )
    def get_queue() -> Response:
        gatekeeper.caller()
        params = read_params(COMPLAINT_QUEUE_PARAMS)
        status = params["status"] if params["status"] >= 0 else None
        total, rows = read_sql(
            database, lambda connection: complaints.load_queue(connection, status, _offset(params), params["limit"])
        )
        return ok({"total": total, "complaints": [_shown(row) for row in rows]})

    @blueprint.get("/api/admin/complaints/<id>")
    @describe(
        "A complaint", access="administrator", params=COMPLAINT_PARAMS, answer=WholeComplaint(), failures=("not_found",)
    )
    def get_any(id: str) -> Response:
        gatekeeper.caller()
        params = read_params(COMPLAINT_PARAMS)
        row = read_sql(database, lambda connection: complaints.load(connection, params["id"]))
        if row is None:
            raise ApiError("not_found")
        return ok(_shown_whole(row))

    @blueprint.post("/api/admin/complaints/<id>/status")
    @describe(
        "Set a complaint to pending (0), in hand (1), settled (2) or closed (3), with a reply; its author is told",
        access="administrator",
        params=HANDLE_COMPLAINT_PARAMS,
        failures=("not_found",),
    )
    def post_status(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(HANDLE_COMPLAINT_PARAMS)
        complaint_id, status = params["id"], params["status"]

        def write(connection: Connection) -> list[Request]:
            complaint = complaints.lock(connection, complaint_id)
            author = users.load_person(connection, complaint.user_id) if complaint is not None else None
            if complaint is None or author is None:
                raise ApiError("not_found")
            reply = params["admin_reply"] or complaint.admin_reply
            if (status, reply) == (complaint.status, complaint.admin_reply):
                return []
            complaints.handle(connection, complaint_id, status, reply)
            told = [complaint_notices.handled(author, complaint, status, reply, settings.media_url)]
            notices.queue(connection, told)
            return told

        teller.tell(write_sql(database, write))
        log.info("complaint_status_set", administrator_id=caller.user_id, complaint_id=complaint_id, status=status)
        return ok("ok")

    return blueprint


def _offset(params: dict[str, Any]) -> int:
    return min((int(params["page"]) - 1) * int(params["limit"]), users.MAX_ID)


def _shown(row: Any) -> dict[str, Any]:
    shown = {name: getattr(row, name, None) for name in Complaint().fields}
    author = {name: getattr(row, name) for name in Author().fields} | {"id": row.user_id}
    times = {"create_time": local_text(row.create_time), "update_time": utc_text(row.update_time)}
    return shown | times | {"user": author}


def _shown_whole(row: Any) -> dict[str, Any]:
    return _shown(row) | {"complaint_chatinfo": row.complaint_chatinfo}
