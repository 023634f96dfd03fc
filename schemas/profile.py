"""Parameters and answers of the routes about profiles and settings (ORIG 6.2), and the pure rules about their values."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import orjson
from marshmallow import fields

from schemas.answers import Exact, number, one_of, text, truth
from schemas.params import Fault, IntParam, InvalidParams, Params, TextParam

GENDERS = ("male", "female", "unknown")
SETTINGS_MAX = 16_384  # characters; they are read with every message to their owner
_SETTINGS_LABEL = "用户设置"
# Nothing that a page could take for the end of an attribute, or a browser for another address than it looks like.
_UNSAFE_IN_URL = re.compile(r"[\x00-\x20\x7f-\x9f\\\"'<>`]")

USER_FIELDS = ("username", "nickname", "avatar", "invite_confirm")
PROFILE_FIELDS = ("gender", "birthday", "bio", "location", "website")


class PublicProfileParams(Params):
    uuid = TextParam("uuid值", min=36, max=36)


class SearchUserParams(Params):
    keyword = TextParam("搜索关键词", min=1, max=50)


class UsersetParams(Params):
    userset = TextParam(_SETTINGS_LABEL, min=2, max=SETTINGS_MAX)


class UserSetInfoParams(Params):
    userid = IntParam("用户id", min=1)


class UpdateParams(Params):
    fieldname = TextParam("修改类型", choices=(*USER_FIELDS, *PROFILE_FIELDS))
    fieldValue = TextParam("修改结果", min=1)


class PublicUserInfo(Exact):
    """What a user says of himself."""

    gender = one_of(*GENDERS)
    birthday = text(null=True, description="ISO 8601")
    bio = text(null=True)
    location = text(null=True)
    website = text(null=True)


class UserInfo(PublicUserInfo):
    """What a user says of himself, as his friends see it."""

    id = number()


class PublicProfile(Exact):
    """A user as anybody may see him."""

    uuid = text()
    username = text()
    nickname = text()
    avatar = text()
    role = text()
    id = fields.Integer(metadata={"description": "with PUBLIC_PROFILE=original only"})
    userset = fields.String(metadata={"description": "`chatset` as a JSON text; with PUBLIC_PROFILE=original only"})
    userinfo = fields.Nested(PublicUserInfo, required=True, allow_none=True)


class FoundUser(Exact):
    """A user who was found by his name."""

    id = number()
    username = text()
    avatar = text()
    role = text()
    uuid = text()
    nickname = text()


class UserSetInfo(Exact):
    """How a user lets others write to him and befriend him, and what the caller is to him."""

    id = number()
    userset = text(description="his settings, a JSON text; to others `chatset` alone; empty where he has set nothing")
    invite_confirm = number(description="0: whoever wants becomes his friend; 1: he is asked")
    uuid = text()
    isgoodfriend = truth(description="whether the caller is in his list of friends")
    isgoodfriend_status = truth(description="false where he is blocked or disabled there")


PUBLIC_PROFILE_PARAMS = PublicProfileParams()
SEARCH_USER_PARAMS = SearchUserParams()
USERSET_PARAMS = UsersetParams()
USER_SET_INFO_PARAMS = UserSetInfoParams()
UPDATE_PARAMS = UpdateParams()


def read_settings(given: str) -> dict[str, Any]:
    """Return the JSON object that settings must be. Raises InvalidParams."""
    try:
        settings = orjson.loads(given)
        orjson.dumps(settings)  # it reads deeper than it writes
    except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
        raise InvalidParams(
            "userset", Fault(f"{_SETTINGS_LABEL} 的值不是合法的 JSON", "`userset` is no JSON")
        ) from error
    if not isinstance(settings, dict):
        raise InvalidParams(
            "userset", Fault(f"{_SETTINGS_LABEL} 的值必须是 JSON 对象", "`userset` must be a JSON object")
        )
    return settings


def merge_settings(stored: str, given: dict[str, Any]) -> str:
    """Return settings changed as RFC 7396 says: key by key, null removes one. Raises InvalidParams: they get too long.

    What stands there and is no object gives way, as ORIG took any text.
    """
    try:
        known = orjson.loads(stored or "{}")
    except orjson.JSONDecodeError:
        known = {}
    merged = orjson.dumps(_merged(known, given)).decode()
    if len(merged) > SETTINGS_MAX:
        raise InvalidParams(
            "userset",
            Fault(
                f"{_SETTINGS_LABEL} 的长度 必须 在 2 和 {SETTINGS_MAX} 之间",
                f"`userset` must have 2 to {SETTINGS_MAX} characters",
            ),
        )
    return merged


def settings_for_others(stored: str) -> str:
    """Return of a user's settings what others need, which is how he lets them write to him; empty where that is not set."""
    try:
        settings = orjson.loads(stored or "{}")
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(settings, dict) or "chatset" not in settings:
        return ""
    return stored if len(settings) == 1 else orjson.dumps({"chatset": settings["chatset"]}).decode()


def _merged(known: Any, given: dict[str, Any]) -> dict[str, Any]:
    merged = dict(known) if isinstance(known, dict) else {}
    for key, value in given.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value) if isinstance(value, dict) else value
    return merged


def is_address(given: str, *, is_path_allowed: bool = False) -> bool:
    """Return whether a text is an http(s) URL, or where allowed a path of this server: nothing a browser would run."""
    if _UNSAFE_IN_URL.search(given):
        return False
    if given.startswith("/"):
        # `//host/…` is a path to nobody but another server.
        return is_path_allowed and not given.startswith("//")
    try:
        parts = urlsplit(given)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def read_birthday(given: str) -> datetime | None:
    """Return the day of a `YYYY-MM-DD`, None where it is none."""
    try:
        return datetime.strptime(given, "%Y-%m-%d")
    except ValueError:
        return None
