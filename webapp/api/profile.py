"""Profiles and settings: what others see of a user, whom he lets write to him, and finding users (ORIG 6.2)."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response
from marshmallow import fields
from sqlalchemy import Connection

from models import friendships, notices, profiles, users
from models.database import Database
from models.requests import Request
from models.users import ACTIVE, Person
from schemas.answers import many, one_of
from schemas.params import Fault, InvalidParams
from schemas.profile import (
    GENDERS,
    PROFILE_FIELDS,
    PUBLIC_PROFILE_PARAMS,
    SEARCH_USER_PARAMS,
    UPDATE_PARAMS,
    USER_SET_INFO_PARAMS,
    USERSET_PARAMS,
    FoundUser,
    PublicProfile,
    UserSetInfo,
    is_address,
    merge_settings,
    read_birthday,
    read_settings,
    settings_for_others,
)
from schemas.times import utc_text
from settings import Settings
from webapp import friend_notices
from webapp.auth import Gatekeeper
from webapp.errors import ApiError
from webapp.http import ok, read_params
from webapp.routes import describe
from webapp.services import read_sql, write_sql
from webapp.telling import Teller

_MOST_FOUND = 50
_MAX_NICKNAME, _MAX_AVATAR = 30, 1_000
_MAX_TEXTS = {"bio": 200, "location": 100, "website": 255}
_VALUE_LABEL = "修改结果"


def make_blueprint(settings: Settings, gatekeeper: Gatekeeper, database: Database, teller: Teller) -> Blueprint:
    blueprint = Blueprint("profile", __name__)

    @blueprint.get("/api/userinfo/<uuid>")
    @describe(
        "A user as anybody may see him; null where there is none",
        access="anyone",
        params=PUBLIC_PROFILE_PARAMS,
        answer=fields.Nested(PublicProfile, allow_none=True),
    )
    def get_public_profile(uuid: str) -> Response:
        params = read_params(PUBLIC_PROFILE_PARAMS)

        def load(connection: Connection) -> tuple[Person | None, Any, str]:
            person = users.load_person_by_uuid(connection, params["uuid"])
            if person is None:
                return None, None, ""
            userset = users.load_userset(connection, person.id) if settings.shows_public_ids else ""
            return person, profiles.load(connection, person.id), userset

        person, userinfo, userset = read_sql(database, load)
        if person is None or person.status != ACTIVE:
            return ok(None)
        shown = {name: getattr(person, name) for name in ("uuid", "username", "nickname", "avatar", "role")}
        if settings.shows_public_ids:
            shown |= {"id": person.id, "userset": settings_for_others(userset)}
        return ok(shown | {"userinfo": None if userinfo is None else shown_userinfo(userinfo)})

    @blueprint.post("/api/chat/searchUser")
    @describe(
        "Find users by a part of their username", access="user", params=SEARCH_USER_PARAMS, answer=many(FoundUser)
    )
    def post_search() -> Response:
        caller = gatekeeper.caller()
        params = read_params(SEARCH_USER_PARAMS)

        found = read_sql(
            database, lambda connection: users.search(connection, caller.user_id, params["keyword"], _MOST_FOUND)
        )
        return ok([{name: getattr(person, name) for name in FoundUser().fields} for person in found])

    @blueprint.post("/api/chat/userset")
    @describe("Change my settings, key by key", access="visitor", params=USERSET_PARAMS)
    def post_settings() -> Response:
        caller = gatekeeper.caller()
        given = read_settings(read_params(USERSET_PARAMS)["userset"])

        def write(connection: Connection) -> None:
            # Locked, so that two pages that save at the same time both count (E22).
            users.lock(connection, caller.user_id)
            stored = users.load_userset(connection, caller.user_id)
            users.change(connection, caller.user_id, userset=merge_settings(stored, given))

        write_sql(database, write)
        return ok("ok")

    @blueprint.post("/api/chat/getUserSetInfo")
    @describe(
        "How a user lets others write to him and befriend him",
        access="visitor",
        params=USER_SET_INFO_PARAMS,
        answer=UserSetInfo(),
        failures=("user_not_addable",),
    )
    def post_set_info() -> Response:
        caller = gatekeeper.caller()
        user_id = read_params(USER_SET_INFO_PARAMS)["userid"]

        def load(connection: Connection) -> tuple[Person | None, str, Any]:
            person = users.load_person(connection, user_id)
            if person is None:
                return None, "", None
            return (
                person,
                users.load_userset(connection, person.id),
                friendships.load(connection, person.id, caller.user_id),
            )

        person, userset, row = read_sql(database, load)
        if person is None or person.status != ACTIVE or person.role != "user":
            raise ApiError("user_not_addable")
        return ok(
            {
                "id": person.id,
                "userset": userset if person.id == caller.user_id else settings_for_others(userset),
                "invite_confirm": person.invite_confirm,
                "uuid": person.uuid,
                "isgoodfriend": row is not None,
                "isgoodfriend_status": row is None or (not row.isblack and row.status == ACTIVE),
            }
        )

    @blueprint.post("/api/chat/updateUserinfo")
    @describe(
        "Change one field of my profile",
        access="visitor",
        params=UPDATE_PARAMS,
        answer=one_of("修改昵称成功", "头像更新成功", "设置成功"),
        failures=(
            "username_fixed",
            "nickname_too_long",
            "avatar_too_long",
            "invite_confirm_invalid",
            "profile_missing",
        ),
    )
    def post_update() -> Response:
        caller = gatekeeper.caller()
        params = read_params(UPDATE_PARAMS)
        name, given = params["fieldname"], params["fieldValue"]
        value = _checked(name, given)

        def write(connection: Connection) -> list[Request]:
            me = users.lock(connection, caller.user_id).get(caller.user_id)
            if me is None:
                raise ApiError("profile_missing")
            if name in PROFILE_FIELDS:
                profiles.change(connection, caller.user_id, **{name: value})
                return []
            users.change(connection, caller.user_id, **{name: value})
            told = [friend_notices.new_avatar(me, given)] if name == "avatar" else []
            if told:
                notices.queue(connection, told)
            return told

        teller.tell(write_sql(database, write))
        return ok({"nickname": "修改昵称成功", "avatar": "头像更新成功"}.get(name, "设置成功"))

    return blueprint


def shown_userinfo(row: Any) -> dict[str, Any]:
    """Show what a user says of himself, without the row's id."""
    return {
        "gender": row.gender,
        "birthday": utc_text(row.birthday) if row.birthday is not None else None,
        "bio": row.bio,
        "location": row.location,
        "website": row.website,
    }


def _fault(text: str, en: str) -> InvalidParams:
    return InvalidParams("fieldValue", Fault(f"{_VALUE_LABEL} {text}", f"`fieldValue` {en}"))


def _checked(name: str, given: str) -> Any:
    """Return the value for a field of the profile. Raises ApiError with ORIG's refusals; InvalidParams."""
    if name == "username":
        raise ApiError("username_fixed")
    if name == "nickname" and len(given) > _MAX_NICKNAME:
        raise ApiError("nickname_too_long")
    if name == "avatar" and len(given) > _MAX_AVATAR:
        raise ApiError("avatar_too_long")
    if name == "invite_confirm":
        if given not in ("0", "1"):
            raise ApiError("invite_confirm_invalid")
        return int(given)
    if name == "avatar" and not is_address(given, is_path_allowed=True):
        raise _fault(
            "的值必须是 http(s) 链接或者以 / 开头的路径", "must be an http(s) address or a path that begins with /"
        )
    if name == "gender" and given not in GENDERS:
        choices = "、".join(f"`{gender}`" for gender in GENDERS)
        raise _fault(
            f"的值 `{given[:100]}` 必须在 [{choices}] 中", f"is `{given[:100]}`, which is none of {', '.join(GENDERS)}"
        )
    if name in _MAX_TEXTS and len(given) > _MAX_TEXTS[name]:
        raise _fault(f"的长度 必须 在 1 和 {_MAX_TEXTS[name]} 之间", f"must have 1 to {_MAX_TEXTS[name]} characters")
    if name == "website" and not is_address(given):
        raise _fault("的值必须是 http(s) 链接", "must be an http(s) address")
    if name == "birthday":
        birthday = read_birthday(given)
        if birthday is None:
            raise _fault("的值必须是 YYYY-MM-DD 形式的日期", "must be a date: YYYY-MM-DD")
        return birthday
    return given
