"""Group notices: what members, owners and applicants are told of a change in a group, in ORIG's words (ORIG 6.4).

What the whole group is told takes its place in the group's conversation; what one person is told comes as a system notice.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from typing import Any

import orjson

from models import notices
from models.groups import Summary
from models.memberships import Change, Joining, Leaving, Person
from models.requests import Request, conversation_key
from webapp.uri import encode_uri_component

_SETTINGS_PAGE = "/pages/setpageInfo/setpageInfo"


class GroupNotices:
    """Builds the notices. media_url: where the icons are."""

    def __init__(self, media_url: str) -> None:
        self._group_icon = f"{media_url}group.png"
        self._user_icon = f"{media_url}user.jpg"

    def created(self, change: Change) -> list[Request]:
        return [self._to_all(change.group, change.actor, f"{change.actor.name}创建了一个群，大家可以开始聊天了")]

    def renamed(self, change: Change) -> list[Request]:
        return [self._to_all(change.group, change.actor, f"群名称修改为：{change.group.name}")]

    def announced(self, change: Change) -> list[Request]:
        return [self._to_all(change.group, change.actor, f"[公告] \n\n {change.group.remark}")]

    def came_in(self, joining: Joining, words: str) -> list[Request]:
        """Tell of somebody who has joined, or ask the owner. words: what the joiner or inviter says to that."""
        if joining.is_pending:
            return [self._to_owner(joining.group, joining.owner, joining.joiner, joining.inviter, words)]
        group, joiner = joining.group, joining.joiner
        told = f"{_prefix(joining.inviter)}[{joiner.name}] 加入了群聊"
        key = _application_key(group, joiner, _now_ms())
        fields = {
            **_notice(group, told),
            "from_avatar": self._group_icon,
            "from_name": "加群申请提醒",
            "from_id": key,
            "msgidKey": key,
        }
        return [_in_group(group, joiner.id, fields)]

    def answered(self, change: Change, *, is_agreed: bool) -> list[Request]:
        """Tell the group of an applicant who has been let in, or an applicant that he was not."""
        applicant = _subject(change)
        if is_agreed:
            return [self._to_all(change.group, change.actor, f"[{applicant.name}] 加入了群聊")]
        return [self._refused(change.group, change.actor, applicant)]

    def removed(self, change: Change) -> list[Request]:
        """Tell a member that he was put out, and those who are left."""
        member = _subject(change)
        if not member.is_member:
            return [self._refused(change.group, change.actor, member)]
        return [
            self._to_one(change.group, change.actor, member.id, f"群主已将您移出群聊：{change.group.name}"),
            self._to_all(change.group, change.actor, f"群主已将 [{member.name}] 移出群聊"),
        ]

    def left(self, leaving: Leaving) -> list[Request]:
        """Tell the owner of a member who has left, or everybody that the group is dissolved. A withdrawal is told nobody."""
        change = leaving.change
        group, actor = change.group, change.actor
        if leaving.how == "withdrawn":
            return []
        if leaving.how == "quit":
            return [self._to_one(group, actor, group.user_id, f"{actor.name}于 {_local_time()} 已退出群聊")]
        text = f"群主于 {_local_time()} 解散了该群"
        to_applicants = [self._to_one(group, actor, person.id, text) for person in change.applicants]
        return [self._to_all(group, actor, text), *to_applicants]

    def transferred(self, change: Change) -> list[Request]:
        """Tell everybody of the new owner, and the new owner of those who wait to come in."""
        group, owner = change.group, change.subject
        if owner is None:
            return []
        told = self._to_all(group, change.actor, f"{change.actor.name}已将群主转让给 [{owner.name}]")
        return [told, *(self._to_owner(group, owner, applicant, None, "") for applicant in change.applicants)]

    def _to_all(self, group: Summary, actor: Person, text: str) -> Request:
        return _in_group(group, actor.id, self._from(actor, _notice(group, text)))

    def _to_one(self, group: Summary, actor: Person, to_id: int, text: str) -> Request:
        return _to_user(to_id, actor.id, self._from(actor, _notice(group, text)))

    def _refused(self, group: Summary, actor: Person, applicant: Person) -> Request:
        return self._to_one(group, actor, applicant.id, f"群主拒绝了您加入群聊的申请：{group.name}")

    def _to_owner(self, group: Summary, owner: Person, joiner: Person, inviter: Person | None, words: str) -> Request:
        """Ask the owner to let somebody in."""
        prefix, now_ms = _prefix(inviter), _now_ms()
        key = _application_key(group, joiner, now_ms)
        description = {
            "addGroupUserType": "邀请进群" if inviter is not None else "用户自主进群",
            "inviteUser": inviter.name if inviter is not None else "",
            "addGroupTime": now_ms,  # the original's page shows it by its own clock
            "addGroupDesc": words,
            "addGroupUserRole": joiner.role,
            "msgidKey": key,
        }
        query = {
            "title": "加群申请",
            "id": group.id,
            "name": group.name,
            "avatar": group.avatar,
            "chatType": "group",
            "applyUserid": joiner.id,
            "applyUsername": joiner.name,
            "applyUseruuid": joiner.uuid,
            "applyUseravatar": joiner.avatar or self._user_icon,
            "applydesc": orjson.dumps(description).decode(),
        }
        url = f"{_SETTINGS_PAGE}?action=applyAddGroup" + "".join(
            f"&{k}={encode_uri_component(str(v))}" for k, v in query.items()
        )
        fields = {
            **_notice(group, f"请处理申请 {prefix}[{joiner.name}] 加入了群[{group.name}]"),
            "from_avatar": self._group_icon,
            "from_name": "加群处理",
            "from_id": key,
            "msgidKey": key,
            "to_id": owner.id,
            "to_name": owner.name,
            "to_avatar": owner.avatar or self._user_icon,
            "chatType": "single",
            "type": "text",
            "redirect": {"url": url, "type": "navigateTo", "desc": description},
        }
        return _to_user(owner.id, joiner.id, fields)

    def _from(self, actor: Person, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | {
            "from_avatar": actor.avatar or self._user_icon,
            "from_name": actor.name,
            "from_id": actor.id,
            "sendUUid": actor.uuid,
        }


def _notice(group: Summary, text: str) -> dict[str, Any]:
    return {
        "from_avatar": "",
        "from_name": "",
        "from_id": 0,
        "to_id": group.id,
        "to_name": group.name,
        "to_avatar": group.avatar,
        "chatType": "group",
        "type": "systemNotice",
        "data": {"data": text, "dataType": False, "otherData": None},
        "options": {},
        "redirect": None,
        "group": asdict(group),
    }


def _in_group(group: Summary, about_id: int, fields: dict[str, Any]) -> Request:
    conversation = conversation_key("group", about_id, group.id)
    return notices.build("group", about_id=about_id, to_id=group.id, conversation=conversation, message=fields)


def _to_user(user_id: int, about_id: int, fields: dict[str, Any]) -> Request:
    return notices.build(
        "single",
        about_id=about_id,
        to_id=user_id,
        conversation=f"system:{user_id}",
        message=fields,
        is_to_sender=False,
    )


def _application_key(group: Summary, joiner: Person, now_ms: int) -> str:
    return f"redirect-applyAddGroup{group.id}-{joiner.id}-{now_ms}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _prefix(inviter: Person | None) -> str:
    return f"[{inviter.name}]邀请 " if inviter is not None and inviter.role == "user" else ""


def _subject(change: Change) -> Person:
    assert change.subject is not None
    return change.subject


def _local_time() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")
