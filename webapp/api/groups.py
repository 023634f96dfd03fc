"""Groups: making them, coming in, leaving, and what their owners change (ORIG 6.4, contract section 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import gevent
from flask import Blueprint, Response, request
from sqlalchemy import Connection

from models import groups, memberships, notices
from models.database import Database
from models.memberships import Change, Joining, Leaving, Refusal, Rules
from models.requests import Request
from models.users import ACTIVE
from schemas import groups as schemas
from schemas.params import Fault, InvalidParams
from schemas.times import local_text, utc_text
from settings import Settings
from webapp import qr
from webapp.auth import Gatekeeper
from webapp.errors import REWORDED, ApiError
from webapp.group_notices import GroupNotices
from webapp.http import ok, read_body, read_params
from webapp.language import language_of_request
from webapp.routes import describe
from webapp.services import read_sql, write_sql
from webapp.telling import Teller

Done = TypeVar("Done", Change, Joining, Leaving)

_OWNER = ("not_owner", "owner_not_member")


def make_blueprint(settings: Settings, gatekeeper: Gatekeeper, database: Database, teller: Teller) -> Blueprint:
    blueprint = Blueprint("groups", __name__)
    rules = Rules(settings.group_max_members, f"{settings.media_url}user.jpg")
    say = GroupNotices(settings.media_url)

    def refuse(code: Refusal, texts: Mapping[str, str] | None) -> ApiError:
        """texts: where ORIG words a refusal differently on this route."""
        text = (texts or {}).get(code)
        return ApiError(code, text if language_of_request(settings.language) == "zh" else None)

    def change(
        operation: Callable[[Connection], Done | Refusal],
        tell: Callable[[Done], Sequence[Request]],
        texts: Mapping[str, str] | None = None,
    ) -> Done:
        """Change something and tell of it, both or neither. Raises ApiError with the refusal."""

        def run(connection: Connection) -> tuple[Done | Refusal, Sequence[Request]]:
            done = operation(connection)
            if isinstance(done, Refusal):
                return done, ()
            told = tell(done)
            if told:
                notices.queue(connection, told)
            return done, told

        done, told = write_sql(database, run)
        if isinstance(done, Refusal):
            raise refuse(done, texts)
        teller.tell(told)
        return done

    def change_quietly(operation: Callable[[Connection], Refusal | None], texts: Mapping[str, str]) -> None:
        """Change something that nobody is told of. Raises ApiError with the refusal."""

        refusal = write_sql(database, operation)
        if refusal is not None:
            raise refuse(refusal, texts)

    @blueprint.post("/api/chat/group/create")
    @describe(
        "Make a group with friends",
        access="user",
        params=schemas.CREATE_PARAMS,
        failures=("no_members_chosen", "members_unavailable", "group_full"),
    )
    def post_create() -> Response:
        caller = gatekeeper.caller()
        row_ids = _read_row_ids()
        change(lambda connection: memberships.create(connection, caller.user_id, row_ids, rules), say.created)
        return ok("ok")

    @blueprint.get("/api/chat/grouplist/<page>")
    @describe("My groups", access="visitor", params=schemas.PAGE_PARAMS, answer=schemas.LISTED_GROUPS)
    def get_groups(page: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(schemas.PAGE_PARAMS)
        limit = params["limit"]
        offset = min((params["page"] - 1) * limit, groups.MAX_ID)

        found = read_sql(
            database, lambda connection: memberships.load_groups_of(connection, caller.user_id, offset, limit)
        )
        return ok([_group(row) | {"group_users": [_my_membership(mine)]} for row, mine in found])

    @blueprint.get("/api/chat/groupinfo/<id>")
    @describe(
        "A group: to members with its members, to others in short",
        access="visitor",
        params=schemas.GROUP_ID_PARAMS,
        answer=schemas.GROUP_INFO,
        failures=("group_not_open",),
    )
    def get_group(id: str) -> Response:
        caller = gatekeeper.caller()
        group_id = read_params(schemas.GROUP_ID_PARAMS)["id"]

        info = read_sql(database, lambda connection: _load_info(connection, group_id, caller.user_id))
        if info is None:
            raise ApiError("group_not_open")
        return ok(info)

    @blueprint.post("/api/chat/groupUpdateName")
    @describe("Rename my group", access="user", params=schemas.NAME_PARAMS, failures=_OWNER)
    def post_name() -> Response:
        caller = gatekeeper.caller()
        params = read_params(schemas.NAME_PARAMS)
        change(
            lambda connection: memberships.rename(connection, params["id"], caller.user_id, params["name"]),
            say.renamed,
            REWORDED["groupUpdateName"],
        )
        return ok("ok")

    @blueprint.post("/api/chat/groupremark")
    @describe("Write my group's announcement", access="user", params=schemas.REMARK_PARAMS, failures=_OWNER)
    def post_remark() -> Response:
        caller = gatekeeper.caller()
        params = read_params(schemas.REMARK_PARAMS)
        change(
            lambda connection: memberships.announce(connection, params["id"], caller.user_id, params["remark"]),
            say.announced,
            REWORDED["groupremark"],
        )
        return ok("ok")

    @blueprint.post("/api/chat/groupDeleteUser")
    @describe(
        "Put a member out of my group",
        access="user",
        params=schemas.MEMBER_PARAMS,
        answer="删除群成员成功",
        failures=(*_OWNER, "owner_not_removable", "member_not_found"),
    )
    def post_removal() -> Response:
        caller = gatekeeper.caller()
        params = read_params(schemas.MEMBER_PARAMS)
        group_id, user_id = params["group_id"], params["user_id"]
        change(
            lambda connection: memberships.remove_member(connection, group_id, caller.user_id, user_id, rules),
            say.removed,
        )
        return ok("删除群成员成功")

    @blueprint.post("/api/chat/groupAddUserSet")
    @describe(
        "Say who may join my group: 0 everybody, 1 whom I agree to, 2 everybody who has logged in",
        access="user",
        params=schemas.JOINING_MODE_PARAMS,
        answer="设置成功",
        failures=(*_OWNER, "group_not_yours"),
    )
    def post_joining_mode() -> Response:
        caller = gatekeeper.caller()
        params = read_params(schemas.JOINING_MODE_PARAMS)
        group_id, mode = params["group_id"], params["addGroupSet"]
        change_quietly(
            lambda connection: memberships.set_joining(connection, group_id, caller.user_id, mode),
            REWORDED["groupAddUserSet"],
        )
        return ok("设置成功")

    @blueprint.post("/api/chat/groupInviteUser")
    @describe(
        "Join a group, or invite a friend to one of mine",
        access="visitor",
        params=schemas.INVITE_PARAMS,
        answer=schemas.JOINED_OR_WAITING,
        failures=(
            "group_not_joinable",
            "not_in_group",
            "not_friend_of_inviter",
            "joiner_unavailable",
            "application_pending",
            "already_member",
            "login_to_join",
            "group_full",
        ),
    )
    def post_invitation() -> Response:
        caller = gatekeeper.caller()
        params = read_params(schemas.INVITE_PARAMS)
        joining = change(
            lambda connection: memberships.bring_in(
                connection, params["group_id"], caller.user_id, caller.role, params["user_id"], rules
            ),
            lambda joining: say.came_in(joining, params["addGroupDesc"]),
        )
        return ok(schemas.WAITING if joining.is_pending else schemas.JOINED)

    @blueprint.post("/api/chat/groupAgreeOrNo")
    @describe(
        "Let an applicant into my group, or refuse him",
        access="user",
        params=schemas.ANSWER_APPLICANT_PARAMS,
        answer="处理成功",
        failures=(*_OWNER, "group_not_yours", "no_application", "applicant_unavailable", "group_full"),
    )
    def post_applicant_answer() -> Response:
        caller = gatekeeper.caller()
        params = read_params(schemas.ANSWER_APPLICANT_PARAMS)
        group_id, user_id, is_agreed = params["group_id"], params["user_id"], params["type"] == "agree"
        change(
            lambda connection: memberships.answer_applicant(
                connection, group_id, caller.user_id, user_id, rules, is_agreed=is_agreed
            ),
            lambda answered: say.answered(answered, is_agreed=is_agreed),
            REWORDED["groupAgreeOrNo"],
        )
        return ok("处理成功")

    @blueprint.post("/api/chat/groupnickname")
    @describe("Choose my name in a group", access="visitor", params=schemas.NICKNAME_PARAMS, failures=("not_in_group",))
    def post_nickname() -> Response:
        caller = gatekeeper.caller()
        params = read_params(schemas.NICKNAME_PARAMS)
        change_quietly(
            lambda connection: memberships.set_nickname(connection, params["id"], caller.user_id, params["nickname"]),
            REWORDED["groupnickname"],
        )
        return ok("ok")

    @blueprint.post("/api/chat/groupDeleteOrQuit")
    @describe(
        "Leave a group, take my wish to join back, or dissolve my group",
        access="visitor",
        params=schemas.GROUP_ID_PARAMS,
        failures=("group_not_found", "not_in_group"),
    )
    def post_leaving() -> Response:
        caller = gatekeeper.caller()
        group_id = read_params(schemas.GROUP_ID_PARAMS)["id"]
        change(lambda connection: memberships.leave(connection, group_id, caller.user_id, rules), say.left)
        return ok("ok")

    @blueprint.get("/api/chat/groupQrcode/<id>")
    @describe(
        "A QR code that leads to a group of mine or to a user",
        access="visitor",
        params=schemas.QRCODE_PARAMS,
        answer=None,
        media="image/png",
        failures=("group_not_shown", "user_not_shown"),
    )
    def get_qrcode(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(schemas.QRCODE_PARAMS)
        subject_id, chat_type, address = params["id"], params["chatType"], params["http"]
        is_link = params["type"] == "H5" and bool(address)
        if is_link and not qr.is_allowed(address, settings.allowed_origins, request.host):
            raise InvalidParams(
                "http",
                Fault(
                    f"页面地址 的值 `{address}` 不是允许的来源", f"`http` is `{address}`, which is no allowed origin"
                ),
            )

        def load(connection: Connection) -> tuple[str, str] | None:
            if chat_type == "group":
                return _load_group_card(connection, subject_id, caller.user_id)
            person = memberships.load_person(connection, None, subject_id)
            return (person.name, person.avatar) if person is not None and person.status == ACTIVE else None

        found = read_sql(database, load)
        if found is None:
            raise ApiError("group_not_shown" if chat_type == "group" else "user_not_shown")
        name, avatar = found
        text = qr.link(address, chat_type, subject_id, name, avatar) if is_link else qr.card(subject_id, name)
        # In a native thread, where it leaves the others of this process their turn.
        picture = gevent.get_hub().threadpool.apply(qr.picture, (text,))
        return Response(picture, mimetype="image/png", headers={"Cache-Control": "private, no-store"})

    @blueprint.post("/api/chat/groupTransfer")
    @describe(
        "Give my group to another member",
        access="user",
        params=schemas.MEMBER_PARAMS,
        failures=(*_OWNER, "not_found", "visitor_owner"),
    )
    def post_transfer() -> Response:
        caller = gatekeeper.caller()
        params = read_params(schemas.MEMBER_PARAMS)
        group_id, user_id = params["group_id"], params["user_id"]
        change(lambda connection: memberships.transfer(connection, group_id, caller.user_id, user_id), say.transferred)
        return ok("ok")

    @blueprint.post("/api/chat/groupMute")
    @describe(
        "Mute a member of my group, or with user 0 everybody",
        access="user",
        params=schemas.GROUP_MUTE_PARAMS,
        failures=(*_OWNER, "not_found"),
    )
    def post_mute() -> Response:
        caller = gatekeeper.caller()
        params = read_params(schemas.GROUP_MUTE_PARAMS)
        group_id, user_id, until_ms = params["group_id"], params["user_id"], params["until"]
        change_quietly(lambda connection: memberships.mute(connection, group_id, caller.user_id, user_id, until_ms), {})
        return ok("ok")

    return blueprint


def _read_row_ids() -> list[int]:
    """Read `userIds`, which a form gives as one text, or once for each id, also as `userIds[]`. Raises InvalidParams."""
    body = read_body()
    sources = [source.getlist(name) for name in ("userIds", "userIds[]") for source in (request.form, request.args)]
    repeated = next(filter(None, sources), [])
    is_list = len(repeated) > 1 or (len(repeated) == 1 and repeated[0].isdecimal())  # else the text of a list
    given = {"userIds": repeated} if is_list else {}
    row_ids: list[int] = schemas.CREATE_PARAMS.read(request.args, body, given)["userIds"]
    return row_ids


def _load_info(connection: Connection, group_id: int, viewer_id: int) -> dict[str, Any] | None:
    """Return what a viewer is told of a group (F17).

    Others see no members, in a list that is empty: the original's page where one joins looks for oneself in it, and goes
    back where there is none.
    """
    row = memberships.load_open_group(connection, group_id)
    owner = memberships.load_owner(connection, row.user_id) if row is not None else None
    if row is None or owner is None:
        return None
    summary = asdict(groups.load_summary(connection, group_id)) | {"user": dict(owner._mapping)}
    if not groups.is_member(connection, group_id, viewer_id):
        return summary | {"group_users": []}
    members = memberships.load_members(connection, group_id)
    return summary | _group(row) | {"group_users": [_member(member) for member in members]}


def _load_group_card(connection: Connection, group_id: int, viewer_id: int) -> tuple[str, str] | None:
    row = memberships.load_open_group(connection, group_id)
    if row is None or not groups.is_member(connection, group_id, viewer_id):
        return None
    return row.name, row.avatar


def _group(row: Any) -> dict[str, Any]:
    return {
        "create_time": local_text(row.create_time),
        "id": row.id,
        "uuid": row.uuid,
        "user_id": row.user_id,
        "name": row.name,
        "avatar": row.avatar,
        "remark": row.remark,
        "invite_confirm": row.invite_confirm,
        "status": row.status,
        "order": row.order,
        "update_time": utc_text(row.update_time),
    }


def _my_membership(row: Any) -> dict[str, Any]:
    return {
        "group_id": row.group_id,
        "user_id": row.user_id,
        "nickname": row.nickname or row.account_nickname or row.username,
        "avatar": row.avatar or row.account_avatar,
    }


def _member(row: Any) -> dict[str, Any]:
    account = {
        "id": row.user_id,
        "username": row.username,
        "avatar": row.account_avatar,
        "nickname": row.account_nickname,
        "uuid": row.uuid,
        "role": row.role,
    }
    return {"id": row.id, **_my_membership(row), "status": row.status, "order": row.order, "user": account}
