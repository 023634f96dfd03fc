"""Friends and friend applications (ORIG 6.3): who asks, who agrees, what each keeps about the other, and how it ends.

Each change runs in one transaction that has locked both users, so parallel requests come one after the other (F1); what
it tells is queued there and told after the commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from itertools import groupby
from typing import Any

from flask import Blueprint, Response
from sqlalchemy import Connection

from models import applications, blocks, first_contacts, friendships, notices, profiles, users
from models.database import Database
from models.requests import Request
from models.users import ACTIVE, Person, now_utc
from schemas.friends import (
    APPLICANT_PARAMS,
    APPLICATIONS_PARAMS,
    APPLY_PARAMS,
    AUTO_ADD_PARAMS,
    BLACK_PARAMS,
    FELLOW_PARAMS,
    FRIEND_PARAMS,
    FRIENDS_PARAMS,
    HANDLE_PARAMS,
    REMARK_PARAMS,
    STAR_PARAMS,
    VISIBILITY_PARAMS,
    Application,
    Applications,
    Friend,
    FriendRow,
    Friends,
)
from schemas.times import local_text, utc_text
from webapp import friend_notices
from webapp.api.profile import shown_userinfo
from webapp.auth import Gatekeeper
from webapp.errors import ApiError
from webapp.http import ok, read_params
from webapp.routes import describe
from webapp.services import read_sql, write_sql
from webapp.telling import Teller

AUTOMATIC_MAX = 20  # friendships that a user may make within an hour without asking (contract section 6)
COOLDOWN = timedelta(days=1)  # before somebody who was refused may ask again (F5)
_NO_OFFSET_BEYOND = 2_147_483_647


@dataclass(frozen=True, slots=True)
class _Asked:
    """Two users, one of whom wants to become the other's friend."""

    user: Person
    target: Person


def make_blueprint(
    gatekeeper: Gatekeeper,
    database: Database,
    teller: Teller,
    media_url: str,
    befriended: Callable[[int, int], None],
) -> Blueprint:
    """befriended: is told who have become friends, and must not block."""
    blueprint = Blueprint("friends", __name__)

    def change(write: Callable[[Connection], list[Request]]) -> list[Request]:
        """Run a change in one transaction, tell what it returns, and return it. An ApiError that it raises undoes it."""

        def run(connection: Connection) -> list[Request]:
            told = write(connection)
            if told:
                notices.queue(connection, told)
            return told

        told = write_sql(database, run)
        teller.tell(told)
        return told

    def befriend(write: Callable[[Connection], list[Request]]) -> None:
        """Run a change whose notices, if any, tell two that they are friends."""
        for notice in change(write):
            befriended(notice.sender_id, notice.to_id)

    @blueprint.post("/api/chat/applyfriend")
    @describe(
        "Ask a user to become friends",
        access="visitor",
        params=APPLY_PARAMS,
        failures=(
            "add_self",
            "target_unavailable",
            "already_applied",
            "already_friends",
            "application_blocked",
            "target_blocked",
            "application_cooldown",
        ),
    )
    def post_application() -> Response:
        caller = gatekeeper.caller()
        params = read_params(APPLY_PARAMS)

        def write(connection: Connection) -> list[Request]:
            asked = _lock_asked(connection, caller.user_id, params["friend_id"])
            if applications.load_pending(connection, asked.user.id, asked.target.id) is not None:
                raise ApiError("already_applied")
            _check_application(connection, asked)
            applications.insert(connection, asked.user.id, asked.target.id, params["nickname"], "pending")
            return [friend_notices.application(asked.user, asked.target, media_url)]

        change(write)
        return ok("ok")

    @blueprint.get("/api/chat/listapplyfriend/<page>")
    @describe("Applications to me, newest first", access="user", params=APPLICATIONS_PARAMS, answer=Applications())
    def get_applications(page: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(APPLICATIONS_PARAMS)

        def question(connection: Connection) -> tuple[list[Any], int]:
            rows = applications.load_page(connection, caller.user_id, _offset(params), params["limit"])
            return rows, applications.count_pending(connection, caller.user_id)

        rows, pending_count = read_sql(database, question)
        return ok({"alldata": [_shown_listed(row) for row in rows], "pendingCount": pending_count})

    @blueprint.post("/api/chat/isApplyfriend/<uuid>")
    @describe(
        "The application of a user to me that waits for an answer",
        access="user",
        params=APPLICANT_PARAMS,
        answer=Application(),
        failures=("user_not_found", "application_not_found"),
    )
    def post_is_application(uuid: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(APPLICANT_PARAMS)

        def question(connection: Connection) -> Any:
            applicant = users.load_person_by_uuid(connection, params["uuid"])
            if applicant is None:
                raise ApiError("user_not_found")
            return applications.load_pending(connection, applicant.id, caller.user_id)

        row = read_sql(database, question)
        if row is None:
            raise ApiError("application_not_found")
        return ok(_shown_application(row))

    @blueprint.post("/api/chat/handleapply/<id>")
    @describe("Answer an application to me", access="user", params=HANDLE_PARAMS, failures=("application_closed",))
    def post_answer(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(HANDLE_PARAMS)

        def write(connection: Connection) -> list[Request]:
            found = applications.load(connection, params["id"])
            if found is None or found.friend_id != caller.user_id:
                raise ApiError("application_closed")
            people = users.lock(connection, caller.user_id, found.user_id)
            if not applications.decide(connection, found.id, params["status"]):
                raise ApiError("application_closed")
            if params["status"] != "agree":
                return []
            me, applicant = people[caller.user_id], people[found.user_id]
            return [_befriend(connection, me, applicant, remark=params["nickname"], other_remark=me.nickname)]

        befriend(write)
        return ok("ok")

    @blueprint.post("/api/chat/autoAddFriendAndAgree")
    @describe(
        "Become a user's friend where he does not want to be asked",
        access="visitor",
        params=AUTO_ADD_PARAMS,
        failures=(
            "add_self",
            "target_unavailable",
            "approval_required",
            "already_applied",
            "already_friends",
            "application_blocked",
            "target_blocked",
            "application_cooldown",
            "too_many_friends",
        ),
    )
    def post_automatic() -> Response:
        caller = gatekeeper.caller()
        params = read_params(AUTO_ADD_PARAMS)

        def write(connection: Connection) -> list[Request]:
            asked = _lock_asked(connection, caller.user_id, params["friend_id"])
            if asked.target.invite_confirm != 0:
                raise ApiError("approval_required")
            _check_application(connection, asked)
            _check_rate(connection, asked.user.id)
            # F4: what has waited for an answer needs none any more, and is settled with the rest.
            if applications.load_pending(connection, asked.user.id, asked.target.id) is None:
                applications.insert(connection, asked.user.id, asked.target.id, params["nickname"], "agree")
            applications.note_automatic(connection, asked.user.id, asked.target.id)
            return [_befriend(connection, asked.user, asked.target, remark="", other_remark=asked.user.nickname)]

        befriend(write)
        return ok("ok")

    @blueprint.get("/api/chat/goodfriendlist/<page>")
    @describe("My friends, by the initial of their names", access="user", params=FRIENDS_PARAMS, answer=Friends())
    def get_friends(page: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(FRIENDS_PARAMS)

        def question(connection: Connection) -> tuple[int, list[Any]]:
            return friendships.load_page(connection, caller.user_id, _offset(params), params["limit"])

        count, rows = read_sql(database, question)
        return ok({"count": count, "rows": _by_initial(rows) if rows else []})

    @blueprint.get("/api/chat/getgoodfriendinfo/<id>")
    @describe("A friend of mine", access="user", params=FRIEND_PARAMS, answer=Friend(), failures=("friend_not_found",))
    def get_friend(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(FRIEND_PARAMS)

        def question(connection: Connection) -> tuple[Any, Person | None, Any]:
            row = friendships.load(connection, caller.user_id, params["id"])
            if row is None:
                raise ApiError("friend_not_found")
            return row, users.load_person(connection, row.friend_id), profiles.load(connection, row.friend_id)

        row, friend, userinfo = read_sql(database, question)
        if friend is None:
            raise ApiError("friend_not_found")
        return ok(
            {
                "id": row.id,
                "user_id": row.user_id,
                "friend_id": row.friend_id,
                "nickname": row.nickname,
                "friendinfo": {
                    "id": friend.id,
                    "username": friend.username,
                    "avatar": friend.avatar,
                    "nickname": friend.nickname,
                    "role": friend.role,
                    "status": friend.status,
                    "userinfo": None if userinfo is None else {"id": userinfo.id, **shown_userinfo(userinfo)},
                },
            }
        )

    @blueprint.post("/api/chat/ismygoodfriend/<id>")
    @describe(
        "Whether a user is a friend of mine whom I have not blocked",
        access="visitor",
        params=FELLOW_PARAMS,
        answer=FriendRow(),
        failures=("not_friend",),
    )
    def post_is_friend(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(FELLOW_PARAMS)
        row = read_sql(database, lambda connection: friendships.load(connection, caller.user_id, params["id"]))
        if row is None or row.isblack:
            raise ApiError("not_friend")
        return ok({name: getattr(row, name) for name in FriendRow().fields})

    @blueprint.post("/api/chat/setblackgoodfriend/<id>")
    @describe(
        "Block a friend or lift it: `isblack`, or without it the other way round",
        access="user",
        params=BLACK_PARAMS,
        failures=("friend_not_found",),
    )
    def post_black(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(BLACK_PARAMS)

        def write(connection: Connection) -> list[Request]:
            users.lock(connection, caller.user_id)
            row = friendships.load(connection, caller.user_id, params["id"])
            if row is None:
                raise ApiError("friend_not_found")
            is_black = params["isblack"] == "1" if params["isblack"] else not row.isblack
            if is_black:
                blocks.block(connection, caller.user_id, row.friend_id, _now_ms())
            else:
                blocks.unblock(connection, caller.user_id, row.friend_id)
            return []

        change(write)
        return ok("ok")

    @blueprint.post("/api/chat/setstargoodfriend/<id>")
    @describe(
        "Mark a friend with a star or take it away: `ismystarfriend`, or without it the other way round",
        access="user",
        params=STAR_PARAMS,
        failures=("friend_unavailable",),
    )
    def post_star(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(STAR_PARAMS)
        target = int(params["ismystarfriend"]) if params["ismystarfriend"] else None

        def write(connection: Connection) -> list[Request]:
            if not friendships.set_star(connection, caller.user_id, params["id"], target):
                raise ApiError("friend_unavailable")
            return []

        change(write)
        return ok("ok")

    @blueprint.post("/api/chat/setmeOrfriendCanSee/<id>")
    @describe(
        "Say who of us two sees whose feed",
        access="user",
        params=VISIBILITY_PARAMS,
        failures=("friend_unavailable",),
    )
    def post_visibility(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(VISIBILITY_PARAMS)
        views = int(params["friendlookme"]), int(params["melookfriend"])

        def write(connection: Connection) -> list[Request]:
            if not friendships.set_visibility(connection, caller.user_id, params["id"], *views):
                raise ApiError("friend_unavailable")
            return []

        change(write)
        return ok("ok")

    @blueprint.post("/api/chat/setfriendremark/<id>")
    @describe(
        "Set my private name for a friend; an empty one takes it away",
        access="user",
        params=REMARK_PARAMS,
        failures=("friend_not_found",),
    )
    def post_remark(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(REMARK_PARAMS)

        def write(connection: Connection) -> list[Request]:
            if not friendships.set_remark(connection, caller.user_id, params["id"], params["nickname"]):
                raise ApiError("friend_not_found")
            return []

        change(write)
        return ok("ok")

    @blueprint.post("/api/chat/deletegoodfriend/<id>")
    @describe(
        "End a friendship on both sides",
        access="visitor",
        params=FELLOW_PARAMS,
        answer="删除好友成功",
        failures=("not_friends",),
    )
    def post_end(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(FELLOW_PARAMS)

        def write(connection: Connection) -> list[Request]:
            people = users.lock(connection, caller.user_id, params["id"])
            if friendships.load(connection, caller.user_id, params["id"]) is None:
                raise ApiError("not_friends")
            user, other = people[caller.user_id], people[params["id"]]
            theirs = friendships.load(connection, other.id, user.id)
            is_told = theirs is not None and not blocks.is_blocked(connection, other.id, user.id)
            _unfriend(connection, user.id, other.id)
            remark = theirs.nickname if theirs is not None else ""
            return [friend_notices.no_friends(user, other, remark=remark, media_url=media_url)] if is_told else []

        change(write)
        return ok("删除好友成功")

    return blueprint


def _lock_asked(connection: Connection, user_id: int, target_id: int) -> _Asked:
    """Lock both users. Raises ApiError: nobody can be added there."""
    if target_id == user_id:
        raise ApiError("add_self")
    people = users.lock(connection, user_id, target_id)
    if user_id not in people:
        raise ApiError("user_disabled")
    if target_id not in people or people[target_id].status != ACTIVE:
        raise ApiError("target_unavailable")
    return _Asked(people[user_id], people[target_id])


def _check_application(connection: Connection, asked: _Asked) -> None:
    """Raises ApiError: they are friends, one of them has blocked the other, or it is too early to ask again (F5)."""
    user_id, target_id = asked.user.id, asked.target.id
    newest = applications.load_newest(connection, user_id, target_id)
    if friendships.are_friends(connection, user_id, target_id):
        # ORIG knows the first case only, and has a text of its own for it.
        raise ApiError("already_applied" if newest is not None and newest.status == "agree" else "already_friends")
    if blocks.is_blocked(connection, target_id, user_id):
        raise ApiError("application_blocked")
    if blocks.is_blocked(connection, user_id, target_id):
        raise ApiError("target_blocked")
    is_refused = newest is not None and newest.status in ("refuse", "ignore")
    if newest is not None and is_refused and newest.update_time > now_utc() - COOLDOWN:
        raise ApiError("application_cooldown")


def _check_rate(connection: Connection, user_id: int) -> None:
    """Raises ApiError: he has made as many friends as an hour allows."""
    made = applications.load_automatic(connection, user_id)
    if len(made) >= AUTOMATIC_MAX:
        wait = made[-AUTOMATIC_MAX] + applications.AUTOMATIC_WINDOW - now_utc()
        raise ApiError("too_many_friends", retry_after=int(wait.total_seconds()) + 1)


def _befriend(connection: Connection, user: Person, other: Person, *, remark: str, other_remark: str) -> Request:
    """Make two locked users friends of each other, each with a private remark, and build what tells them."""
    for owner, friend, name in ((user, other, remark), (other, user, other_remark)):
        is_black = blocks.is_blocked(connection, owner.id, friend.id)
        friendships.make(connection, owner.id, friend.id, remark=name, is_black=is_black)
    applications.settle(connection, user.id, other.id)
    first_contacts.forget(connection, user.id, other.id)
    users.touch_facts(connection, user.id, other.id)
    return friend_notices.now_friends(user, other, remark=remark, other_remark=other_remark)


def _unfriend(connection: Connection, user_id: int, other_id: int) -> None:
    """End the friendship of two locked users: rows, applications, first contacts. What one blocks, he goes on blocking (C17)."""
    for owner_id, friend_id in ((user_id, other_id), (other_id, user_id)):
        if blocks.is_blocked(connection, owner_id, friend_id):
            blocks.block(connection, owner_id, friend_id, _now_ms())
    friendships.remove(connection, user_id, other_id)
    applications.remove_all(connection, user_id, other_id)
    first_contacts.forget(connection, user_id, other_id)
    users.touch_facts(connection, user_id, other_id)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _offset(params: dict[str, Any]) -> int:
    page, limit = int(params["page"]), int(params["limit"])
    return min((page - 1) * limit, _NO_OFFSET_BEYOND)


def _shown_application(row: Any) -> dict[str, Any]:
    shown = {name: getattr(row, name) for name in Application().fields}
    return shown | {"create_time": local_text(row.create_time), "update_time": utc_text(row.update_time)}


def _shown_listed(row: Any) -> dict[str, Any]:
    user = {
        "id": row.user_id,
        "username": row.username,
        "avatar": row.avatar,
        "nickname": row.user_nickname,
        "uuid": row.uuid,
    }
    return _shown_application(row) | {"user": user}


def _by_initial(rows: list[Any]) -> dict[str, Any]:
    friends = sorted((_shown_friend(row) for row in rows), key=lambda friend: (*_place(friend["name"]), friend["id"]))
    lists = [
        {"title": title, "list": list(members)}
        for title, members in groupby(friends, key=lambda friend: _initial(friend["name"][:1]))
    ]
    return {"newList": lists, "indexList": [each["title"] for each in lists], "total": len(friends)}


def _shown_friend(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "beizhu": row.remark,
        "username": row.username,
        "avatar": row.avatar,
        "friend_nickname": row.friend_nickname,
        "friend_id": row.friend_id,
        "name": row.remark or row.friend_nickname or row.username,
        "uuid": row.uuid,
    }


def _place(name: str) -> tuple[bool, str, str]:
    initial = _initial(name[:1])
    return initial == "#", initial, "".join(map(_reading, name))


def _initial(character: str) -> str:
    """Return the letter under which a name stands that begins so: A to Z, `#` for everything else."""
    letter = _reading(character)[:1].upper()
    return letter if "A" <= letter <= "Z" else "#"


@lru_cache(maxsize=20_000)
def _reading(character: str) -> str:
    """Return how a character is read in pinyin, itself where it is not Chinese."""
    from pypinyin import lazy_pinyin  # here: a process that was killed is back the sooner, the less it loads to serve

    return "".join(lazy_pinyin(character)).lower()
