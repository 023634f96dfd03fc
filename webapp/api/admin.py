"""What administrators may do: disable and enable users, friend rows and groups (contract section 3).

To everybody else these routes do not exist. Who did what to whom is logged.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from flask import Blueprint, Response
from sqlalchemy import Connection

from models import administration
from models.database import Database
from models.users import ACTIVE
from schemas.admin import GROUP_STATUS_PARAMS, RELATION_STATUS_PARAMS, USER_STATUS_PARAMS
from webapp.auth import Gatekeeper
from webapp.errors import ApiError
from webapp.http import ok, read_params
from webapp.routes import describe
from webapp.services import write_sql
from webapp.session_ends import SessionEnds

log = structlog.get_logger()


def make_blueprint(gatekeeper: Gatekeeper, database: Database, session_ends: SessionEnds) -> Blueprint:
    blueprint = Blueprint("admin", __name__)

    def change(operation: Callable[[Connection], bool]) -> None:
        """Run a change as one transaction. Raises ApiError with not_found."""

        if not write_sql(database, operation):
            raise ApiError("not_found")

    @blueprint.post("/api/admin/users/<id>/status")
    @describe(
        "Disable (0), enable (1) or lock (2) a user; disabling or locking ends his sessions and closes his sockets",
        access="administrator",
        params=USER_STATUS_PARAMS,
        failures=("not_found", "cannot_disable_self"),
    )
    def post_user_status(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(USER_STATUS_PARAMS)
        user_id, status = params["id"], params["status"]
        if user_id == caller.user_id and status != ACTIVE:
            raise ApiError("cannot_disable_self")
        change(lambda connection: administration.set_user_status(connection, user_id, status))
        log.info("user_status_set", administrator_id=caller.user_id, user_id=user_id, status=status)
        if status != ACTIVE:
            # Whatever the status was before: repeating it completes what a Redis that did not answer left undone.
            session_ends.end_all(user_id, "disabled")
        return ok("ok")

    @blueprint.post("/api/admin/relations/status")
    @describe(
        "Disable (0), enable (1) or lock (2) one side of a friendship: the row in which user_id lists friend_id",
        access="administrator",
        params=RELATION_STATUS_PARAMS,
        failures=("not_found",),
    )
    def post_relation_status() -> Response:
        caller = gatekeeper.caller()
        params = read_params(RELATION_STATUS_PARAMS)
        owner_id, friend_id, status = params["user_id"], params["friend_id"], params["status"]
        change(lambda connection: administration.set_relation_status(connection, owner_id, friend_id, status))
        log.info(
            "relation_status_set",
            administrator_id=caller.user_id,
            user_id=owner_id,
            friend_id=friend_id,
            status=status,
        )
        return ok("ok")

    @blueprint.post("/api/admin/groups/<id>/status")
    @describe(
        "Disable (0), enable (1) or lock (2) a group",
        access="administrator",
        params=GROUP_STATUS_PARAMS,
        failures=("not_found",),
    )
    def post_group_status(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(GROUP_STATUS_PARAMS)
        group_id, status = params["id"], params["status"]
        change(lambda connection: administration.set_group_status(connection, group_id, status))
        log.info("group_status_set", administrator_id=caller.user_id, group_id=group_id, status=status)
        return ok("ok")

    return blueprint
