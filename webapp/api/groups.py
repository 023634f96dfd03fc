"""Groups: muting a member or everybody (contract section 6)."""

from __future__ import annotations

from flask import Blueprint, Response, request

from models import groups
from models.database import Database
from schemas.relations import GROUP_MUTE_PARAMS
from webapp.auth import Gatekeeper, token_of
from webapp.errors import ApiError
from webapp.http import ok, read_body
from webapp.services import offload


def make_blueprint(gatekeeper: Gatekeeper, database: Database) -> Blueprint:
    blueprint = Blueprint("groups", __name__)

    @blueprint.post("/api/chat/groupMute")
    def post_mute() -> Response:
        caller = gatekeeper.admit(token_of(request))
        params = GROUP_MUTE_PARAMS.read(request.args, read_body())
        group_id, user_id, until_ms = params["group_id"], params["user_id"], params["until"]

        def write() -> str | None:
            with database.writing() as connection:
                owner_id = groups.load_owner_id(connection, group_id)
                # To those outside the group it does not exist.
                if owner_id is None or not groups.is_member(connection, group_id, caller.user_id):
                    return "not_found"
                if owner_id != caller.user_id:
                    return "not_owner"
                if user_id == 0:
                    groups.mute_all(connection, group_id, until_ms)
                    return None
                return None if groups.mute_member(connection, group_id, user_id, until_ms) else "not_found"

        refusal = offload(database, write)
        if refusal is not None:
            raise ApiError(refusal)
        return ok("ok")

    return blueprint
