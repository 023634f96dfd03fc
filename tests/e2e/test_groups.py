"""Groups over HTTP: who may do what, what is answered, and what is told to whom (ORIG 6.4, contract section 6)."""

from __future__ import annotations

import http.client
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from threading import Barrier
from typing import Any
from urllib.parse import parse_qs, urlencode

import pytest
from sqlalchemy import delete, func, select

from models.friendships import Friendship
from models.groups import Group, GroupMember
from tests.conftest import InstanceFactory
from tests.support.acting import open_socket
from tests.support.client import ChatSocket, Frame, HttpClient, message_text
from tests.support.instance import Instance
from tests.support.relations import (
    add_users,
    befriend,
    change_user,
    make_group,
    set_membership,
    start_session,
    writing,
)
from webapp import qr

_LOCAL_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
_TOO_BIG = (2**31, 2**53, 9_999_999_999_999_999)  # no column holds them, and PostgreSQL would say so
_SUMMARY = {"id", "uuid", "user_id", "name", "avatar", "remark", "invite_confirm", "member_count"}

_Answer = tuple[int, Any]


def _post(instance: Instance, user_id: int, route: str, /, **fields: Any) -> _Answer:
    return HttpClient(instance.base, instance.tokens[user_id]).post(f"/api/chat/{route}", fields)


def _get(instance: Instance, user_id: int, route: str) -> _Answer:
    return HttpClient(instance.base, instance.tokens[user_id]).get(f"/api/chat/{route}")


def _ok(answer: _Answer) -> Any:
    status, body = answer
    assert status == 200, answer
    assert body["msg"] == "ok"
    return body["data"]


def _refused(answer: _Answer, code: str, text: str | None = None, *, status: int = 400) -> None:
    assert (answer[0], answer[1].get("code")) == (status, code), answer
    if text is not None:
        assert answer[1]["data"] == text


def _friend_row(instance: Instance, owner_id: int, friend_id: int) -> int:
    mine = (Friendship.user_id == owner_id, Friendship.friend_id == friend_id)
    with writing(instance) as connection:
        return int(connection.execute(select(Friendship.id).where(*mine)).scalar_one())


def _status_of(instance: Instance, group_id: int, user_id: int) -> int | None:
    mine = (GroupMember.group_id == group_id, GroupMember.user_id == user_id)
    with writing(instance) as connection:
        return connection.execute(select(GroupMember.status).where(*mine)).scalar_one_or_none()


def _newest_group(instance: Instance, user_id: int) -> dict[str, Any]:
    found: dict[str, Any] = _ok(_get(instance, user_id, "grouplist/1"))[0]
    return found


def _member_ids(instance: Instance, viewer_id: int, group_id: int) -> set[int]:
    return {row["user_id"] for row in _ok(_get(instance, viewer_id, f"groupinfo/{group_id}"))["group_users"]}


@pytest.fixture
def connect(instance: Instance) -> Iterator[Callable[[int], ChatSocket]]:
    """Open protocol 2 sockets that are closed at the end."""
    with ExitStack() as stack:
        yield lambda user_id: stack.enter_context(open_socket(instance, user_id, 2))


def _message(frame: Frame) -> dict[str, Any] | None:
    """Return a frame's Message; notices with a `redirect-…` sender are Messages here too."""
    return dict(frame.data["data"]) if frame.data.get("type") == "singleChat" else None


def _told_like(socket: ChatSocket, pattern: str) -> dict[str, Any]:
    """Wait for the notice whose text matches and return its Message."""

    def matches(frame: Frame) -> bool:
        message = _message(frame)
        return message is not None and re.fullmatch(pattern, message_text(message)) is not None

    message = _message(socket.wait_for(matches))
    assert message is not None
    return message


def _told(socket: ChatSocket, text: str) -> dict[str, Any]:
    return _told_like(socket, re.escape(text))


def _texts(socket: ChatSocket) -> list[str]:
    return [message_text(message) for message in map(_message, socket.frames) if message is not None]


def _flush(instance: Instance, owner_id: int, group_id: int, *sockets: ChatSocket) -> None:
    """Wait until everybody has been told something of the group: what was told before it has arrived."""
    text = f"群公告 {len(sockets)} {id(sockets)}"
    _ok(_post(instance, owner_id, "groupremark", id=group_id, remark=text))
    for socket in sockets:
        _told(socket, f"[公告] \n\n {text}")


# Making one


def test_a_group_is_made_of_friends(instance: Instance, connect: Callable[[int], ChatSocket]) -> None:
    """The creator and the chosen friends are in it, and all of them are told, with the slim summary of the group."""
    owner, friend, other = add_users(instance, 3, avatar="/face.png")
    for each in (friend, other):
        befriend(instance, owner, each, remark="private")
    sockets = [connect(each) for each in (owner, friend, other)]

    row_ids = [_friend_row(instance, owner, each) for each in (friend, other)]
    assert _ok(_post(instance, owner, "group/create", userIds=row_ids)) == "ok"

    group = _newest_group(instance, friend)
    assert group["name"] == f"用户{owner}、用户{friend}、用户{other}"
    assert group["avatar"] == "/face.png,/face.png,/face.png"
    assert (group["user_id"], group["status"], group["invite_confirm"]) == (owner, 1, 0)
    assert re.fullmatch(_LOCAL_TIME, group["create_time"])
    assert group["group_users"] == [
        {"group_id": group["id"], "user_id": friend, "nickname": f"用户{friend}", "avatar": "/face.png"}
    ]
    for socket in sockets:
        notice = _told(socket, f"用户{owner}创建了一个群，大家可以开始聊天了")
        assert (notice["chatType"], notice["type"], notice["seq"]) == ("group", "systemNotice", 1)
        assert (notice["from_id"], notice["from_name"], notice["from_avatar"]) == (owner, f"用户{owner}", "/face.png")
        assert (notice["to_id"], notice["to_name"], notice["to_avatar"]) == (
            group["id"],
            group["name"],
            group["avatar"],
        )
        assert notice["data"]["dataType"] is False
        assert set(notice["group"]) == _SUMMARY
        assert notice["group"]["member_count"] == 3


def test_nobody_is_put_in_a_group_by_guessing(instance: Instance) -> None:
    """The ids are of the caller's own friend rows; those of others count for nothing (F7)."""
    owner, friend, victim, other = add_users(instance, 4)
    befriend(instance, owner, friend)
    befriend(instance, victim, other)
    foreign, own = _friend_row(instance, victim, other), _friend_row(instance, owner, friend)

    for row_ids in ([foreign], [], [2**31], [0]):
        _refused(_post(instance, owner, "group/create", userIds=row_ids), "no_members_chosen", "请选择加入群聊的用户")
    _ok(_post(instance, owner, "group/create", userIds=[own, foreign, 2**53]))
    assert _member_ids(instance, owner, _newest_group(instance, owner)["id"]) == {owner, friend}
    change_user(instance, friend, status=0)
    _refused(_post(instance, owner, "group/create", userIds=[own]), "members_unavailable", "用户不存在，无法加入群聊")


@pytest.mark.parametrize("body", ["json", "text", "once", "repeated", "brackets", "one", "one in brackets"])
def test_friends_are_chosen_in_any_spelling(instance: Instance, body: str) -> None:
    """`userIds` may be a JSON array, its text, or a form field given once as text, or once for each id."""
    owner, friend, other = add_users(instance, 3)
    befriend(instance, owner, friend)
    befriend(instance, owner, other)
    ids = [_friend_row(instance, owner, each) for each in (friend, other)]
    form: dict[str, list[tuple[str, Any]]] = {
        "once": [("userIds", json.dumps(ids))],
        "repeated": [("userIds", each) for each in ids],
        "brackets": [("userIds[]", each) for each in ids],
        "one": [("userIds", ids[0])],
        "one in brackets": [("userIds[]", ids[0])],
    }
    if body in form:
        with closing(http.client.HTTPConnection("127.0.0.1", instance.port, timeout=15.0)) as connection:
            headers = {"token": instance.tokens[owner], "Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/api/chat/group/create", urlencode(form[body]), headers)
            assert connection.getresponse().status == 200
    else:
        _ok(_post(instance, owner, "group/create", userIds=ids if body == "json" else json.dumps(ids)))

    chosen = {friend} if body.startswith("one") else {friend, other}
    assert _member_ids(instance, owner, _newest_group(instance, owner)["id"]) == {owner} | chosen


@pytest.mark.parametrize("given", ["x", 7, {"a": 1}, [1.5], ["x"], [None], "[1", [-1]])
def test_what_is_no_list_of_ids_is_invalid(instance: Instance, given: Any) -> None:
    """Anything else than a list of ids is 422, and none at all is told to be missing."""
    (user_id,) = add_users(instance)
    _refused(_post(instance, user_id, "group/create", userIds=given), "invalid", status=422)
    _refused(_post(instance, user_id, "group/create"), "invalid", "userIds不能为空", status=422)


# Reading


def test_members_see_members_and_others_a_summary(instance: Instance) -> None:
    """Who is in a group is shown to those who are in it only; the rest see what they need to join (F17)."""
    owner, member, waiting, outsider = add_users(instance, 4, avatar="/face.png")
    (visitor,) = add_users(instance, role="visitor")
    group_id = make_group(instance, owner, [member, waiting], name="读书会")
    set_membership(instance, group_id, waiting, 2)

    info = _ok(_get(instance, member, f"groupinfo/{group_id}"))
    assert [row["user_id"] for row in info["group_users"]] == [owner, member]
    assert set(info["group_users"][0]) == {"id", "group_id", "user_id", "nickname", "avatar", "status", "order", "user"}
    assert set(info["user"]) == {"id", "username", "avatar", "nickname", "uuid", "role"}
    assert info["group_users"][0]["user"] == info["user"]
    assert (info["member_count"], info["user"]["id"], info["group_users"][1]["user"]["id"]) == (2, owner, member)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", info["update_time"])
    for viewer in (waiting, outsider, visitor):
        summary = _ok(_get(instance, viewer, f"groupinfo/{group_id}"))
        assert set(summary) == _SUMMARY | {"user", "group_users"}
        assert (summary["member_count"], summary["group_users"]) == (
            2,
            [],
        )  # the original's page looks for itself in it
    assert _ok(_get(instance, waiting, "grouplist/1")) == []
    _refused(_get(instance, member, "groupinfo/999999"), "group_not_open", "群不存在或被封禁")


def test_my_groups_come_in_pages(instance: Instance) -> None:
    """Newest first, `limit` a page; a page beyond the last is empty."""
    (user_id,) = add_users(instance)
    made = [make_group(instance, user_id, []) for _ in range(5)]

    pages = [[g["id"] for g in _ok(_get(instance, user_id, f"grouplist/{page}?limit=2"))] for page in (1, 2, 3, 4)]

    newest = made[::-1]
    assert pages == [newest[:2], newest[2:4], newest[4:], []]
    assert _ok(_get(instance, user_id, f"grouplist/{_TOO_BIG[-1]}?limit=100")) == []
    _refused(_get(instance, user_id, "grouplist/x"), "invalid", "页码 的值 `x` 的类型不是 `int`", status=422)


# What owners change


def test_a_group_is_renamed_and_announces(instance: Instance, connect: Callable[[int], ChatSocket]) -> None:
    """Members are told of the new name and announcement, from the owner as he appears in the group; applicants are not.

    Where there is nobody to tell them, because the owner's membership is gone, nothing is saved (F14).
    """
    owner, member, waiting = add_users(instance, 3)
    group_id = make_group(instance, owner, [member, waiting])
    set_membership(instance, group_id, waiting, 2)
    _ok(_post(instance, owner, "groupnickname", id=group_id, nickname="群主大人"))
    m, w = connect(member), connect(waiting)

    assert _ok(_post(instance, owner, "groupUpdateName", id=group_id, name="新名")) == "ok"
    assert _ok(_post(instance, owner, "groupremark", id=group_id, remark="开会")) == "ok"

    notice = _told(m, "群名称修改为：新名")
    assert (notice["to_name"], notice["group"]["name"], notice["from_name"]) == ("新名", "新名", "群主大人")
    assert _told(m, "[公告] \n\n 开会")["group"]["remark"] == "开会"
    _ok(_post(instance, owner, "groupAgreeOrNo", group_id=group_id, user_id=waiting, type="agree"))
    _told(w, f"[用户{waiting}] 加入了群聊")
    assert not [text for text in _texts(w) if "公告" in text or "修改" in text]

    with writing(instance) as connection:
        mine = (GroupMember.group_id == group_id, GroupMember.user_id == owner)
        connection.execute(delete(GroupMember).where(*mine))
    _refused(
        _post(instance, owner, "groupUpdateName", id=group_id, name="没人听"), "owner_not_member", "无法通知群成员"
    )
    _refused(_post(instance, owner, "groupremark", id=group_id, remark="没人听"), "owner_not_member", "无法通知群成员")
    group = _ok(_get(instance, member, f"groupinfo/{group_id}"))
    assert (group["name"], group["remark"]) == ("新名", "开会")


def test_members_are_not_owners(instance: Instance) -> None:
    """What is the owner's is refused to members and outsiders, in ORIG's words; new routes do not exist for outsiders."""
    owner, member, outsider = add_users(instance, 3)
    group_id = make_group(instance, owner, [member])
    name, remark = "只有群主才能修改群名称", "只有群主才能修改群公告"
    kick, other = "只有群主才能操作", "群不存在或者被封禁或者你无权操作"
    not_yours = "group_not_yours"
    cases: list[tuple[str, dict[str, Any], str, str]] = [
        ("groupUpdateName", {"id": group_id, "name": "x"}, "not_owner", name),
        ("groupremark", {"id": group_id, "remark": "x"}, "not_owner", remark),
        ("groupDeleteUser", {"group_id": group_id, "user_id": owner}, "not_owner", kick),
        ("groupAddUserSet", {"group_id": group_id, "addGroupSet": 1}, not_yours, other),
        ("groupAgreeOrNo", {"group_id": group_id, "user_id": outsider, "type": "agree"}, not_yours, other),
        ("groupTransfer", {"group_id": group_id, "user_id": member}, "not_found", kick),
        ("groupMute", {"group_id": group_id, "user_id": 0}, "not_found", kick),
    ]

    for route, fields, outside_code, text in cases:
        _refused(_post(instance, member, route, **fields), "not_owner", text)
        if outside_code == "not_found":
            _refused(_post(instance, outsider, route, **fields), "not_found", status=404)
            _refused(_post(instance, outsider, route, **fields | {"group_id": 999_999}), "not_found", status=404)
        else:
            _refused(_post(instance, outsider, route, **fields), outside_code, text)
    answer = HttpClient(instance.base, instance.tokens[member]).call(
        "POST", "/api/chat/groupremark", {"id": group_id, "remark": "x"}, {"Accept-Language": "en"}
    )
    _refused(answer, "not_owner", "Only the owner of the group may do this")


@pytest.mark.parametrize("mode", [3, 10, -1, "x"])
def test_joining_modes_are_three(instance: Instance, mode: Any) -> None:
    """A mode that means nothing is refused instead of kept (F11)."""
    (owner,) = add_users(instance)
    group_id = make_group(instance, owner, [])

    _refused(_post(instance, owner, "groupAddUserSet", group_id=group_id, addGroupSet=mode), "invalid", status=422)
    assert _ok(_post(instance, owner, "groupAddUserSet", group_id=group_id, addGroupSet="2")) == "设置成功"
    assert _newest_group(instance, owner)["invite_confirm"] == 2


def test_a_group_changes_hands(instance: Instance, connect: Callable[[int], ChatSocket]) -> None:
    """The new owner may what the old one might, who stays a member; those who wait are brought to his notice (F22)."""
    owner, member, waiting, outsider = add_users(instance, 4)
    (visitor,) = add_users(instance, role="visitor")
    group_id = make_group(instance, owner, [member, waiting, visitor], name="读书会")
    set_membership(instance, group_id, waiting, 2)
    for user_id in (waiting, outsider, 999_999, *_TOO_BIG):
        answer = _post(instance, owner, "groupTransfer", group_id=group_id, user_id=user_id)
        _refused(answer, "not_found", status=404)
    _refused(_post(instance, owner, "groupTransfer", group_id=group_id, user_id=visitor), "visitor_owner")
    o, m = connect(owner), connect(member)

    assert _ok(_post(instance, owner, "groupTransfer", group_id=group_id, user_id=member)) == "ok"

    for socket in (o, m):
        notice = _told(socket, f"用户{owner}已将群主转让给 [用户{member}]")
        assert notice["group"]["user_id"] == member
    assert _told(m, f"请处理申请 [用户{waiting}] 加入了群[读书会]")["type"] == "text"
    _refused(_post(instance, owner, "groupUpdateName", id=group_id, name="x"), "not_owner")
    _ok(_post(instance, member, "groupUpdateName", id=group_id, name="x"))
    assert _member_ids(instance, owner, group_id) == {owner, member, visitor}


# Coming in


def test_the_inviter_is_who_asks(instance: Instance, connect: Callable[[int], ChatSocket]) -> None:
    """Whoever `inviteuser_id` names: only members invite, only friends of theirs, and approval is not skipped (F9)."""
    owner, member, stranger, friend = add_users(instance, 4)
    befriend(instance, member, friend)
    group_id = make_group(instance, owner, [member], name="读书会")

    def invite(caller: int, user_id: int, inviter: int | None = None) -> _Answer:
        fields = {} if inviter is None else {"inviteuser_id": inviter}
        return _post(instance, caller, "groupInviteUser", group_id=group_id, user_id=user_id, **fields)

    _refused(invite(stranger, friend, owner), "not_in_group", "你不在该群聊中，操作失败")
    _refused(invite(member, stranger), "not_friend_of_inviter")
    _refused(invite(member, owner), "already_member", "用户已经在群里")
    _refused(invite(member, 999_999), "joiner_unavailable", "加群的用户不存在或已被封禁，无法加入群聊")
    _ok(_post(instance, owner, "groupAddUserSet", group_id=group_id, addGroupSet=1))
    o = connect(owner)
    assert _ok(invite(stranger, stranger, owner)) == "等待群主同意"
    assert _status_of(instance, group_id, stranger) == 2
    assert _ok(invite(member, friend, owner)) == "等待群主同意"
    assert _status_of(instance, group_id, friend) == 2
    _told(o, f"请处理申请 [用户{stranger}] 加入了群[读书会]")
    _told(o, f"请处理申请 [用户{member}]邀请 [用户{friend}] 加入了群[读书会]")
    _refused(invite(friend, friend, -1), "application_pending", "已申请加入群聊，正在等待群主同意")


def test_everybody_joins_an_open_group(instance: Instance, connect: Callable[[int], ChatSocket]) -> None:
    """Visitors too; all are told, by the notice that the original's client knows."""
    owner, member = add_users(instance, 2)
    (visitor,) = add_users(instance, role="visitor")
    group_id = make_group(instance, owner, [])
    befriend(instance, owner, member)
    befriend(instance, member, visitor)
    o, v = connect(owner), connect(visitor)

    assert _ok(_post(instance, visitor, "groupInviteUser", group_id=group_id, user_id=visitor)) == "加群成功"
    for socket in (o, v):
        notice = _told(socket, f"[VIS{visitor}] 加入了群聊")
        assert re.fullmatch(rf"redirect-applyAddGroup{group_id}-{visitor}-\d{{13}}", notice["from_id"])
        assert (notice["from_name"], notice["chatType"], notice["type"]) == ("加群申请提醒", "group", "systemNotice")
        assert notice["from_avatar"].endswith("group.png")
        assert notice["msgidKey"] == notice["from_id"]
    answer = _post(instance, owner, "groupInviteUser", group_id=group_id, user_id=member, inviteuser_id=owner)
    assert _ok(answer) == "加群成功"
    _told(v, f"[用户{owner}]邀请 [用户{member}] 加入了群聊")
    assert _newest_group(instance, owner)["avatar"] == ",".join(["/static/media/user.jpg"] * 3)


def test_only_those_who_have_logged_in_join_a_registered_group(
    instance: Instance, connect: Callable[[int], ChatSocket]
) -> None:
    """In mode 2 visitors are sent to log in, users are in at once and members are told; nobody is asked (F10)."""
    owner, user_id = add_users(instance, 2)
    (visitor, befriended) = add_users(instance, 2, role="visitor")
    befriend(instance, owner, befriended)
    group_id = make_group(instance, owner, [], name="读书会")
    _ok(_post(instance, owner, "groupAddUserSet", group_id=group_id, addGroupSet=2))
    o = connect(owner)

    answer = _post(instance, visitor, "groupInviteUser", group_id=group_id, user_id=visitor)
    _refused(answer, "login_to_join", "请先登录再申请进群")
    assert _ok(_post(instance, user_id, "groupInviteUser", group_id=group_id, user_id=user_id)) == "加群成功"
    _told(o, f"[用户{user_id}] 加入了群聊")
    assert _status_of(instance, group_id, user_id) == 1
    _ok(_post(instance, owner, "groupInviteUser", group_id=group_id, user_id=befriended))
    _told(o, f"[用户{owner}]邀请 [VIS{befriended}] 加入了群聊")
    assert not [text for text in _texts(o) if "请处理申请" in text]
    token = start_session(instance, user_id, device="elsewhere", role="visitor")
    other_group = make_group(instance, owner, [])
    _ok(_post(instance, owner, "groupAddUserSet", group_id=other_group, addGroupSet=2))
    fields = {"group_id": other_group, "user_id": user_id}
    answer = HttpClient(instance.base, token).post("/api/chat/groupInviteUser", fields)
    _refused(answer, "login_to_join")  # the session's role counts (C8)


def test_the_owner_lets_in_or_refuses(instance: Instance, connect: Callable[[int], ChatSocket]) -> None:
    """The owner is asked with all he needs; each application is answered once, and both sides learn it (F12)."""
    owner, lucky, unlucky, gone = add_users(instance, 4, avatar="/face.png")
    group_id = make_group(instance, owner, [], name="读书会")
    _ok(_post(instance, owner, "groupAddUserSet", group_id=group_id, addGroupSet=1))
    sockets = {user_id: connect(user_id) for user_id in (owner, lucky, unlucky)}
    for user_id in (lucky, unlucky, gone):
        fields = {"group_id": group_id, "user_id": user_id, "addGroupDesc": "我想加入"}
        assert _ok(_post(instance, user_id, "groupInviteUser", **fields)) == "等待群主同意"
    _refused(HttpClient(instance.base, instance.tokens[lucky]).send(group_id, "x", "group"), "membership_pending")
    change_user(instance, gone, status=0)

    request = _told(sockets[owner], f"请处理申请 [用户{lucky}] 加入了群[读书会]")
    assert (request["chatType"], request["type"], request["from_name"]) == ("single", "text", "加群处理")
    assert (request["to_id"], request["msgidKey"]) == (owner, request["from_id"])
    description = request["redirect"]["desc"]
    assert request["redirect"]["type"] == "navigateTo"
    asked_at_ms = description["addGroupTime"]
    assert description | {"msgidKey": ""} == {
        "addGroupUserType": "用户自主进群",
        "inviteUser": "",
        "addGroupTime": asked_at_ms,
        "addGroupDesc": "我想加入",
        "addGroupUserRole": "user",
        "msgidKey": "",
    }
    # The original's page reads milliseconds there.
    assert request["from_id"] == f"redirect-applyAddGroup{group_id}-{lucky}-{asked_at_ms}"
    assert 0 <= time.time() * 1000 - asked_at_ms < 600_000
    page, _, query = request["redirect"]["url"].partition("?")
    link = {name: values[0] for name, values in parse_qs(query).items()}
    assert page == "/pages/setpageInfo/setpageInfo"
    assert json.loads(link["applydesc"]) == description
    assert (link["action"], link["title"]) == ("applyAddGroup", "加群申请")
    assert (link["id"], link["applyUserid"]) == (str(group_id), str(lucky))
    assert (link["applyUsername"], link["applyUseravatar"], link["chatType"]) == (f"用户{lucky}", "/face.png", "group")

    def answer(user_id: int, kind: str) -> _Answer:
        return _post(instance, owner, "groupAgreeOrNo", group_id=group_id, user_id=user_id, type=kind)

    _refused(answer(gone, "agree"), "applicant_unavailable", "用户不存在或者被封禁")
    _refused(answer(owner, "agree"), "no_application", "非法操作")
    _refused(answer(lucky, "maybe"), "invalid", status=422)
    assert _ok(answer(lucky, "agree")) == "处理成功"
    assert _ok(answer(unlucky, "no")) == "处理成功"
    for user_id in (lucky, unlucky):
        _refused(answer(user_id, "agree"), "no_application", "非法操作")
    for user_id in (owner, lucky):
        _told(sockets[user_id], f"[用户{lucky}] 加入了群聊")
    refusal = _told_like(sockets[unlucky], "群主拒绝了您加入群聊的申请：读书会")
    assert (refusal["type"], refusal["to_id"], refusal["from_id"]) == ("systemNotice", group_id, owner)
    assert "seq" not in refusal  # it has no place in the group's order
    assert _member_ids(instance, owner, group_id) == {owner, lucky}


# Leaving


def test_a_removed_member_is_told_and_hears_no_more(instance: Instance, connect: Callable[[int], ChatSocket]) -> None:
    """He and the group are told; somebody who is not in it cannot be removed (F13)."""
    owner, removed, member, outsider = add_users(instance, 4)
    group_id = make_group(instance, owner, [removed, member], name="读书会")
    r, m = connect(removed), connect(member)

    def remove(user_id: int) -> _Answer:
        return _post(instance, owner, "groupDeleteUser", group_id=group_id, user_id=user_id)

    _refused(remove(owner), "owner_not_removable", "群主不能删除自己")
    _refused(remove(outsider), "member_not_found")
    assert _ok(remove(removed)) == "删除群成员成功"
    _refused(remove(removed), "member_not_found")

    assert _told(r, "群主已将您移出群聊：读书会")["type"] == "systemNotice"
    assert _told(m, f"群主已将 [用户{removed}] 移出群聊")["group"]["member_count"] == 2
    _flush(instance, owner, group_id, m)
    assert _texts(r) == ["群主已将您移出群聊：读书会"]
    _refused(HttpClient(instance.base, instance.tokens[removed]).send(group_id, "x", "group"), "not_member")


def test_what_one_is_not_in_does_not_exist(instance: Instance) -> None:
    """History and read marker of a group are for its members; to applicants, the removed and strangers they are 404."""
    owner, removed, applicant, stranger = add_users(instance, 4)
    group_id = make_group(instance, owner, [removed])
    _ok(_post(instance, owner, "groupAddUserSet", group_id=group_id, addGroupSet=1))
    _ok(_post(instance, applicant, "groupInviteUser", group_id=group_id, user_id=applicant))
    seq = HttpClient(instance.base, instance.tokens[removed]).send(group_id, "mine", "group")[1]["data"]["seq"]
    of_group = f"history?chatType=group&peer_id={group_id}"
    assert len(_ok(_get(instance, removed, of_group))["messages"]) == 1
    _ok(_post(instance, removed, "read", chatType="group", peer_id=group_id, seq=seq))
    _ok(_post(instance, owner, "groupDeleteUser", group_id=group_id, user_id=removed))

    for user_id in (removed, applicant, stranger):
        _refused(_get(instance, user_id, of_group), "not_found", status=404)
        answer = _post(instance, user_id, "read", chatType="group", peer_id=group_id, seq=seq)
        _refused(answer, "not_found", status=404)
    for nowhere in _TOO_BIG:
        for chat_type in ("single", "group"):
            path = f"history?chatType={chat_type}&peer_id={nowhere}"
            _refused(_get(instance, owner, path), "not_found", status=404)
            answer = _post(instance, owner, "read", chatType=chat_type, peer_id=nowhere, seq=1)
            _refused(answer, "not_found", status=404)
    assert _ok(_get(instance, owner, f"history?chatType=single&peer_id={stranger}"))["messages"] == []


def test_a_member_who_leaves_is_told_to_the_owner(instance: Instance, connect: Callable[[int], ChatSocket]) -> None:
    """The owner only is told, with the local time."""
    owner, leaving, member = add_users(instance, 3)
    group_id = make_group(instance, owner, [leaving, member])
    o, m = connect(owner), connect(member)

    assert _ok(_post(instance, leaving, "groupDeleteOrQuit", id=group_id)) == "ok"

    notice = _told_like(o, rf"用户{leaving}于 {_LOCAL_TIME} 已退出群聊")
    assert (notice["chatType"], notice["to_id"], notice["from_id"]) == ("group", group_id, leaving)
    _flush(instance, owner, group_id, o, m)
    assert not [text for text in _texts(m) if "退出" in text]
    answer = _post(instance, leaving, "groupDeleteOrQuit", id=group_id)
    _refused(answer, "not_in_group", "你不在该群聊中，操作失败")
    assert _member_ids(instance, owner, group_id) == {owner, member}


def test_an_applicant_withdraws_without_a_word(instance: Instance, connect: Callable[[int], ChatSocket]) -> None:
    """Who takes his application back has left nothing, and the owner hears nothing of it (F16)."""
    owner, applicant = add_users(instance, 2)
    group_id = make_group(instance, owner, [], name="读书会")
    _ok(_post(instance, owner, "groupAddUserSet", group_id=group_id, addGroupSet=1))
    o = connect(owner)
    join = {"group_id": group_id, "user_id": applicant}

    _ok(_post(instance, applicant, "groupInviteUser", **join))
    assert _ok(_post(instance, applicant, "groupDeleteOrQuit", id=group_id)) == "ok"
    assert _status_of(instance, group_id, applicant) is None
    _ok(_post(instance, applicant, "groupInviteUser", **join))

    asked = f"请处理申请 [用户{applicant}] 加入了群[读书会]"
    o.wait_for(lambda _: _texts(o).count(asked) == 2)
    assert set(_texts(o)) == {asked}


def test_a_dissolved_group_tells_everybody(instance: Instance, connect: Callable[[int], ChatSocket]) -> None:
    """Members, and those who wait, are told; then nobody has the group any more, though its rows remain (F15)."""
    owner, member, waiting = add_users(instance, 3)
    group_id = make_group(instance, owner, [member, waiting])
    set_membership(instance, group_id, waiting, 2)
    sockets = [connect(user_id) for user_id in (owner, member, waiting)]

    assert _ok(_post(instance, owner, "groupDeleteOrQuit", id=group_id)) == "ok"

    for socket in sockets:
        notice = _told_like(socket, rf"群主于 {_LOCAL_TIME} 解散了该群")
        assert (notice["type"], notice["to_id"]) == ("systemNotice", group_id)
    for user_id in (owner, member):
        assert _ok(_get(instance, user_id, "grouplist/1")) == []
        _refused(_post(instance, user_id, "groupDeleteOrQuit", id=group_id), "group_not_found", "群不存在")
        _refused(_get(instance, user_id, f"groupinfo/{group_id}"), "group_not_open", "群不存在或被封禁")
        answer = HttpClient(instance.base, instance.tokens[user_id]).send(group_id, "x", "group")
        _refused(answer, "group_unavailable")
    _refused(
        _post(instance, waiting, "groupInviteUser", group_id=group_id, user_id=waiting),
        "group_not_joinable",
        "群不存在或者被封禁",
    )
    with writing(instance) as connection:
        assert connection.execute(select(Group.status).where(Group.id == group_id)).scalar_one() == 0


def test_a_group_nickname_is_shown(instance: Instance, connect: Callable[[int], ChatSocket]) -> None:
    """A member's next message carries the name he chose in the group; outsiders choose none."""
    owner, member, outsider = add_users(instance, 3)
    group_id = make_group(instance, owner, [member])
    o = connect(owner)

    assert _ok(_post(instance, member, "groupnickname", id=group_id, nickname="小明")) == "ok"
    sent = _ok(HttpClient(instance.base, instance.tokens[member]).send(group_id, "hello", "group"))

    assert sent["from_name"] == _told(o, "hello")["from_name"] == "小明"
    answer = _post(instance, outsider, "groupnickname", id=group_id, nickname="x")
    _refused(answer, "not_in_group", "你不在该群聊中，无法修改昵称")


# QR codes


def _qrcode(instance: Instance, user_id: int, subject_id: int, **query: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", instance.port, timeout=15.0)) as connection:
        given = urlencode({"token": instance.tokens[user_id], **query})
        connection.request("GET", f"/api/chat/groupQrcode/{subject_id}?{given}")
        response = connection.getresponse()
        return response.status, response.read()


def test_a_qr_code_leads_to_a_group_or_a_user(instance: Instance) -> None:
    """It holds the group or user as JSON, or a link to a page of ours; a user's needs no link either (F18)."""
    owner, other = add_users(instance, 2)
    change_user(instance, other, avatar="/face.png")
    group_id = make_group(instance, owner, [], name="读书会")
    page = f"{instance.base}/h5/"

    assert _qrcode(instance, owner, group_id) == (200, qr.picture(qr.card(group_id, "读书会")))
    assert _qrcode(instance, owner, other, chatType="single") == (200, qr.picture(qr.card(other, f"用户{other}")))
    link = qr.link(page, "group", group_id, "读书会", "")
    assert _qrcode(instance, owner, group_id, type="H5", http=page, chatType="group") == (200, qr.picture(link))
    link = qr.link(page, "single", other, f"用户{other}", "/face.png")
    assert _qrcode(instance, owner, other, type="H5", http=page, chatType="single") == (200, qr.picture(link))
    assert link.startswith(
        f"{page}#/pages/setpageInfo/setpageInfo?action=autoAddGroup&title=%E5%8A%A0%E7%94%A8%E6%88%B7"
    )
    assert link.endswith(f"&id={other}&chatType=single&name=%E7%94%A8%E6%88%B7{other}&avatar=%2Fface.png")


def test_a_qr_code_leads_nowhere_else(instance: Instance) -> None:
    """An address that is none of ours is refused, and so are groups of others and users that are none (F18)."""
    owner, outsider = add_users(instance, 2)
    group_id = make_group(instance, owner, [])
    host = instance.base.removeprefix("http://")

    for address in (
        "https://evil.example",
        f"https://{host}@evil.example",
        f"javascript://{host}/",
        f"{instance.base}?x",
    ):
        status, body = _qrcode(instance, owner, group_id, type="H5", http=address)
        assert (status, json.loads(body)["code"]) == (422, "invalid"), address
    status, body = _qrcode(instance, outsider, group_id)
    assert (status, json.loads(body)["data"]) == (400, "群不存在或被封禁或者您不在该群聊中")
    for nobody in (999_999, *_TOO_BIG):
        status, body = _qrcode(instance, outsider, nobody, chatType="single")
        assert (status, json.loads(body)["data"]) == (400, "用户不存在或被封禁")
        assert _qrcode(instance, outsider, nobody)[0] == 400
    assert _qrcode(instance, owner, group_id, chatType="both")[0] == 422


# Whatever is asked


def test_ids_that_no_column_holds_do_not_exist(fresh_instance: InstanceFactory, postgres_url: str) -> None:
    """An id beyond what the database can hold is answered as any other id of nothing."""
    instance = fresh_instance(DATABASE_URL=postgres_url)
    (owner,) = add_users(instance)
    group_id = make_group(instance, owner, [])

    for number in _TOO_BIG:
        for route, fields in (
            ("groupUpdateName", {"id": number, "name": "x"}),
            ("groupremark", {"id": number, "remark": "x"}),
            ("groupDeleteUser", {"group_id": number, "user_id": owner}),
            ("groupDeleteUser", {"group_id": group_id, "user_id": number}),
            ("groupAddUserSet", {"group_id": number, "addGroupSet": 1}),
            ("groupInviteUser", {"group_id": number, "user_id": owner}),
            ("groupInviteUser", {"group_id": group_id, "user_id": number}),
            ("groupAgreeOrNo", {"group_id": group_id, "user_id": number, "type": "no"}),
            ("groupnickname", {"id": number, "nickname": "x"}),
            ("groupDeleteOrQuit", {"id": number}),
            ("groupTransfer", {"group_id": number, "user_id": owner}),
            ("groupMute", {"group_id": group_id, "user_id": number}),
            ("group/create", {"userIds": [number]}),
        ):
            answer = _post(instance, owner, route, **fields)
            assert answer[0] in (400, 404), (route, answer)
        assert _get(instance, owner, f"groupinfo/{number}")[0] == 400
        assert _ok(_get(instance, owner, f"grouplist/{number}?limit=100")) == []
        assert _qrcode(instance, owner, number)[0] == 400


def test_visitors_use_what_the_original_lets_them(instance: Instance) -> None:
    """Making and managing groups wants a login."""
    (visitor,) = add_users(instance, role="visitor")
    for route in (
        "group/create",
        "groupUpdateName",
        "groupremark",
        "groupDeleteUser",
        "groupAddUserSet",
        "groupAgreeOrNo",
        "groupTransfer",
        "groupMute",
    ):
        _refused(_post(instance, visitor, route), "visitors_excluded")
    for route in ("groupInviteUser", "groupnickname", "groupDeleteOrQuit"):
        _refused(_post(instance, visitor, route), "invalid", status=422)
    assert _ok(_get(instance, visitor, "grouplist/1")) == []


# Everybody at once


def _at_once(calls: list[Callable[[], _Answer]]) -> Counter[str]:
    """Make calls at the same moment and count their outcomes: `data` of a success, code of a refusal."""
    start = Barrier(len(calls))

    def run(call: Callable[[], _Answer]) -> str:
        start.wait()
        status, body = call()
        return str(body["data"] if status == 200 else body["code"])

    with ThreadPoolExecutor(len(calls)) as pool:
        return Counter(pool.map(run, calls))


def _rows(instance: Instance, group_id: int) -> list[int]:
    query = select(func.count()).where(GroupMember.group_id == group_id).group_by(GroupMember.user_id)
    with writing(instance) as connection:
        return list(connection.execute(query).scalars())


def test_parallel_changes_of_members_are_one_after_the_other(
    fresh_instance: InstanceFactory, database_url: str
) -> None:
    """Nobody is in a group twice, a full one takes nobody more, and each application is answered once (F1, F8, F12)."""
    most = 12
    instance = fresh_instance(DATABASE_URL=database_url, GROUP_MAX_MEMBERS=str(most), RATE_LIMIT_SENDS="off")
    owner, *others = add_users(instance, 21)
    group_id = make_group(instance, owner, [])

    def call(user_id: int, route: str, /, **fields: Any) -> Callable[[], _Answer]:
        client = HttpClient(instance.base, instance.tokens[user_id], timeout=60.0)
        return lambda: client.post(f"/api/chat/{route}", fields)

    def joins(user_id: int, count: int) -> list[Callable[[], _Answer]]:
        return [call(user_id, "groupInviteUser", group_id=group_id, user_id=user_id) for _ in range(count)]

    first = others[0]
    assert _at_once(joins(first, 12)) == {"加群成功": 1, "already_member": 11}
    everybody = _at_once([join for user_id in others[1:] for join in joins(user_id, 1)])
    assert everybody == {"加群成功": most - 2, "group_full": len(others) - 1 - (most - 2)}
    assert _rows(instance, group_id) == [1] * most

    members = _member_ids(instance, owner, group_id) - {owner}
    removed = min(members)
    kick = call(owner, "groupDeleteUser", group_id=group_id, user_id=removed)
    assert _at_once([kick] * 8) == {"删除群成员成功": 1, "member_not_found": 7}
    kicks = [call(owner, "groupDeleteUser", group_id=group_id, user_id=user_id) for user_id in members - {removed}]
    assert _at_once(kicks) == {"删除群成员成功": most - 2}
    assert _rows(instance, group_id) == [1]

    _ok(_post(instance, owner, "groupAddUserSet", group_id=group_id, addGroupSet=1))
    assert _at_once(joins(first, 8)) == {"等待群主同意": 1, "application_pending": 7}
    answers = [
        call(owner, "groupAgreeOrNo", group_id=group_id, user_id=first, type=kind) for kind in ["agree", "no"] * 4
    ]
    assert _at_once(answers) == {"处理成功": 1, "no_application": 7}
    assert len(_rows(instance, group_id)) in (1, 2)

    set_to = others[5:8]
    for user_id in set_to:
        _ok(_post(instance, user_id, "groupInviteUser", group_id=group_id, user_id=user_id))
        _ok(_post(instance, owner, "groupAgreeOrNo", group_id=group_id, user_id=user_id, type="agree"))
    outcome = _at_once([call(owner, "groupTransfer", group_id=group_id, user_id=user_id) for user_id in set_to])
    assert outcome == {"ok": 1, "not_owner": 2}
    last = _ok(_get(instance, set_to[0], f"groupinfo/{group_id}"))["user_id"]
    assert last in set_to
    assert _at_once([call(last, "groupDeleteOrQuit", id=group_id) for _ in range(6)]) == {"ok": 1, "group_not_found": 5}
