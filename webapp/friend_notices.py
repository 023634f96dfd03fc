"""What is told of friends and profiles: an application, a new friendship, a new avatar (ORIG 2.7, 4 and 6.3). Pure.

Notices that open a page of the client take no place in a conversation, so they have one of their own per recipient.
"""

from __future__ import annotations

from typing import Any

from models import notices
from models.requests import Request, conversation_key
from models.users import Person
from webapp.uri import encode_uri_component

_NOW_FRIENDS = "我们已经是好友了，可以开始聊天了"


def application(applicant: Person, target: Person, media_url: str) -> Request:
    """Tell a user that somebody wants to be his friend."""
    return _page_notice(
        "applyFriend",
        about=applicant,
        recipient=target,
        name="好友申请提醒",
        avatar=f"{media_url}group.png",
        text=f"用户[{applicant.public_name}]申请添加您为好友，请尽快处理",
        redirect={"url": "/pages/applyMyfriend/applyMyfriend", "type": "navigateTo"},
    )


def new_avatar(user: Person, avatar: str) -> Request:
    """Tell a user's devices that his avatar is another one."""
    back_to = f"&redirectUrl={encode_uri_component('/pages/xiaoxi/xiaoxi')}&redirectType=switchTab"
    url = f"/pages/setpageInfo/setpageInfo?action=userinfoSet&title={encode_uri_component('账号信息设置')}{back_to}"
    return _page_notice(
        "userInfoSet",
        about=user,
        recipient=user,
        name="头像更换成功",
        avatar=avatar,
        text="不满意你的头像可以继续更换",
        redirect={"url": url, "type": "navigateTo", "doaction": "avatar"},
    )


def no_friends(user: Person, other: Person, *, remark: str, media_url: str) -> Request:
    """Tell a user that another has ended their friendship (F21). It stands in no conversation: nobody said anything.

    remark: his private name, which is gone with the friendship, for who has ended it
    """
    return _page_notice(
        "deleteFriend",
        about=user,
        recipient=other,
        name="好友关系提醒",
        avatar=f"{media_url}group.png",
        text=f"用户[{remark or user.public_name}]已与您解除好友关系",
        redirect={"url": "/pages/friendsList/friendsList", "type": "navigateTo"},
        kind="systemNotice",
    )


def now_friends(user: Person, other: Person, *, remark: str, other_remark: str) -> Request:
    """Tell two new friends that they are, each as if the other said so.

    remark: the user's private name for the other; other_remark: the other's for him
    """
    return notices.build(
        "single",
        about_id=user.id,
        to_id=other.id,
        conversation=conversation_key("single", user.id, other.id),
        message=_said(user, other, other_remark),
        for_sender=_said(other, user, remark),
    )


def _said(speaker: Person, listener: Person, remark: str) -> dict[str, Any]:
    """Give the notice as the listener sees it, who has that private name for the speaker."""
    return {
        "from_avatar": speaker.avatar,
        "from_name": remark or speaker.public_name,
        "from_id": speaker.id,
        "to_id": listener.id,
        "to_name": listener.public_name,
        "to_avatar": listener.avatar,
        "chatType": "single",
        "type": "systemNotice",
        "data": {"data": _NOW_FRIENDS, "dataType": False, "otherData": None},
        "options": {},
        "sendUUid": speaker.uuid,
    }


def _page_notice(
    key: str,
    *,
    about: Person,
    recipient: Person,
    name: str,
    avatar: str,
    text: str,
    redirect: dict[str, str],
    kind: str = "text",
) -> Request:
    notice_id = f"redirect-{key}-{about.id}"
    message = {
        "from_avatar": avatar,
        "from_name": name,
        "from_id": notice_id,
        "to_id": recipient.id,
        "to_name": recipient.public_name,
        "to_avatar": recipient.avatar,
        "chatType": "single",
        "type": kind,
        "data": {"data": text, "dataType": False, "otherData": None},
        "redirect": redirect,
        "options": {},
        "group": {},
        "msgidKey": notice_id,
    }
    return notices.build(
        "single",
        about_id=about.id,
        to_id=recipient.id,
        conversation=f"system:{recipient.id}",
        message=message,
        is_to_sender=about.id == recipient.id,
    )
