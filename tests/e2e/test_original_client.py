"""The original's client against this server: it must work as it is, with every rule and habit it has (ORIG section 8)."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urljoin
from urllib.request import urlopen

import pytest

from models import notices
from models.requests import conversation_key
from models.store import keys
from schemas.accounts import visitor_signature
from tests.support.acting import live_place, open_placed, open_socket
from tests.support.client import ChatSocket, HttpClient
from tests.support.instance import Instance, Kind, wait_until
from tests.support.original_client import (
    LOGGED_IN_ELSEWHERE,
    NOT_CONNECTED,
    OWN_RECALL,
    SESSION_LOST,
    OriginalClient,
    text_of,
)
from tests.support.relations import (
    add_member,
    add_users,
    befriend,
    change_user,
    disable_friend_row,
    make_group,
    set_membership,
    set_strangers,
    start_session,
    unfriend,
    writing,
)

_MEDIA = "https://media.example/chat/"
_LIMIT = "在成为好友之前，对方只允许向他发一条消息"
_FRIENDS_ONLY = {
    "visitor": "你们不是好友关系，对方设置成：先登录才能发消息",
    "user": "对方设置成：需要您先成为他的好友才能发消息",
}
_BLOCKED = {"visitor": "对方把你拉黑了，不能发消息", "user": "对方把你拉黑了，不能发送消息"}
_DISABLED = {"visitor": "系统把你们拉黑了，不能发消息", "user": "系统把你们拉黑了，不能发送消息"}
_I_BLOCK = "您已把对方拉黑，请先解除拉黑再发消息"
_ROLES = ("visitor", "user")
_TOLD_AT = ("chatGetmessageOffLine", "getUserSetInfo")  # where a token's failure is told: to the client, and to people

# A name and an avatar with every character that makes a difference in a link, and their encodeURIComponent.
_NICKNAME, _ENCODED_NICKNAME = "甲 B&c=d/é!~*'()", "%E7%94%B2%20B%26c%3Dd%2F%C3%A9!~*'()"
_AVATAR = "https://a.example/图?x=1&y=2#z"
_ENCODED_AVATAR = "https%3A%2F%2Fa.example%2F%E5%9B%BE%3Fx%3D1%26y%3D2%23z"

_SETTINGS_PAGE = "/pages/setpageInfo/setpageInfo?action="
# ORIG section 4, column [seed]: key, from_name, text, from_avatar, redirect.url. `<id>` stands for the user's id.
_GREETINGS: dict[str, tuple[str, str, str, str]] = {
    "groupList": (
        "我的群聊",
        "可查看我加入的群聊列表",
        f"{_MEDIA}img/grouplist.png",
        "/pages/applyMyfriend/applyMyfriend?action=grouplist"
        "&title=%E6%88%91%E7%9A%84%E7%BE%A4%E8%81%8A%E5%88%97%E8%A1%A8",
    ),
    "friendsList": (
        "我的通讯录",
        "可查看我的通讯录好友",
        f"{_MEDIA}img/friendList.png",
        "/pages/friendsList/friendsList",
    ),
    "userInfoSet": (
        "头像设置",
        "不满意你的头像可以更换",
        _AVATAR,
        _SETTINGS_PAGE + "userinfoSet&title=%E8%B4%A6%E5%8F%B7%E4%BF%A1%E6%81%AF%E8%AE%BE%E7%BD%AE"
        "&redirectUrl=%2Fpages%2Fwode%2Fwode&redirectType=switchTab",
    ),
    "whoCanChatMe": (
        "谁可以和我聊天",
        "设置聊天对象",
        f"{_MEDIA}img/whoCanChatMe.png",
        _SETTINGS_PAGE + "chatset&title=%E8%B0%81%E5%8F%AF%E4%BB%A5%E5%92%8C%E6%88%91%E8%81%8A%E5%A4%A9",
    ),
    "myQrcode": (
        "我的二维码",
        "展示给别人加你为好友",
        f"{_MEDIA}img/myQrcode1.png",
        _SETTINGS_PAGE + "groupQrcode&title=%E6%88%91%E7%9A%84%E4%BA%8C%E7%BB%B4%E7%A0%81&id=<id>"
        f"&name={_ENCODED_NICKNAME}&avatar={_ENCODED_AVATAR}&chatType=single",
    ),
    "search": ("搜索加好友", "搜索账号加好友或聊天", f"{_MEDIA}img/search.png", "/pages/search/search"),
    "visitorLogin": (
        "系统消息",
        "欢迎您，登录可以获取更多功能！",
        f"{_MEDIA}kefu.png",
        "/pages/loginCenter/loginCenter",
    ),
}
_ALWAYS = ["userInfoSet", "whoCanChatMe", "myQrcode", "search"]


@pytest.fixture(scope="module")
def chat() -> Iterator[Instance]:
    """One instance for all tests of this module that behave; users are made as they are needed."""
    with Instance({"MEDIA_URL": _MEDIA, "HEARTBEAT_SECONDS": "3"}) as instance:
        instance.seed(2, 0)
        yield instance


@pytest.fixture(scope="module")
def rough() -> Iterator[Instance]:
    """One instance for the tests that kill its processes."""
    with Instance() as instance:
        instance.seed(2, 0)
        yield instance


@pytest.fixture
def strangers(chat: Instance) -> tuple[int, int]:
    """Two users who have never heard of each other."""
    first_id, second_id = add_users(chat, 2)
    return first_id, second_id


@pytest.fixture
def pair(chat: Instance, strangers: tuple[int, int]) -> tuple[int, int]:
    """Two friends."""
    befriend(chat, *strangers)
    return strangers


def _client(instance: Instance, user_id: int, **options: Any) -> OriginalClient:
    return OriginalClient(instance.base, user_id, instance.tokens[user_id], **options)


def _send(instance: Instance, sender_id: int, to: int, text: str = "x", *, token: str = "") -> tuple[int, Any]:
    return HttpClient(instance.base, token or instance.tokens[sender_id]).send(to, text)


def _refusal(answer: tuple[int, Any]) -> tuple[str, str]:
    status, body = answer
    assert status == 400, answer
    assert body["msg"] == "fail"
    return body["code"], body["data"]


def _post(instance: Instance, caller_id: int, path: str, /, **fields: Any) -> Any:
    status, body = HttpClient(instance.base, instance.tokens[caller_id]).post(path, fields)
    assert status == 200, (path, fields, body)
    return body["data"]


def _get(instance: Instance, user_id: int, path: str) -> Any:
    status, body = HttpClient(instance.base, instance.tokens[user_id]).get(path)
    assert status == 200, (path, body)
    return body["data"]


def _history(
    instance: Instance,
    user_id: int,
    peer_id: int,
    chat_type: str = "single",
    *,
    limit: int = 50,
    before: int | None = None,
) -> Any:
    rest = f"&limit={limit}" + (f"&before={before}" if before is not None else "")
    return _get(instance, user_id, f"/api/chat/history?chatType={chat_type}&peer_id={peer_id}{rest}")


def _conversations(instance: Instance, user_id: int) -> dict[tuple[str, int], dict[str, Any]]:
    listed = _get(instance, user_id, "/api/chat/conversations")["conversations"]
    return {(line["chatType"], line["peer_id"]): line for line in listed}


def _greetings(frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in frames if str(message["from_id"]).startswith("redirect-")]


def _expected_greeting(key: str, user_id: int) -> dict[str, Any]:
    name, text, avatar, url = _GREETINGS[key]
    return {
        "from_avatar": avatar,
        "from_name": name,
        "from_id": f"redirect-{key}-{user_id}",
        "to_id": user_id,
        "to_name": _NICKNAME,
        "to_avatar": _AVATAR,
        "chatType": "single",
        "type": "text",
        "data": {"data": text, "dataType": False, "otherData": None},
        "redirect": {"url": url.replace("<id>", str(user_id)), "type": "navigateTo"},
        "options": {},
        "isremove": 0,
        "group": {},
        "msgidKey": f"redirect-{key}-{user_id}",
    }


def _check_greeted(client: OriginalClient, user_id: int, keys: list[str]) -> None:
    """Check that exactly these greetings came, in this order, with all their sixteen fields."""
    client.wait_for(lambda: len(client.shown) >= len(keys))
    before_ms = time.time() * 1000
    greetings = _greetings(client.shown)
    assert [greeting["from_id"] for greeting in greetings] == [f"redirect-{key}-{user_id}" for key in keys]
    for greeting, key in zip(greetings, keys, strict=True):
        assert len(greeting) == 16
        uuid.UUID(greeting.pop("id"))
        assert before_ms - 60_000 < greeting.pop("create_time") <= before_ms + 1_000
        assert greeting == _expected_greeting(key, user_id)


# Greetings (ORIG section 4)


@pytest.mark.parametrize("has_friend", [False, True], ids=["no friend", "a friend"])
@pytest.mark.parametrize("has_group", [False, True], ids=["no group", "a group"])
def test_a_user_is_greeted_as_by_the_seed(chat: Instance, has_group: bool, has_friend: bool) -> None:
    """A registered user gets the seed's notices 1 to 6, the first two only where he has groups and friends."""
    user_id, other_id = add_users(chat, 2, nickname=_NICKNAME, avatar=_AVATAR)
    if has_group:
        make_group(chat, other_id, [user_id])
    if has_friend:
        befriend(chat, user_id, other_id)
    expected = ["groupList"] * has_group + ["friendsList"] * has_friend + _ALWAYS

    with _client(chat, user_id) as client:
        _check_greeted(client, user_id, expected)

        # What came later stands higher, and nothing else came.
        assert [item.id for item in client.chatlist] == [f"redirect-{key}-{user_id}" for key in reversed(expected)]
        assert client.ignored == []
        client.wait_for(lambda: client.fetches == [(200, {"msg": "ok", "data": "ok"})])


@pytest.mark.parametrize("has_group", [False, True], ids=["no group", "a group"])
@pytest.mark.parametrize("row_role", ["user", "visitor"])
def test_a_visitor_session_is_greeted_as_a_visitor(chat: Instance, row_role: str, has_group: bool) -> None:
    """The session's role decides, whatever role the account has: a visitor gets notice 1 and the one to log in."""
    user_id, other_id = add_users(chat, 2, role=row_role, nickname=_NICKNAME, avatar=_AVATAR)
    befriend(chat, user_id, other_id)
    if has_group:
        make_group(chat, other_id, [user_id])
    token = start_session(chat, user_id, role="visitor")

    with OriginalClient(chat.base, user_id, token, role="visitor") as client:
        _check_greeted(client, user_id, ["groupList"] * has_group + ["visitorLogin"])


def test_what_does_not_count_is_not_greeted(chat: Instance) -> None:
    """A membership that is muted or waits, and a friend who is disabled, bring no notice about groups and friends."""
    user_id, other_id = add_users(chat, 2, nickname=_NICKNAME, avatar=_AVATAR)
    for status in (0, 2):
        set_membership(chat, make_group(chat, other_id, [user_id]), user_id, status)
    befriend(chat, user_id, other_id)
    disable_friend_row(chat, user_id, other_id)

    with _client(chat, user_id) as client:
        _check_greeted(client, user_id, _ALWAYS)


def test_the_icons_stand_below_media_url(instance: Instance, friends: tuple[int, int]) -> None:
    """Without a MEDIA_URL of one's own the icons of the notices are this server's."""
    with _client(instance, friends[0]) as client:
        client.wait_for(lambda: len(_greetings(client.shown)) >= 5)
        avatars = {str(greeting["from_id"]).split("-")[1]: greeting["from_avatar"] for greeting in client.shown}

    assert avatars["search"] == "/static/media/img/search.png"
    assert avatars["friendsList"] == "/static/media/img/friendList.png"


def test_greetings_may_come_again_and_again(chat: Instance, strangers: tuple[int, int]) -> None:
    """Each connect brings the greetings; the list of chats and the unread count stay, and nothing is stored."""
    user_id, _ = strangers
    with _client(chat, user_id) as client:
        client.wait_for(lambda: len(client.shown) == 4)
        first_list, first_unread = [item.id for item in client.chatlist], client.unread_total
        for connects in (2, 3):
            client.drop()
            client.wait_for(lambda connects=connects: len(client.shown) == 4 * connects)  # type: ignore[misc]

        assert [item.id for item in client.chatlist] == first_list
        assert client.unread_total == first_unread == 4
        assert len({message["id"] for message in client.shown}) == len(client.shown)
    assert _conversations(chat, user_id) == {}
    with closing(chat.redis()) as redis:
        assert redis.hget(f"cursor_{{{user_id}}}", "next") in (None, "0")
        assert redis.llen(f"chat_getmessage_{{{user_id}}}") == 0
    with closing(sqlite3.connect(chat.data_dir / "hongyan.db")) as database:
        count = database.execute("SELECT count(*) FROM message WHERE ? IN (sender_id, recipient_id)", (user_id,))
        assert count.fetchone() == (0,)


@pytest.mark.parametrize("wants", [False, True], ids=["by itself", "notices=1"])
def test_protocol_2_gets_greetings_only_where_it_asks(chat: Instance, pair: tuple[int, int], wants: bool) -> None:
    """A protocol 2 client is greeted with notices=1 only, without a cursor, and before anything that has one."""
    sender_id, user_id = pair
    text = uuid.uuid4().hex
    assert _send(chat, sender_id, user_id, text)[0] == 200

    with ChatSocket(chat.base, chat.tokens[user_id], 2, query={"notices": "1"} if wants else None) as socket:
        socket.wait_for_text(text)
        frames = [frame.data for frame in socket.frames if frame.data["type"] == "singleChat"]

    keys = ["friendsList", *_ALWAYS] if wants else []
    assert [frame["data"]["from_id"] for frame in frames] == [f"redirect-{k}-{user_id}" for k in keys] + [sender_id]
    assert ["cursor" in frame for frame in frames] == [False] * len(keys) + [True]


# Chatting


def test_two_users_chat(chat: Instance, pair: tuple[int, int]) -> None:
    """Own messages are pending, then have the server's id; the other's raise the unread count, unless he is looked at."""
    alice, bob = pair
    with _client(chat, alice) as a, _client(chat, bob) as b:
        b.wait_for(lambda: len(b.shown) == 5)
        before = b.unread_total

        sent = a.send(bob, "你好 & 100% +1 ?", options={"k": "v=&+ %"})
        b.wait_for_text(alice, "你好 & 100% +1 ?")

        assert sent["sendStatus"] == "success"
        (received,) = b.history(alice)
        assert received["id"] == sent["id"]
        assert received["options"] == sent["options"] == {"k": "v=&+ %"}
        assert received["data"] == sent["data"]
        assert (b.item(alice).noreadnum, b.unread_total) == (1, before + 1)
        assert (b.chatlist[0].id, b.chatlist[0].datadesc) == (alice, "你好 & 100% +1 ?")
        assert (a.chatlist[0].id, a.item(bob).noreadnum, a.item(bob).name) == (bob, 0, f"用户{bob}")

        b.open_chat(alice)
        a.send(bob, "second")
        b.wait_for_text(alice, "second")
        b.send(alice, "answer")
        a.wait_for_text(bob, "answer")

        assert (b.item(alice).noreadnum, b.unread_total) == (0, before)
        assert a.texts(bob) == b.texts(alice) == ["你好 & 100% +1 ?", "second", "answer"]
        assert [m["id"] for m in a.history(bob)] == [m["id"] for m in b.history(alice)]
        assert a.item(bob).noreadnum == 1
        assert (a.ignored, b.ignored) == ([], [])


@pytest.mark.parametrize("to_cloud", [False, True], ids=["to the server", "to the cloud"])
@pytest.mark.parametrize("role", _ROLES)
def test_a_picture_is_uploaded_and_shown(chat: Instance, pair: tuple[int, int], role: str, to_cloud: bool) -> None:
    """The client uploads it, sends its URL, and the other's page loads it from there, below its base URL or as it is."""
    alice, bob = pair
    chat.tokens[alice] = start_session(chat, alice, role=role)
    picture = b"\x89PNG\r\n\x1a\n" + bytes(100)
    with _client(chat, alice) as a, _client(chat, bob) as b:
        sent = a.send_image(bob, "微信图片.png", picture, to_cloud=to_cloud)
        assert sent["sendStatus"] == "success", sent
        b.wait_for(lambda: any(m["id"] == sent["id"] for m in b.shown))

        (received,) = b.history(alice)
        body = json.loads(received["data"])
        assert (received["type"], body["dataType"]) == ("image", "image")
        assert b.item(alice).datadesc == "[图片]"
        with urlopen(urljoin(chat.base, body["data"]), timeout=10) as loaded:
            assert (loaded.read(), loaded.headers["Content-Type"]) == (picture, "image/png")


def test_a_refused_message_stands_as_failed(chat: Instance, strangers: tuple[int, int]) -> None:
    """The client shows the server's text at a message that was refused, and the other sees nothing of it."""
    alice, bob = strangers
    with _client(chat, alice) as a, _client(chat, bob) as b:
        assert a.send(bob, "first")["sendStatus"] == "success"
        refused = a.send(bob, "second")
        befriend(chat, alice, bob)
        a.send(bob, "third")
        b.wait_for_text(alice, "third")

        assert (refused["id"], refused["sendStatus"], refused["reason"]) == (0, "fail", _LIMIT)
        assert b.texts(alice) == ["first", "third"]


def test_who_was_away_gets_everything_once(chat: Instance, pair: tuple[int, int]) -> None:
    """What was written to a closed client is there in order when it opens, and once, though it also asks for it."""
    alice, bob = pair
    texts = [f"message {number}" for number in range(30)]
    with _client(chat, alice) as a:
        for text in texts[:20]:
            assert a.send(bob, text)["sendStatus"] == "success"
        with _client(chat, bob) as b:
            for text in texts[20:]:
                a.send(bob, text)
            b.wait_for_text(alice, texts[-1])

            assert b.texts(alice) == texts
            assert b.item(alice).noreadnum == 30
            assert [m["create_time"] for m in b.history(alice)] == [m["create_time"] for m in a.history(bob)]


def test_a_group_chats(chat: Instance) -> None:
    """Members see each other's messages in the group's chat, the sender his own once, outsiders and the list nothing more."""
    owner, *members = add_users(chat, 4)
    group_id = make_group(chat, owner, members, name="读书会")
    with ExitStack() as stack:
        clients = {user_id: stack.enter_context(_client(chat, user_id)) for user_id in (owner, *members)}
        for number, (user_id, client) in enumerate(clients.items()):
            sent = client.send(group_id, f"message {number}", "group")
            assert sent["sendStatus"] == "success", sent
            assert sent["group"]["member_count"] == 4
            for other_id, other in clients.items():
                if other_id != user_id:
                    other.wait_for_text(group_id, f"message {number}", "group")

        for user_id, client in clients.items():
            assert client.texts(group_id, "group") == [f"message {number}" for number in range(4)]
            line = client.item(group_id, "group")
            assert (line.name, line.noreadnum) == ("读书会", 3)
            assert line.group == {"user_id": owner, "remark": "", "invite_confirm": 0}
            assert [item.id for item in client.chatlist if item.chat_type == "single" and item.id == user_id] == []


def test_users_of_different_processes_chat(chat: Instance) -> None:
    """Whichever web process holds whose socket, messages go both ways."""
    user_ids = add_users(chat, 6)

    def are_apart() -> bool:
        places = [chat.holders(user_id) for user_id in user_ids]
        return all(places) and len(set.union(*places)) > 1

    with ExitStack() as stack:
        clients = {user_id: stack.enter_context(_client(chat, user_id)) for user_id in user_ids}
        for _ in range(20):
            if wait_until(are_apart, 2.0):
                break
            clients[user_ids[0]].drop()  # chance decides who accepts it anew
        place = {user_id: next(iter(chat.holders(user_id))) for user_id in user_ids}
        alice = user_ids[0]
        bob = next(user_id for user_id in user_ids if place[user_id] != place[alice])
        befriend(chat, alice, bob)

        clients[alice].send(bob, "there")
        clients[bob].wait_for_text(alice, "there")
        clients[bob].send(alice, "and back")
        clients[alice].wait_for_text(bob, "and back")


def _queue_notice(instance: Instance, about_id: int, to_id: int, text: str, **fields: Any) -> None:
    """Leave a notice of a stranger's doing behind, old enough for the next drain to tell it."""
    message = {
        "from_avatar": "/a.png",
        "from_name": "好友申请提醒",
        "to_id": to_id,
        "to_name": "",
        "to_avatar": "",
        "chatType": "single",
        "type": "text",
        "data": {"data": text, "dataType": False, "otherData": None},
        "options": {},
        **fields,
    }
    request = notices.build(
        "single",
        about_id=about_id,
        to_id=to_id,
        conversation=conversation_key("single", about_id, to_id),
        message=message,
        is_to_sender=False,
    )
    old = replace(request, created_at_ms=request.created_at_ms - 10_000)
    with writing(instance) as connection:
        notices.queue(connection, [old])


def test_notices_with_a_redirect_are_shown_once(chat: Instance, pair: tuple[int, int]) -> None:
    """A second notice of the same purpose is hidden behind the first; one about the avatar replaces it in place."""
    alice, bob = pair
    applicant, avatar = f"redirect-applyFriend-{alice}", f"redirect-userInfoSet-{bob}"
    go = {"url": "/pages/applyMyfriend/applyMyfriend", "type": "navigateTo"}
    with _client(chat, bob) as b:
        b.wait_for(lambda: len(b.shown) == 5)
        for text in ("please", "please!"):
            _queue_notice(chat, alice, bob, text, from_id=applicant, msgidKey=applicant, redirect=go)
        again = {"from_id": avatar, "from_avatar": "/new.png", "redirect": {**go, "doaction": "avatar"}}
        _queue_notice(chat, alice, bob, "不满意你的头像可以继续更换", **again)
        order = [item.id for item in b.chatlist]
        _send(chat, alice, bob, "go")
        b.wait_for(lambda: len(b.shown) == 9)

        assert b.texts(applicant) == ["please"]
        assert (b.item(applicant).redirect, b.item(applicant).noreadnum) == (go, 1)
        assert (b.item(avatar).avatar, b.item(avatar).datadesc) == ("/new.png", "不满意你的头像可以继续更换")
        assert [item.id for item in b.chatlist if item.id in order] == order


def test_a_recall_hides_the_message_on_both_sides(chat: Instance, pair: tuple[int, int]) -> None:
    """A recall finds the message in the other's local history; who was away is shown the recalled text never."""
    alice, bob = pair
    with _client(chat, alice) as a:
        with _client(chat, bob) as b:
            kept, recalled = a.send(bob, "kept"), a.send(bob, "oops")
            b.wait_for_text(alice, "oops")
            assert a.recall(recalled)[0] == 200
            b.wait_for(lambda: b.item(alice).isremove == 1)

            assert b.texts(alice) == a.texts(bob) == ["kept"]
            assert b.item(alice).datadesc == f"用户{alice}撤回了一条消息"
            assert a.item(bob).datadesc == OWN_RECALL
            b.recall(kept)  # not his
        late = a.send(bob, "oops again")
        a.recall(late)
        a.send(bob, "end")
        with _client(chat, bob) as b:
            b.wait_for_text(alice, "end")
            assert "oops again" not in json.dumps(b.shown, ensure_ascii=False)
            assert b.texts(alice) == ["end"]
        assert a.texts(bob) == ["kept", "end"]


# Sessions and reconnecting (ORIG 2.8, 8.6)


def _visitor_maker(instance: Instance) -> Callable[[], tuple[int, str]]:
    def make() -> tuple[int, str]:
        (visitor_id,) = add_users(instance, role="visitor")
        return visitor_id, instance.tokens[visitor_id]

    return make


def test_an_ended_session_turns_into_a_visitor(chat: Instance, strangers: tuple[int, int]) -> None:
    """A client whose session was replaced is told so by the text it compares with, and comes back as a visitor."""
    user_id, _ = strangers
    client = _client(chat, user_id, become_visitor=_visitor_maker(chat))
    start_session(chat, user_id)

    with client:
        client.wait_for(lambda: [item.name for item in client.chatlist] == ["系统消息"])

        assert client.logouts == [SESSION_LOST]
        assert client.fetches[0] == (400, {"msg": "fail", "data": SESSION_LOST, "code": "token_invalid"})
        client.wait_for(lambda: client.fetches[-1][0] == 200)
        assert client.user_id != user_id
    late = client.send(user_id, "too late")
    assert (late["sendStatus"], late["reason"]) == ("fail", NOT_CONNECTED)


def test_the_text_of_an_ended_session_has_no_language(chat: Instance, strangers: tuple[int, int]) -> None:
    """The client compares that text, whatever language its browser asks for; other routes tell it to people."""
    user_id, _ = strangers
    ended = HttpClient(chat.base, chat.tokens[user_id])
    start_session(chat, user_id)

    told = [ended.call("POST", f"/api/chat/{route}", {}, {"Accept-Language": "en"})[1]["data"] for route in _TOLD_AT]

    assert told == [SESSION_LOST, "The token is not valid"]


def test_who_registers_is_not_logged_out(chat: Instance) -> None:
    """The client forgets to close its visitor's socket; that one coming back in vain must not log the new user out."""
    device_id = str(uuid.uuid4())

    def call(route: str, **more: str) -> Any:
        timestamp = time.time_ns() // 1_000_000
        signature = {"X-Security-Sign": visitor_signature(device_id, timestamp, "hongyan")}
        fields = {"deviceId": device_id, "timestamp": timestamp, **more}
        status, body = HttpClient(chat.base, None, timeout=30.0).call("POST", f"/api/{route}", fields, signature)
        assert status == 200, body
        return body["data"]

    visitor = call("visitorRegister")
    with OriginalClient(chat.base, visitor["id"], visitor["token"], role="visitor") as forgotten:
        user = call("visitorregChat", username=f"reg{device_id[:8]}", password="secret-1")
        with OriginalClient(chat.base, user["id"], user["token"]) as client:
            forgotten.wait_for(lambda: forgotten.fetches[-1][0] == 400)

            assert forgotten.fetches[-1][1]["code"] == "token_invalid"
            assert (forgotten.logouts, client.logouts) == ([], [])
            client.wait_for(lambda: client.fetches == [(200, {"msg": "ok", "data": "ok"})])


def test_a_clean_close_logs_a_user_out_but_no_visitor(chat: Instance, strangers: tuple[int, int]) -> None:
    """A close frame, as an invalid heartbeat gets it, ends a registered user's session and brings a visitor back."""
    user_id, _ = strangers
    with _client(chat, user_id, become_visitor=_visitor_maker(chat)) as client:
        for closes, logouts in ((1, [LOGGED_IN_ELSEWHERE]), (2, [LOGGED_IN_ELSEWHERE])):
            socket = client.connections[-1]
            socket.send_json({"type": "ping", "token": "garbage"})
            client.wait_for(lambda closes=closes: client.is_online and len(client.connections) > closes)  # type: ignore[misc]

            assert socket.close_code == 1000
            assert client.logouts == logouts


def _check_shown_once(client: OriginalClient, sender_id: int, ids: list[str]) -> int:
    """Check that everything was shown in order and no connection showed anything twice; return how many came again.

    What came again is the tail of what its earlier connection showed: acknowledged was none of it.
    """
    sockets = sorted((socket for socket in client.connections if socket.messages), key=lambda s: s.frames[0].at)
    seen: list[str] = []
    repeats = 0
    for shown in ([m["id"] for m in socket.messages if m["from_id"] == sender_id] for socket in sockets):
        assert len(set(shown)) == len(shown), "shown twice on one connection"
        again = [message_id for message_id in shown if message_id in seen]
        assert again == shown[: len(again)], "a repeat after something new"
        assert not again or again == seen[-len(again) :], "what came again was no tail"
        repeats += len(again)
        seen += shown[len(again) :]
    assert seen == ids
    return repeats


@pytest.mark.parametrize("role", _ROLES)
@pytest.mark.parametrize(
    ("kind", "sig"),
    [
        ("web-master", signal.SIGTERM),
        ("web-master", signal.SIGKILL),
        ("web", signal.SIGTERM),
        ("web", signal.SIGKILL),
        ("worker", signal.SIGKILL),
        ("redis", signal.SIGKILL),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value,
)
def test_a_failure_costs_the_client_nothing(rough: Instance, kind: Kind, sig: signal.Signals, role: Any) -> None:
    """Whatever is stopped or killed meanwhile, nobody is logged out, nothing is lost, and only an unread tail comes again."""
    alice, bob = add_users(rough, 2)
    befriend(rough, alice, bob)
    if role == "visitor":
        rough.tokens[bob] = start_session(rough, bob, role="visitor")
    ids: list[str] = []
    sender = HttpClient(rough.base, rough.tokens[alice])

    def send(text: str) -> None:
        """Send as a careful client does: repeat until there is a verdict."""

        def is_decided() -> bool:
            try:
                status, body = sender.send(bob, text, client_msg_id=text)
            except (OSError, http.client.HTTPException):
                return False
            if status == 200:
                ids.append(body["data"]["id"])
            return status == 200

        assert wait_until(is_decided, 30.0)

    with _client(rough, bob, role=role, retries_twice=True) as b:
        for number in range(5):
            send(f"before {number}")
        b.wait_for_text(alice, "before 4")
        victims = rough.wait_processes(kind, 2 if kind == "web" else 1)
        for pid in victims if kind == "web" else victims[:1]:  # every web process: one of them holds the socket
            os.kill(pid, sig)
        for number in range(10):
            send(f"meanwhile {number}")
        rough.wait_ready()
        b.wait_for(lambda: b.is_online and len(b.connections) >= (2 if kind.startswith("web") else 1), 20.0)
        send("end")
        b.wait_for_text(alice, "end", timeout=30.0)

        assert b.logouts == []
        assert {socket.close_code for socket in b.connections if not socket.is_open} <= {None}
        repeats = _check_shown_once(b, alice, ids)
        assert len(b.texts(alice)) == len(ids) + repeats
        assert {status for status, _ in b.fetches} <= {200, 503}  # 503: Redis was away; the client shows nothing of it


@contextmanager
def _stopped(instance: Instance, kind: Kind) -> Iterator[None]:
    """Have a process stand still: it is there, and answers nothing."""
    pid = instance.kill(kind, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_what_we_cannot_do_is_not_the_clients_fault(rough: Instance) -> None:
    """While Redis answers nothing a send is told to be unknown, and who connects is dropped to come back, not refused."""
    alice, bob = add_users(rough, 2)
    befriend(rough, alice, bob)
    sender = HttpClient(rough.base, rough.tokens[alice], timeout=30.0)
    with _client(rough, bob) as b:
        with _stopped(rough, "redis"):
            status, body = sender.send(bob, "lost?", client_msg_id="lost?")
            assert (status, body["msg"]) == (503, "fail")
            assert body["code"] in ("outcome_unknown", "unavailable")
            socket = ChatSocket(rough.base, rough.tokens[alice])
            assert socket.wait_closed(30.0) is None
            assert socket.frames == []
        rough.wait_ready()
        assert wait_until(lambda: sender.send(bob, "lost?", client_msg_id="lost?")[0] == 200, 10.0)
        b.wait_for_text(alice, "lost?")

        assert b.texts(alice) == ["lost?"]
        assert b.logouts == []


@pytest.mark.parametrize("is_same_process", [True, False], ids=["same process", "other process"])
def test_the_end_of_an_older_connection_leaves_the_newer_alone(
    chat: Instance, pair: tuple[int, int], is_same_process: bool
) -> None:
    """Of two connections of a session the older may end when it likes; when both have, nothing is left of them."""
    alice, bob = pair
    older = open_socket(chat, bob)
    assert wait_until(lambda: bool(live_place(chat, bob)), 5.0)
    process_id = live_place(chat, bob).partition(":")[0]
    with (
        open_placed(chat, bob, 1, is_on=is_same_process, process_id=process_id) as newer,
        closing(chat.redis()) as redis,
    ):
        older.close()
        # Only then has the server, too, seen it end.
        assert wait_until(lambda: len(str(redis.hget(keys.online(bob), "default") or "").split()) < 2, 5.0)
        _send(chat, alice, bob, "still there?")
        newer.wait_for_text("still there?")
        assert newer.is_open
    assert wait_until(lambda: not chat.holders(bob), 5.0)


def test_fetching_in_parallel_doubles_nothing(chat: Instance, pair: tuple[int, int]) -> None:
    """Many fetches at once, before and after connecting, show what waited once, and file it in its own conversation."""
    alice, bob = pair
    texts = [f"message {number}" for number in range(20)]
    for text in texts:
        _send(chat, alice, bob, text)

    def fetch(_: int) -> int:
        return HttpClient(chat.base, chat.tokens[bob]).post("/api/chat/chatGetmessageOffLine")[0]

    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(fetch, range(10))) == {200}
        with _client(chat, bob) as b:
            assert set(pool.map(fetch, range(20))) == {200}
            b.wait_for_text(alice, texts[-1])
            assert set(pool.map(fetch, range(10))) == {200}
            _send(chat, alice, bob, "end")
            b.wait_for_text(alice, "end")
            assert b.texts(alice) == [*texts, "end"]
    for user_id, peer_id in ((alice, bob), (bob, alice)):
        assert [text_of(m) for m in _history(chat, user_id, peer_id)["messages"]] == [*texts, "end"]
        assert list(_conversations(chat, user_id)) == [("single", peer_id)]


@pytest.mark.parametrize("status", [0, 2])
def test_only_status_1_is_active(chat: Instance, strangers: tuple[int, int], status: int) -> None:
    """A disabled or locked user is admitted neither over HTTP nor over a websocket, and nobody can write to him."""
    alice, bob = strangers
    change_user(chat, bob, status=status)
    with closing(chat.redis()) as redis:
        redis.delete(keys.sessions(bob))  # as when he was disabled: nothing there vouches for him any more

    assert _refusal(_send(chat, bob, alice)) == ("user_disabled", "当前用户不存在或者已被禁用")
    assert _refusal(_send(chat, alice, bob)) == ("recipient_unavailable", "对方不存在或者被禁用，不能发消息")
    socket = ChatSocket(chat.base, chat.tokens[bob])
    assert socket.wait_closed() == 1005
    assert [frame.data["data"] for frame in socket.frames] == ["你已被管理员禁用"]


# Who may write to whom (contract section 4)


def test_nobody_writes_to_himself(chat: Instance, strangers: tuple[int, int]) -> None:
    """A message to oneself is refused."""
    assert _refusal(_send(chat, strangers[0], strangers[0])) == ("self", "不能给自己发消息")


@pytest.mark.parametrize("role", _ROLES)
def test_a_stranger_may_write_once(chat: Instance, strangers: tuple[int, int], role: str) -> None:
    """One message before friendship, in each direction by itself: a reply changes nothing, friendship lifts it."""
    alice, bob = strangers
    chat.tokens[alice] = start_session(chat, alice, role=role)

    assert _send(chat, alice, bob)[0] == 200
    assert _refusal(_send(chat, alice, bob)) == ("stranger_limit", _LIMIT)
    assert _send(chat, bob, alice)[0] == 200
    assert _refusal(_send(chat, bob, alice)) == ("stranger_limit", _LIMIT)
    assert _refusal(_send(chat, alice, bob)) == ("stranger_limit", _LIMIT)

    befriend(chat, alice, bob)
    assert [_send(chat, alice, bob)[0] for _ in range(3)] == [200] * 3
    unfriend(chat, alice, bob)
    assert _send(chat, alice, bob)[0] == 200
    assert _refusal(_send(chat, alice, bob)) == ("stranger_limit", _LIMIT)


def test_the_one_message_counts_whether_read_or_not(chat: Instance, strangers: tuple[int, int]) -> None:
    """The first message is counted when it is accepted, with the recipient away or there, and what is refused is not."""
    alice, bob = strangers
    assert _send(chat, alice, bob, "away")[0] == 200
    assert _refusal(_send(chat, alice, bob))[0] == "stranger_limit"

    with _client(chat, bob) as b:
        b.wait_for_text(alice, "away")
        assert _refusal(_send(chat, alice, bob))[0] == "stranger_limit"
        assert b.texts(alice) == ["away"]


@pytest.mark.parametrize("role", _ROLES)
def test_a_limit_counts_what_was_sent_before_it(chat: Instance, strangers: tuple[int, int], role: str) -> None:
    """Who has written while anybody might has had his one message when the limit comes, and his first one is a request."""
    alice, bob = strangers
    chat.tokens[alice] = start_session(chat, alice, role=role)
    set_strangers(chat, bob, visitor=2, user=2)
    assert [_send(chat, alice, bob, text)[0] for text in ("first", "second")] == [200, 200]

    (asked,) = _get(chat, bob, "/api/chat/requests")["requests"]
    assert text_of(asked["message"]) == "first"
    set_strangers(chat, bob, visitor=1, user=1)
    assert _refusal(_send(chat, alice, bob)) == ("stranger_limit", _LIMIT)

    _post(chat, bob, f"/api/chat/requests/{alice}", accept=1)
    assert _send(chat, alice, bob)[0] == 200


@pytest.mark.parametrize("role", _ROLES)
def test_a_block_stops_friends_and_strangers(chat: Instance, strangers: tuple[int, int], role: str) -> None:
    """Blocked: the other's texts by role, whatever he is; blocking: my own text; unblocked: as before."""
    alice, bob = strangers
    set_strangers(chat, bob, visitor=2, user=2)
    chat.tokens[alice] = start_session(chat, alice, role=role)
    chat.tokens[bob] = start_session(chat, bob, role=role)
    for _ in ("strangers", "friends"):
        assert _post(chat, bob, f"/api/chat/block/{alice}", block=1) == "ok"
        assert _refusal(_send(chat, alice, bob)) == ("blocked_by_recipient", _BLOCKED[role])
        assert _refusal(_send(chat, bob, alice)) == ("blocked_by_sender", _I_BLOCK)
        _post(chat, alice, f"/api/chat/block/{bob}", block=1)
        assert _refusal(_send(chat, bob, alice)) == ("blocked_by_recipient", _BLOCKED[role])
        _post(chat, bob, f"/api/chat/block/{alice}", block=0)
        assert _refusal(_send(chat, alice, bob)) == ("blocked_by_sender", _I_BLOCK)
        _post(chat, alice, f"/api/chat/block/{bob}", block=0)
        assert _send(chat, alice, bob)[0] == 200
        befriend(chat, alice, bob)


def test_a_block_survives_the_friendship(chat: Instance, pair: tuple[int, int]) -> None:
    """Ending a friendship does not lift the block."""
    alice, bob = pair
    _post(chat, bob, f"/api/chat/block/{alice}", block=1)
    unfriend(chat, alice, bob)

    assert _refusal(_send(chat, alice, bob)) == ("blocked_by_recipient", _BLOCKED["user"])


@pytest.mark.parametrize("role", _ROLES)
def test_a_relation_disabled_by_an_administrator_is_closed(
    chat: Instance, strangers: tuple[int, int], role: str
) -> None:
    """Whichever side's friend row an administrator has disabled, both are told in the words of their role."""
    alice, bob = strangers
    befriend(chat, alice, bob)
    disable_friend_row(chat, alice, bob)
    for user_id, peer_id in ((alice, bob), (bob, alice)):
        token = start_session(chat, user_id, role=role)
        assert _refusal(_send(chat, user_id, peer_id, token=token)) == ("relation_disabled", _DISABLED[role])


@pytest.mark.parametrize("send_count", [0, 1, 2])
@pytest.mark.parametrize("role", _ROLES)
@pytest.mark.parametrize("row_role", _ROLES)
def test_settings_say_what_strangers_may(chat: Instance, row_role: str, role: str, send_count: int) -> None:
    """`sendCount` 0, 1, 2 for the sender's session role, not his account's: nothing, one message, any number; friends any (C7)."""
    (alice,), (bob,) = add_users(chat, role=row_role), add_users(chat)
    other = 2 if send_count == 0 else 0  # what the other role may, so that a mix-up shows
    rules = {role: send_count, "user" if role == "visitor" else "visitor": other}
    set_strangers(chat, bob, **rules)
    token = start_session(chat, alice, role=role)

    answers = [_send(chat, alice, bob, token=token) for _ in range(3)]

    refusals = [_refusal(answer) for answer in answers[min(send_count, 1) :]] if send_count < 2 else []
    assert [status for status, _ in answers] == [200] * (3 - len(refusals)) + [400] * len(refusals)
    expected = ("friends_only", _FRIENDS_ONLY[role]) if send_count == 0 else ("stranger_limit", _LIMIT)
    assert set(refusals) <= {expected}

    befriend(chat, alice, bob)
    assert [_send(chat, alice, bob, token=token)[0] for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(
    ("userset", "send_count"),
    [
        ("", 1),
        ("{", 1),
        ("[]", 1),
        ("null", 1),
        ('{"chatset":null}', 1),
        ('{"chatset":{"visitor":{"sendCount":2}}}', 1),
        ('{"chatset":{"user":{"sendCount":3}}}', 1),
        ('{"chatset":{"user":{"sendCount":null}}}', 1),
        ('{"chatset":{"user":{"sendCount":true}}}', 1),
        ('{"chatset":{"user":{"sendCount":"0"}}}', 0),
        ('{"chatset":{"user":{"sendCount":"2"}}}', 2),
        ('{"chatset":{"visitor":1,"user":0}}', 0),
        ('{"chatset":{"visitor":0,"user":2}}', 2),
    ],
)
def test_malformed_settings_mean_the_default(
    chat: Instance, strangers: tuple[int, int], userset: str, send_count: int
) -> None:
    """Settings that cannot be read mean one message and are nobody's error; older and textual numbers are read."""
    alice, bob = strangers
    change_user(chat, bob, userset=userset)

    statuses = [_send(chat, alice, bob)[0] for _ in range(2)]

    assert statuses == {0: [400, 400], 1: [200, 400], 2: [200, 200]}[send_count]


def test_followers_only_means_followers(chat: Instance, strangers: tuple[int, int]) -> None:
    """Who asks for followers gets nothing of others; following opens, unfollowing closes, friendship needs neither."""
    alice, bob = strangers
    set_strangers(chat, bob, user={"sendCount": 2, "needFollow": True})
    refused = ("follow_required", "需要先关注对方才能发送消息")

    assert _refusal(_send(chat, alice, bob)) == refused
    assert _post(chat, alice, f"/api/chat/follow/{bob}", follow=1) == "ok"
    assert _send(chat, alice, bob)[0] == 200
    _post(chat, alice, f"/api/chat/follow/{bob}", follow=0)
    assert _refusal(_send(chat, alice, bob)) == refused
    befriend(chat, alice, bob)
    assert _send(chat, alice, bob)[0] == 200


@pytest.mark.parametrize("path", ["block", "follow"])
def test_nobody_blocks_or_follows_himself_or_nobody(chat: Instance, strangers: tuple[int, int], path: str) -> None:
    """Blocking or following oneself is refused, a user who does not exist is not found, and other values are invalid."""
    alice, bob = strangers
    client = HttpClient(chat.base, chat.tokens[alice])

    statuses = [client.post(f"/api/chat/{path}/{user_id}", {path: 1})[0] for user_id in (alice, 999_999)]
    statuses += [client.post(f"/api/chat/{path}/{bob}", {path: value})[0] for value in (2, "x", "")]

    assert statuses == [400, 404, 422, 422, 422]


def _explained(instance: Instance, user_id: int, to: int, chat_type: str = "single") -> tuple[Any, ...]:
    found = _post(instance, user_id, "/api/chat/policy/explain", sendto_id=to, chatType=chat_type)
    assert list(found) == ["allowed", "rule", "code", "text", "would_allow"]
    assert found["allowed"] == (found["code"] is None) == (found["text"] is None)
    return found["rule"], found["code"], found["text"], found["would_allow"]


def test_explain_tells_the_rule_and_changes_nothing(chat: Instance, strangers: tuple[int, int]) -> None:
    """`explain` names the rule that a send would meet, however often it is asked, and uses up nothing."""
    alice, bob = strangers

    assert _explained(chat, alice, alice)[:2] == ("P1", "self")
    assert _explained(chat, alice, 999_999)[:2] == ("P2", "recipient_unavailable")
    for _ in range(3):
        assert _explained(chat, alice, bob) == ("P9", None, None, [])
    assert _send(chat, alice, bob)[0] == 200
    limited = ("P9", "stranger_limit", _LIMIT, ["become_friends", "request_accepted"])
    assert _explained(chat, alice, bob) == limited
    set_strangers(chat, bob, user=0)
    assert _explained(chat, alice, bob)[:3] == ("P8", "friends_only", _FRIENDS_ONLY["user"])
    set_strangers(chat, bob, user={"sendCount": 2, "needFollow": True})
    assert _explained(chat, alice, bob)[::3] == ("P7", ["follow", "become_friends"])
    set_strangers(chat, bob, user=2)
    assert _explained(chat, alice, bob) == ("P10", None, None, [])
    befriend(chat, alice, bob)
    assert _explained(chat, alice, bob) == ("P6", None, None, [])
    _post(chat, alice, f"/api/chat/block/{bob}", block=1)
    assert _explained(chat, alice, bob)[:3] == ("P5", "blocked_by_sender", _I_BLOCK)
    disable_friend_row(chat, alice, bob)
    assert _explained(chat, alice, bob)[:3] == ("P4", "relation_disabled", _DISABLED["user"])
    _post(chat, bob, f"/api/chat/block/{alice}", block=1)
    assert _explained(chat, alice, bob)[::3] == ("P3", ["recipient_unblocks"])
    assert len(_history(chat, bob, alice)["messages"]) == 1


def test_explain_and_sending_agree_about_groups(chat: Instance) -> None:
    """A group's sends are refused by the rule that `explain` names: outsider, waiting, muted, everybody muted."""
    owner, member, outsider = add_users(chat, 3)
    group_id = make_group(chat, owner, [member])

    def check(user_id: int, to: int, rule: str, code: str | None, text: str | None) -> None:
        assert _explained(chat, user_id, to, "group")[:3] == (rule, code, text)
        answer = HttpClient(chat.base, chat.tokens[user_id]).send(to, "x", "group")
        assert (answer[0] if code is None else _refusal(answer)) == (200 if code is None else (code, text))

    check(member, 999_999, "Q1", "group_unavailable", "群不存在或者已解散或者被封禁，无法发消息")
    check(outsider, group_id, "Q2", "not_member", "您不在群里，无法发消息")
    set_membership(chat, group_id, member, 2)
    check(member, group_id, "Q3", "membership_pending", "您的入群申请正在等待群主同意，暂时无法发消息")
    set_membership(chat, group_id, member, 0)
    check(member, group_id, "Q4", "muted", "您已被禁言，无法发消息")
    _post(chat, owner, "/api/chat/groupMute", group_id=group_id, user_id=member, until=0)
    check(member, group_id, "Q5", None, None)
    _post(chat, owner, "/api/chat/groupMute", group_id=group_id, user_id=0)
    check(member, group_id, "Q5", "group_muted", "群主已开启全员禁言，无法发消息")
    check(owner, group_id, "Q5", None, None)


def test_a_mute_ends_by_itself_and_lets_listen(chat: Instance) -> None:
    """Until its time a muted member only listens; a mute of everybody spares the owner; both end when they say."""
    owner, member, other = add_users(chat, 3)
    group_id = make_group(chat, owner, [member, other])

    def say(user_id: int, text: str = "x") -> tuple[int, Any]:
        return HttpClient(chat.base, chat.tokens[user_id]).send(group_id, text, "group")

    with _client(chat, member) as listening:
        for muted_id, code in ((member, "muted"), (0, "group_muted")):
            until_ms = int(time.time() * 1000) + 2_000
            _post(chat, owner, "/api/chat/groupMute", group_id=group_id, user_id=muted_id, until=until_ms)
            assert _refusal(say(member))[0] == code
            assert say(other)[0] == (200 if muted_id else 400)
            assert say(owner, f"to {code}")[0] == 200
            listening.wait_for_text(group_id, f"to {code}", "group")
            assert wait_until(lambda: say(member)[0] == 200, 10.0, 0.2)
            assert time.time() * 1000 >= until_ms

        _post(chat, owner, "/api/chat/groupMute", group_id=group_id, user_id=member)
        assert _refusal(say(member))[0] == "muted"
        _post(chat, owner, "/api/chat/groupMute", group_id=group_id, user_id=member, until=0)
        assert say(member)[0] == 200


def test_only_the_owner_mutes(chat: Instance) -> None:
    """A member is told that he is not the owner; to an outsider the group does not exist, nor a non-member to anybody."""
    owner, member, outsider = add_users(chat, 3)
    group_id = make_group(chat, owner, [member])

    def mute(user_id: int, muted_id: int, group: int = group_id) -> tuple[int, str]:
        client = HttpClient(chat.base, chat.tokens[user_id])
        status, body = client.post("/api/chat/groupMute", {"group_id": group, "user_id": muted_id})
        return status, body["code"]

    assert mute(member, owner) == (400, "not_owner")
    assert mute(outsider, member) == (404, "not_found")
    assert mute(owner, outsider) == (404, "not_found")
    assert mute(owner, member, 999_999) == (404, "not_found")
    assert HttpClient(chat.base, chat.tokens[member]).send(group_id, "x", "group")[0] == 200


# Message requests


def test_an_accepted_request_lifts_the_limit(chat: Instance, strangers: tuple[int, int]) -> None:
    """A stranger's first message is a request; accepted, he may write on, and it is no request any more."""
    alice, bob = strangers
    _send(chat, alice, bob, "may I?")

    (asked,) = _get(chat, bob, "/api/chat/requests")["requests"]
    assert list(asked) == ["user_id", "name", "avatar", "message", "at"]
    assert (asked["user_id"], asked["name"], text_of(asked["message"])) == (alice, f"用户{alice}", "may I?")
    assert asked["at"] == asked["message"]["create_time"]
    assert _get(chat, alice, "/api/chat/requests") == {"requests": []}

    assert _post(chat, bob, f"/api/chat/requests/{alice}", accept=1) == "ok"
    assert _get(chat, bob, "/api/chat/requests") == {"requests": []}
    assert [_send(chat, alice, bob)[0] for _ in range(3)] == [200] * 3
    answered_again = HttpClient(chat.base, chat.tokens[bob]).post(f"/api/chat/requests/{alice}", {"accept": 0})
    assert (answered_again[0], answered_again[1]["code"]) == (404, "not_found")


def test_a_declined_request_blocks(chat: Instance, strangers: tuple[int, int]) -> None:
    """A declined stranger is blocked; unblocked, he still has had his one message."""
    alice, bob = strangers
    _send(chat, alice, bob)

    _post(chat, bob, f"/api/chat/requests/{alice}", accept=0)

    assert _refusal(_send(chat, alice, bob)) == ("blocked_by_recipient", _BLOCKED["user"])
    assert _get(chat, bob, "/api/chat/requests") == {"requests": []}
    _post(chat, bob, f"/api/chat/block/{alice}", block=0)
    assert _refusal(_send(chat, alice, bob)) == ("stranger_limit", _LIMIT)


# Names, history and unread counts


def test_a_private_remark_is_shown_to_its_writer_only(chat: Instance, strangers: tuple[int, int]) -> None:
    """In the answer, the frame, history and conversations each sees his own remark about the other, and never the other's."""
    alice, bob = strangers
    befriend(chat, alice, bob, remark="老板的秘密外号", their_remark="烦人的小李")
    seen: dict[int, list[Any]] = {alice: [], bob: []}
    with _client(chat, alice) as a, _client(chat, bob) as b:
        sent = a.send(bob, "hello")
        b.wait_for_text(alice, "hello")
        (received,) = b.history(alice)
        assert (sent["from_name"], sent["to_name"]) == (f"用户{alice}", "老板的秘密外号")
        assert (received["from_name"], received["to_name"]) == ("烦人的小李", f"用户{bob}")
        assert b.item(alice).name == "烦人的小李"
        seen[alice] += [sent, a.shown]
        seen[bob] += [b.shown]
    for user_id, peer_id, remark in ((alice, bob, "老板的秘密外号"), (bob, alice, "烦人的小李")):
        (message,) = _history(chat, user_id, peer_id)["messages"]
        line = _conversations(chat, user_id)["single", peer_id]
        assert line["name"] == remark
        assert line["last"] == message
        assert message["to_name" if user_id == alice else "from_name"] == remark
        seen[user_id] += [message, line]

    assert "烦人的小李" not in json.dumps(seen[alice], ensure_ascii=False)
    assert "老板的秘密外号" not in json.dumps(seen[bob], ensure_ascii=False)


def test_history_is_read_page_by_page(chat: Instance, pair: tuple[int, int]) -> None:
    """Pages go back from the newest, each oldest first, without gaps, for both sides alike; nobody else sees any."""
    alice, bob = pair
    (outsider,) = add_users(chat)
    texts = [f"message {number}" for number in range(7)]
    for number, text in enumerate(texts):
        sender_id, to = pair if number % 2 else pair[::-1]
        assert _send(chat, sender_id, to, text)[0] == 200

    for user_id, peer_id in ((alice, bob), (bob, alice)):
        found: list[Any] = []
        before: int | None = None
        pages = []
        while True:
            page = _history(chat, user_id, peer_id, limit=3, before=before)
            found = page["messages"] + found
            pages.append(len(page["messages"]))
            if not page["more"]:
                break
            before = page["messages"][0]["seq"]
        assert pages == [3, 3, 1]
        assert [text_of(message) for message in found] == texts
        assert [message["seq"] for message in found] == list(range(1, 8))
    assert _history(chat, outsider, alice) == {"messages": [], "more": False}


def test_unread_counts_follow_the_read_marker(chat: Instance, pair: tuple[int, int]) -> None:
    """Unread is what others have written after the marker; it only rises, and not beyond what there is."""
    alice, bob = pair
    for number in range(5):
        _send(chat, alice, bob, f"message {number}")
    _send(chat, bob, alice, "answer")

    def line(user_id: int, peer_id: int) -> tuple[int, int, int]:
        found = _conversations(chat, user_id)["single", peer_id]
        return found["seq"], found["read_seq"], found["unread"]

    assert line(bob, alice) == (6, 0, 5)
    assert line(alice, bob) == (6, 0, 1)
    assert _post(chat, bob, "/api/chat/read", chatType="single", peer_id=alice, seq=3) == "ok"
    assert line(bob, alice) == (6, 3, 2)
    _post(chat, bob, "/api/chat/read", chatType="single", peer_id=alice, seq=2)
    assert line(bob, alice) == (6, 3, 2)
    _post(chat, bob, "/api/chat/read", chatType="single", peer_id=alice, seq=1_000)
    assert line(bob, alice) == (6, 6, 0)
    _send(chat, alice, bob, "one more")
    assert line(bob, alice) == (7, 6, 1)
    assert line(alice, bob) == (7, 0, 1)


def test_a_member_has_read_rights_from_his_entry_on(chat: Instance) -> None:
    """Who joins a group later sees and counts nothing of before; conversations stand newest first."""
    owner, member, late = add_users(chat, 3)
    group_id = make_group(chat, owner, [member], name="群")
    say = HttpClient(chat.base, chat.tokens[owner]).send
    for number in range(3):
        say(group_id, f"before {number}", "group")
    add_member(chat, group_id, late)

    assert _history(chat, late, group_id, "group") == {"messages": [], "more": False}
    before = _conversations(chat, late)["group", group_id]
    assert (before["unread"], before["last"]) == (0, None)
    say(group_id, "after", "group")
    befriend(chat, owner, late)
    say(late, "newest")

    (message,) = _history(chat, late, group_id, "group")["messages"]
    assert text_of(message) == "after"
    found = _conversations(chat, late)
    assert list(found) == [("single", owner), ("group", group_id)]
    line = found["group", group_id]
    assert (line["name"], line["unread"], text_of(line["last"])) == ("群", 1, "after")
    assert _conversations(chat, member)["group", group_id]["unread"] == 4


# Heartbeats (ORIG 2.4)


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        ('{"type":"pong","timestamp":1}', None),
        ('{"type":"ping"}', "pong"),
        ('{"type":"ping","token":"<token>","timestamp":1}', "pong"),
        ('{"type":"ping","token":"garbage"}', "refused"),
        ("ping", "pong"),
        (b'{"type":"ping"}', "pong"),
        (b"ping", "pong"),
        ('{"type":"hello"}', None),
        ("[1]", None),
        ("undefined", None),
        ("{", None),
    ],
)
def test_heartbeats_are_answered_as_in_the_table(
    chat: Instance, strangers: tuple[int, int], frame: str | bytes, answer: str | None
) -> None:
    """Each input of ORIG's table gets its answer; what it ignores is ignored, and the socket lives on."""
    token = chat.tokens[strangers[0]]
    with ChatSocket(chat.base, token) as socket:
        socket.wait_for(lambda received: received.data["type"] == "system")
        if isinstance(frame, bytes):
            socket.send_binary(frame)
        else:
            socket.send_text(frame.replace("<token>", token))
        if answer == "refused":
            assert socket.wait_closed() == 1000
            assert (socket.frames[-1].data["msg"], socket.frames[-1].data["data"]) == ("fail", "Token 不合法")
            return
        socket.send_json({"type": "ping", "token": token})  # the last answer, after whatever the frame got
        pongs = 2 if answer == "pong" else 1
        assert wait_until(lambda: sum(f.data.get("type") == "pong" for f in list(socket.frames)) == pongs, 5.0)
        assert socket.is_open
        for received in list(socket.frames):
            if received.data.get("type") == "pong":
                assert set(received.data) == {"type", "timestamp"}


def test_the_server_beats_too(chat: Instance, strangers: tuple[int, int]) -> None:
    """The server's own ping comes by itself and is nothing that the client shows or answers."""
    with _client(chat, strangers[0]) as client:
        frame = client.connections[0].wait_for(lambda received: received.data.get("type") == "ping", 10.0)

        assert frame.data == {"type": "ping"}
        assert client.ignored == []
