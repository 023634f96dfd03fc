"""Parameters and answers of the routes about friends and friend applications (ORIG 6.3)."""

from __future__ import annotations

from typing import Any

from marshmallow import fields

from schemas.answers import Exact, many, number, one_of, text
from schemas.params import IntParam, Params, TextParam
from schemas.profile import UserInfo

MAX_PAGE = 100
MAX_FRIENDS_PAGE = 2_000


class ApplyParams(Params):
    friend_id = IntParam("我申请添加的好友id", min=1)
    nickname = TextParam("我的昵称或者说明", min=1, max=50, default="", is_strict=True)


class AutoAddParams(Params):
    friend_id = IntParam("我申请添加的好友id", min=1)
    # Not strict, as in ORIG: its client makes these words of a nickname, and with one of 30 characters they are too many.
    nickname = TextParam("说明", min=1, max=50, default="")


class ApplicationsParams(Params):
    page = IntParam("页码", min=1)
    limit = IntParam("每页多少条", min=1, max=MAX_PAGE, default=10)


class ApplicantParams(Params):
    uuid = TextParam("uuid值", min=36, max=36)


class HandleParams(Params):
    id = IntParam("申请表的id", min=1)
    nickname = TextParam("好友备注", min=1, max=50, default="", is_strict=True)
    # ORIG takes `pending` too, which decides nothing (F2).
    status = TextParam("处理状态", choices=("refuse", "agree", "ignore"))


class FriendsParams(Params):
    page = IntParam("页码", min=1)
    limit = IntParam("每页多少条", min=1, max=MAX_FRIENDS_PAGE, default=MAX_FRIENDS_PAGE)


class FriendParams(Params):
    id = IntParam("好友id", min=1)


class FellowParams(Params):
    id = IntParam("朋友id", min=1)


class BlackParams(FriendParams):
    isblack = TextParam("是否拉黑", choices=("0", "1"), default="", is_strict=True)


class StarParams(FriendParams):
    ismystarfriend = TextParam("是否星标", choices=("0", "1"), default="", is_strict=True)


class VisibilityParams(FellowParams):
    friendlookme = TextParam("朋友是否可以看我的动态", choices=("0", "1"))
    melookfriend = TextParam("我的朋友圈是否出现朋友的信息（我是否看朋友的动态）", choices=("0", "1"))


class RemarkParams(FriendParams):
    nickname = TextParam("好友备注", max=50, default="", is_strict=True)


class Applicant(Exact):
    """Who asks to become a friend."""

    id = number()
    username = text()
    avatar = text()
    nickname = text()
    uuid = text()


class Application(Exact):
    """A friend application."""

    id = number()
    user_id = number(description="who asks")
    friend_id = number(description="who is asked")
    nickname = text(description="the applicant's words")
    friendlookme = number()
    melookfriend = number()
    ismystarfriend = number()
    isblack = number()
    status = one_of("pending", "refuse", "agree", "ignore")
    order = number()
    create_time = text(description="`YYYY-MM-DD HH:mm:ss`, local time of the server")
    update_time = text(description="ISO 8601, UTC")


class ListedApplication(Application):
    """A friend application with the applicant."""

    user = fields.Nested(Applicant, required=True)


class Applications(Exact):
    """A page of the applications to the caller, newest first."""

    alldata = many(ListedApplication)
    pendingCount = number(description="how many wait for an answer, on all pages")


_TEXT, _NUMBER = {"type": "string"}, {"type": "integer"}
_LISTED_FRIEND = {
    "id": {**_NUMBER, "description": "id of the friend row"},
    "beizhu": {**_TEXT, "description": "the caller's private remark"},
    "username": _TEXT,
    "avatar": _TEXT,
    "friend_nickname": _TEXT,
    "friend_id": _NUMBER,
    "name": {**_TEXT, "description": "remark, else nickname, else username"},
    "uuid": _TEXT,
}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


_OF_INITIAL = {
    "title": {**_TEXT, "description": "A to Z by the name's initial in pinyin, `#` for everything else"},
    "list": {"type": "array", "items": _object(_LISTED_FRIEND)},
}
_BY_INITIAL = _object(
    {
        "newList": {"type": "array", "items": _object(_OF_INITIAL)},
        "indexList": {"type": "array", "items": _TEXT},
        "total": {**_NUMBER, "description": "how many are on this page"},
    }
)


class Friends(Exact):
    """The caller's friends; `rows` is an empty array where the page has none."""

    count = number(description="how many there are on all pages")
    rows = fields.Raw(required=True, metadata={"oneOf": [_BY_INITIAL, {"type": "array", "maxItems": 0}]})


class FriendProfile(Exact):
    """A friend as his account shows him."""

    id = number()
    username = text()
    avatar = text()
    nickname = text()
    role = text()
    status = number()
    userinfo = fields.Nested(UserInfo, required=True, allow_none=True)


class Friend(Exact):
    """The caller's row about a friend, with the friend."""

    id = number()
    user_id = number()
    friend_id = number()
    nickname = text(description="the caller's private remark")
    friendinfo = fields.Nested(FriendProfile, required=True)


class FriendRow(Exact):
    """The caller's row about a friend."""

    id = number()
    user_id = number()
    friend_id = number()
    nickname = text(description="the caller's private remark")
    friendlookme = number()
    melookfriend = number()
    ismystarfriend = number()
    isblack = number()
    status = number()


APPLY_PARAMS = ApplyParams()
AUTO_ADD_PARAMS = AutoAddParams()
APPLICATIONS_PARAMS = ApplicationsParams()
APPLICANT_PARAMS = ApplicantParams()
HANDLE_PARAMS = HandleParams()
FRIENDS_PARAMS = FriendsParams()
FRIEND_PARAMS = FriendParams()
FELLOW_PARAMS = FellowParams()
BLACK_PARAMS = BlackParams()
STAR_PARAMS = StarParams()
VISIBILITY_PARAMS = VisibilityParams()
REMARK_PARAMS = RemarkParams()
