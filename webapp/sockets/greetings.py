"""Greetings: the notices a client gets at every connect, in the seed's order and words (ORIG section 4, [seed]).

They are built here and written to the socket that asks, with no cursor: nothing stores or repeats them (ORIG A25).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection

from models import users
from models.users import Profile
from schemas import frames
from webapp.uri import encode_uri_component

_SETTINGS_PAGE = "/pages/setpageInfo/setpageInfo"


@dataclass(frozen=True, slots=True)
class _Notice:
    """One greeting. `key` makes the `redirect-<key>-<user id>` that clients keep it under. url: '' leads nowhere."""

    key: str
    name: str
    text: str
    avatar: str
    url: str


def greeting_frames(connection: Connection, user_id: int, role: str, media_url: str) -> list[bytes]:
    """Return the `singleChat` frames that greet a user in his session role, in order. Raises DatabaseUnavailable."""
    profile = users.load_profile(connection, user_id)
    if profile is None:
        return []
    now_ms = time.time_ns() // 1_000_000
    notices = _for_visitor(profile, media_url) if role == "visitor" else _for_user(profile, media_url)
    return [frames.single_chat(orjson.dumps(_message(notice, profile, now_ms)), now_ms) for notice in notices]


def forced_logout_frame(connection: Connection, user_id: int, media_url: str) -> bytes | None:
    """Return the notice that another login has ended this session (ORIG 2.7). Raises DatabaseUnavailable."""
    profile = users.load_profile(connection, user_id)
    if profile is None:
        return None
    text = "你的账号在其他设备登录了，您当前设备会下线"
    notice = _Notice("forceLogout", "账号异地登录", text, f"{media_url}kefu.png", "")
    now_ms = time.time_ns() // 1_000_000
    return frames.single_chat(orjson.dumps(_message(notice, profile, now_ms)), now_ms)


def _for_visitor(profile: Profile, media_url: str) -> Iterator[_Notice]:
    if profile.has_groups:
        yield _groups(media_url)
    yield _Notice(
        "visitorLogin",
        "系统消息",
        "欢迎您，登录可以获取更多功能！",
        f"{media_url}kefu.png",
        "/pages/loginCenter/loginCenter",
    )


def _for_user(profile: Profile, media_url: str) -> Iterator[_Notice]:
    if profile.has_groups:
        yield _groups(media_url)
    if profile.has_friends:
        yield _Notice(
            "friendsList",
            "我的通讯录",
            "可查看我的通讯录好友",
            f"{media_url}img/friendList.png",
            "/pages/friendsList/friendsList",
        )
    back_to = f"&redirectUrl={encode_uri_component('/pages/wode/wode')}&redirectType=switchTab"
    yield _Notice(
        "userInfoSet",
        "头像设置",
        "不满意你的头像可以更换",
        profile.avatar,
        f"{_SETTINGS_PAGE}?action=userinfoSet&title={encode_uri_component('账号信息设置')}{back_to}",
    )
    yield _Notice(
        "whoCanChatMe",
        "谁可以和我聊天",
        "设置聊天对象",
        f"{media_url}img/whoCanChatMe.png",
        f"{_SETTINGS_PAGE}?action=chatset&title={encode_uri_component('谁可以和我聊天')}",
    )
    name, avatar = encode_uri_component(profile.name), encode_uri_component(profile.avatar)
    me = f"&id={profile.id}&name={name}&avatar={avatar}&chatType=single"
    yield _Notice(
        "myQrcode",
        "我的二维码",
        "展示给别人加你为好友",
        f"{media_url}img/myQrcode1.png",
        f"{_SETTINGS_PAGE}?action=groupQrcode&title={encode_uri_component('我的二维码')}{me}",
    )
    yield _Notice("search", "搜索加好友", "搜索账号加好友或聊天", f"{media_url}img/search.png", "/pages/search/search")


def _groups(media_url: str) -> _Notice:
    return _Notice(
        "groupList",
        "我的群聊",
        "可查看我加入的群聊列表",
        f"{media_url}img/grouplist.png",
        f"/pages/applyMyfriend/applyMyfriend?action=grouplist&title={encode_uri_component('我的群聊列表')}",
    )


def _message(notice: _Notice, profile: Profile, now_ms: int) -> dict[str, Any]:
    notice_id = f"redirect-{notice.key}-{profile.id}"
    return {
        "id": str(uuid.uuid4()),
        "from_avatar": notice.avatar,
        "from_name": notice.name,
        "from_id": notice_id,
        "to_id": profile.id,
        "to_name": profile.name,
        "to_avatar": profile.avatar,
        "chatType": "single",
        "type": "text",
        "data": {"data": notice.text, "dataType": False, "otherData": None},
        "redirect": {"url": notice.url, "type": "navigateTo"} if notice.url else None,
        "options": {},
        "create_time": now_ms,
        "isremove": 0,
        "group": {},
        "msgidKey": notice_id,
    }
