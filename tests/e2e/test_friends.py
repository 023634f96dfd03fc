"""Friends and friend applications over HTTP: who may ask whom, what agreeing makes, and what is left when it ends."""

from __future__ import annotations

import http.client
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select, update

from models.applications import FriendApplication
from models.friendships import Friendship
from models.users import now_utc
from tests.conftest import InstanceFactory
from tests.support.acting import open_socket
from tests.support.client import ChatSocket, Frame, HttpClient, message_text
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users, befriend, change_user, set_strangers, writing

_NOW_FRIENDS = "我们已经是好友了，可以开始聊天了"
_THREADS = 20


def _call(instance: Instance, user_id: int, path: str, **params: Any) -> Any:
    """Call a POST route as a user: the answer's data, or `status code` where it is refused."""
    status, body = HttpClient(instance.base, instance.tokens[user_id]).post(f"/api/chat/{path}", params)
    return body["data"] if status == 200 else f"{status} {body.get('code')}"


def _get(instance: Instance, user_id: int, path: str) -> Any:
    status, body = HttpClient(instance.base, instance.tokens[user_id]).get(f"/api/chat/{path}")
    return body["data"] if status == 200 else f"{status} {body.get('code')}"


def _apply(instance: Instance, user_id: int, friend_id: int, **params: Any) -> Any:
    return _call(instance, user_id, "applyfriend", friend_id=friend_id, **params)


def _application_id(instance: Instance, target_id: int) -> int:
    """Return the newest application to a user."""
    return int(_get(instance, target_id, "listapplyfriend/1")["alldata"][0]["id"])


def _handle(instance: Instance, target_id: int, status: str, **params: Any) -> Any:
    application_id = _application_id(instance, target_id)
    return _call(instance, target_id, f"handleapply/{application_id}", status=status, **params)


def _uuid_of(instance: Instance, user_id: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"hongyan-seed-{user_id}"))


def _friend_ids(instance: Instance, user_id: int) -> list[int]:
    rows = _get(instance, user_id, "goodfriendlist/1")["rows"]
    return [friend["friend_id"] for group in (rows["newList"] if rows else []) for friend in group["list"]]


def _rows(instance: Instance, table: Any, *pair: int) -> list[Any]:
    """Return the rows between two users, in both directions, without the count of automatic ones."""
    with writing(instance) as connection:
        query = select(table.__table__).where(
            table.user_id.in_(pair), table.friend_id.in_(pair), table.status != "auto"
        )
        if table is Friendship:
            query = select(table.__table__).where(table.user_id.in_(pair), table.friend_id.in_(pair))
        return list(connection.execute(query.order_by(table.id)))


def _has_from(from_id: Any) -> Any:
    def test(frame: Frame) -> bool:
        data = frame.data.get("data")
        return isinstance(data, dict) and data.get("from_id") == from_id

    return test


def _now_friends(socket: ChatSocket) -> dict[str, Any]:
    message = socket.wait_for_text(_NOW_FRIENDS).message
    assert message is not None
    return message


# Applications


def test_an_application_reaches_whom_it_asks(instance: Instance) -> None:
    """The user who is asked gets a notice that opens the list of applications, and finds it there."""
    alice, bob = add_users(instance, 2)
    with open_socket(instance, bob) as socket:
        assert _apply(instance, alice, bob, nickname="hello, it is me") == "ok"
        notice = socket.wait_for(_has_from(f"redirect-applyFriend-{alice}")).data["data"]

    assert notice["msgidKey"] == f"redirect-applyFriend-{alice}"
    assert notice["from_name"] == "好友申请提醒"
    assert notice["from_avatar"].endswith("group.png")
    assert notice["data"]["data"] == f"用户[用户{alice}]申请添加您为好友，请尽快处理"
    assert notice["redirect"] == {"url": "/pages/applyMyfriend/applyMyfriend", "type": "navigateTo"}
    assert (notice["to_id"], notice["chatType"], notice["type"]) == (bob, "single", "text")
    listed = _get(instance, bob, "listapplyfriend/1")
    assert listed["pendingCount"] == 1
    (application,) = listed["alldata"]
    assert application["user"] == {
        "id": alice,
        "username": f"added{alice}",
        "avatar": "",
        "nickname": f"用户{alice}",
        "uuid": _uuid_of(instance, alice),
    }
    assert (application["nickname"], application["status"]) == ("hello, it is me", "pending")
    assert len(application["create_time"]) == len("2026-01-31 23:59:59")
    of_alice = _call(instance, bob, f"isApplyfriend/{_uuid_of(instance, alice)}")
    assert of_alice == {name: value for name, value in application.items() if name != "user"}


def test_an_application_to_somebody_away_waits_for_him(instance: Instance) -> None:
    """The notice is in the inbox of a user who was not connected."""
    alice, bob = add_users(instance, 2)
    assert _apply(instance, alice, bob) == "ok"

    with open_socket(instance, bob) as socket:
        socket.wait_for(_has_from(f"redirect-applyFriend-{alice}"))


def test_who_may_not_apply_is_told_why(instance: Instance) -> None:
    """Nobody applies to himself, to nobody, twice, or to a friend."""
    alice, bob, carol, gone = add_users(instance, 4)
    befriend(instance, alice, carol)
    change_user(instance, gone, status=2)

    assert _apply(instance, alice, alice) == "400 add_self"
    assert _apply(instance, alice, gone) == _apply(instance, alice, 999_999_999) == "400 target_unavailable"
    assert _apply(instance, alice, bob) == "ok"
    assert _apply(instance, alice, bob) == "400 already_applied"
    assert _apply(instance, alice, carol) == "400 already_friends"
    assert _handle(instance, bob, "agree") == "ok"
    assert _apply(instance, alice, bob) == "400 already_applied"
    nobody, stranger = str(uuid.uuid4()), _uuid_of(instance, carol)
    assert _call(instance, bob, f"isApplyfriend/{nobody}") == "400 user_not_found"
    assert _call(instance, bob, f"isApplyfriend/{stranger}") == "400 application_not_found"


@pytest.mark.parametrize(("what", "text"), [("block", "不能拉黑自己"), ("follow", "不能关注自己")])
def test_nobody_blocks_or_follows_himself(instance: Instance, what: str, text: str) -> None:
    """The refusal spoke of messages."""
    (alice,) = add_users(instance, 1)

    status, body = HttpClient(instance.base, instance.tokens[alice]).post(f"/api/chat/{what}/{alice}", {what: 1})

    assert (status, body["code"], body["data"]) == (400, "self", text)


def test_the_blocked_cannot_apply(instance: Instance) -> None:
    """A block on either side stops applications and automatic friendship, friend row or not (F5)."""
    alice, bob = add_users(instance, 2)
    assert _call(instance, bob, f"block/{alice}", block=1) == "ok"

    for route in ("applyfriend", "autoAddFriendAndAgree"):
        assert _call(instance, alice, route, friend_id=bob) == "400 application_blocked"
        assert _call(instance, bob, route, friend_id=alice) == "400 target_blocked"

    assert _call(instance, bob, f"block/{alice}", block=0) == "ok"
    assert _apply(instance, alice, bob) == "ok"


@pytest.mark.parametrize("status", ["refuse", "ignore"])
def test_who_was_refused_asks_again_after_a_day(instance: Instance, status: str) -> None:
    """A refused or ignored applicant has to wait, and cannot make the friendship by himself either (F5)."""
    alice, bob = add_users(instance, 2)
    assert _apply(instance, alice, bob) == "ok"
    assert _handle(instance, bob, status) == "ok"
    assert _friend_ids(instance, bob) == []

    assert _apply(instance, alice, bob) == "400 application_cooldown"
    assert _call(instance, alice, "autoAddFriendAndAgree", friend_id=bob) == "400 application_cooldown"

    with writing(instance) as connection:
        mine = FriendApplication.user_id == alice
        connection.execute(update(FriendApplication).where(mine).values(update_time=now_utc() - timedelta(hours=25)))
    assert _apply(instance, alice, bob) == "ok"


def test_an_application_is_answered_once_and_by_whom_it_asks(instance: Instance) -> None:
    """`pending` decides nothing; others' applications and answered ones are closed (F2)."""
    alice, bob = add_users(instance, 2)
    assert _apply(instance, alice, bob) == "ok"
    path = f"/api/chat/handleapply/{_application_id(instance, bob)}"

    status, body = HttpClient(instance.base, instance.tokens[bob]).post(path, {"status": "pending"})
    assert (status, body["data"]) == (422, "处理状态 的值 `pending` 必须在 [`refuse`、`agree`、`ignore`] 中")
    for user_id, answer in (
        (alice, (400, "申请不存在或已处理")),
        (bob, (200, "ok")),
        (bob, (400, "申请不存在或已处理")),
    ):
        status, body = HttpClient(instance.base, instance.tokens[user_id]).post(path, {"status": "agree"})
        assert (status, body["data"]) == answer
    assert _get(instance, bob, "listapplyfriend/1")["pendingCount"] == 0


def test_agreeing_makes_friends_of_both(instance: Instance) -> None:
    """Both get one notice, each as if the other said so; limits for strangers are gone; remarks are as ORIG sets them."""
    alice, bob = add_users(instance, 2)
    assert HttpClient(instance.base, instance.tokens[alice]).send(bob, "the one message")[0] == 200
    assert HttpClient(instance.base, instance.tokens[alice]).send(bob, "too much")[0] == 400
    assert _apply(instance, alice, bob) == "ok"
    with open_socket(instance, alice) as at_alice, open_socket(instance, bob) as at_bob:
        assert _handle(instance, bob, "agree", nickname="Al") == "ok"
        told, own = _now_friends(at_alice), _now_friends(at_bob)

    assert (told["id"], told["seq"]) == (own["id"], own["seq"])
    assert (told["type"], told["chatType"]) == ("systemNotice", "single")
    assert (told["from_id"], told["to_id"], told["from_name"]) == (bob, alice, f"用户{bob}")
    assert (own["from_id"], own["to_id"], own["from_name"]) == (alice, bob, "Al")  # his remark, shown to him alone
    assert _get(instance, alice, f"getgoodfriendinfo/{bob}")["nickname"] == f"用户{bob}"
    assert HttpClient(instance.base, instance.tokens[alice]).send(bob, "not too much any more")[0] == 200
    history = _get(instance, bob, f"history?chatType=single&peer_id={alice}")["messages"]
    assert [message["seq"] for message in history] == [1, 2, 3]
    assert message_text(history[1]) == _NOW_FRIENDS


# Friendship without asking


def test_automatic_friendship_is_for_who_does_not_ask(instance: Instance) -> None:
    """Who wants to be asked is; to the others one becomes a friend at once, and both are told."""
    alice, bob, careful = add_users(instance, 3)
    change_user(instance, careful, invite_confirm=1)

    assert _call(instance, alice, "autoAddFriendAndAgree", friend_id=careful) == "400 approval_required"
    assert _call(instance, alice, "autoAddFriendAndAgree", friend_id=alice) == "400 add_self"
    with open_socket(instance, alice) as at_alice, open_socket(instance, bob) as at_bob:
        assert _call(instance, alice, "autoAddFriendAndAgree", friend_id=bob) == "ok"
        told, own = _now_friends(at_bob), _now_friends(at_alice)

    assert (told["id"], told["from_id"], own["from_id"]) == (own["id"], alice, bob)
    assert _get(instance, alice, f"getgoodfriendinfo/{bob}")["nickname"] == ""
    assert _get(instance, bob, f"getgoodfriendinfo/{alice}")["nickname"] == f"用户{alice}"
    assert _call(instance, alice, "autoAddFriendAndAgree", friend_id=bob) == "400 already_applied"
    assert [row["status"] for row in _get(instance, bob, "listapplyfriend/1")["alldata"]] == ["agree"]


def test_words_that_are_too_many_stop_no_automatic_friendship(instance: Instance) -> None:
    """The original's client makes them of a nickname, and shows no refusal: with 51 characters none are said (ORIG 1.2)."""
    alice, bob = add_users(instance, 2)
    words = f"我是{'甲' * 30}[平台注册用户],系统自动加为你好友的"
    assert len(words) > 50

    assert _call(instance, alice, "autoAddFriendAndAgree", friend_id=bob, nickname=words) == "ok"

    assert [row["nickname"] for row in _get(instance, bob, "listapplyfriend/1")["alldata"]] == [""]


def test_a_waiting_application_becomes_a_friendship(instance: Instance) -> None:
    """Who applied and need not ask any more becomes a friend; what waited in either direction is settled (F4)."""
    alice, bob = add_users(instance, 2)
    assert _apply(instance, alice, bob) == _apply(instance, bob, alice) == "ok"

    assert _call(instance, alice, "autoAddFriendAndAgree", friend_id=bob) == "ok"

    assert [row.status for row in _rows(instance, FriendApplication, alice, bob)] == ["agree", "agree"]
    assert (_friend_ids(instance, alice), _friend_ids(instance, bob)) == ([bob], [alice])


def test_automatic_friendships_are_twenty_an_hour(instance: Instance) -> None:
    """The 21st of an hour is refused, also when the others are friends no more (F6)."""
    alice, *others = add_users(instance, 22)
    for other in others[:20]:
        assert _call(instance, alice, "autoAddFriendAndAgree", friend_id=other) == "ok"
    assert _call(instance, alice, f"deletegoodfriend/{others[0]}") == "删除好友成功"

    address = urlsplit(instance.base)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    headers = {"token": instance.tokens[alice], "Content-Type": "application/json"}
    connection.request("POST", "/api/chat/autoAddFriendAndAgree", json.dumps({"friend_id": others[20]}), headers)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()

    assert (answer.status, body["code"]) == (429, "too_many_friends")
    assert 3_000 < int(answer.headers["Retry-After"]) <= 3_601
    assert _apply(instance, alice, others[20]) == "ok"  # asking is no automatic friendship
    with writing(instance) as sql:
        marks = FriendApplication.user_id == alice, FriendApplication.status == "auto"
        sql.execute(update(FriendApplication).where(*marks).values(create_time=now_utc() - timedelta(minutes=61)))
    assert _call(instance, alice, "autoAddFriendAndAgree", friend_id=others[20]) == "ok"


# What one keeps about a friend


def test_friends_stand_under_their_initials(instance: Instance) -> None:
    """The list is grouped by the initial of the remark, else nickname, else username; what is no letter comes last."""
    (alice,) = add_users(instance)
    names = ["张三", "alice", "李四", "Zoe", "9 lives", "赵六"]
    friends = [add_users(instance, nickname=name)[0] for name in names]
    for friend in friends:
        befriend(instance, alice, friend)
    befriend(instance, alice, friends[3], remark="安娜")

    listed = _get(instance, alice, "goodfriendlist/1")

    shown = {group["title"]: [friend["name"] for friend in group["list"]] for group in listed["rows"]["newList"]}
    assert shown == {"A": ["alice", "安娜"], "L": ["李四"], "Z": ["张三", "赵六"], "#": ["9 lives"]}
    assert listed["rows"]["indexList"] == ["A", "L", "Z", "#"]
    assert (listed["count"], listed["rows"]["total"]) == (6, 6)
    zoe = next(friend for friend in listed["rows"]["newList"][0]["list"] if friend["name"] == "安娜")
    assert (zoe["beizhu"], zoe["friend_nickname"], zoe["friend_id"]) == ("安娜", "Zoe", friends[3])
    pages = [_get(instance, alice, f"goodfriendlist/{page}?limit=4") for page in (1, 2, 3)]
    assert [page["rows"]["total"] if page["rows"] else 0 for page in pages] == [4, 2, 0]
    assert pages[2] == {"count": 6, "rows": []}


def test_a_friend_is_shown_to_friends_only(instance: Instance) -> None:
    """A friend's row and profile are there for who lists him."""
    alice, bob, stranger = add_users(instance, 3)
    befriend(instance, alice, bob, remark="Bobby")

    friend = _get(instance, alice, f"getgoodfriendinfo/{bob}")
    assert (friend["user_id"], friend["friend_id"], friend["nickname"]) == (alice, bob, "Bobby")
    assert friend["friendinfo"]["username"] == f"added{bob}"
    row = _call(instance, alice, f"ismygoodfriend/{bob}")
    assert set(row) == {
        "id",
        "user_id",
        "friend_id",
        "nickname",
        "friendlookme",
        "melookfriend",
        "ismystarfriend",
        "isblack",
        "status",
    }
    assert _get(instance, stranger, f"getgoodfriendinfo/{bob}") == "400 friend_not_found"
    assert _call(instance, stranger, f"ismygoodfriend/{bob}") == "400 not_friend"


def test_switches_turn_over_or_take_a_value(instance: Instance) -> None:
    """Without a value block and star turn over; with one, sending twice changes nothing (F20)."""
    alice, bob, stranger = add_users(instance, 3)
    befriend(instance, alice, bob)

    def state() -> tuple[int, int]:
        (row,) = [row for row in _rows(instance, Friendship, alice, bob) if row.user_id == alice]
        return row.ismystarfriend, row.isblack

    star, black = f"setstargoodfriend/{bob}", f"setblackgoodfriend/{bob}"
    for _ in range(2):
        assert _call(instance, alice, star, ismystarfriend=1) == "ok"
        assert state() == (1, 0)
    assert _call(instance, alice, star) == "ok"
    assert state() == (0, 0)
    assert _call(instance, alice, black) == "ok"
    assert state() == (0, 1)
    for _ in range(2):
        assert _call(instance, alice, black, isblack="1") == "ok"
        assert state() == (0, 1)
    assert _call(instance, alice, star) == "400 friend_unavailable"
    assert _call(instance, alice, f"setmeOrfriendCanSee/{bob}", friendlookme=0, melookfriend=0) == (
        "400 friend_unavailable"
    )
    assert _call(instance, alice, black, isblack=2) == "422 invalid"
    assert _call(instance, alice, f"setblackgoodfriend/{stranger}") == "400 friend_not_found"
    assert _call(instance, alice, black, isblack=0) == "ok"
    assert _call(instance, alice, f"setmeOrfriendCanSee/{bob}", friendlookme=0, melookfriend=1) == "ok"
    row = _call(instance, alice, f"ismygoodfriend/{bob}")
    assert (row["friendlookme"], row["melookfriend"]) == (0, 1)


def test_the_black_flag_is_a_block(instance: Instance) -> None:
    """Both routes set and lift the same block, and the next message follows it."""
    alice, bob = add_users(instance, 2)
    befriend(instance, alice, bob)
    from_bob = HttpClient(instance.base, instance.tokens[bob])

    for blocking, lifting in (
        ((f"setblackgoodfriend/{bob}", {}), (f"block/{bob}", {"block": 0})),
        ((f"block/{bob}", {"block": 1}), (f"setblackgoodfriend/{bob}", {})),
    ):
        assert _call(instance, alice, blocking[0], **blocking[1]) == "ok"
        assert from_bob.send(alice, "blocked")[1]["code"] == "blocked_by_recipient"
        assert _call(instance, alice, f"ismygoodfriend/{bob}") == "400 not_friend"
        assert _call(instance, alice, lifting[0], **lifting[1]) == "ok"
        assert from_bob.send(alice, "welcome again")[0] == 200


def test_a_remark_is_shown_in_the_next_message(instance: Instance) -> None:
    """A new private name is used from the next message on; an empty one takes it away."""
    alice, bob = add_users(instance, 2)
    befriend(instance, alice, bob)
    with open_socket(instance, alice) as socket:
        for remark, name in (("Bobby", "Bobby"), ("", f"用户{bob}")):
            assert _call(instance, alice, f"setfriendremark/{bob}", nickname=remark) == "ok"
            text = f"called {name}"
            assert HttpClient(instance.base, instance.tokens[bob]).send(alice, text)[0] == 200
            message = socket.wait_for_text(text).message
            assert message is not None
            assert message["from_name"] == name

    assert _call(instance, alice, f"setfriendremark/{bob}", nickname="x" * 51) == "422 invalid"
    assert _call(instance, alice, "setfriendremark/999999", nickname="x") == "400 friend_not_found"


def test_the_end_of_a_friendship_leaves_nothing_but_blocks(instance: Instance) -> None:
    """Both rows and all applications go, strangers start at zero again; who was blocked stays so (F21, C17)."""
    alice, bob = add_users(instance, 2)
    set_strangers(instance, alice, user=1)
    assert _apply(instance, bob, alice) == "ok"
    assert _call(instance, alice, "autoAddFriendAndAgree", friend_id=bob) == "ok"
    assert _call(instance, bob, f"setblackgoodfriend/{alice}", isblack=1) == "ok"

    assert _call(instance, alice, f"deletegoodfriend/{bob}") == "删除好友成功"

    assert _rows(instance, Friendship, alice, bob) == _rows(instance, FriendApplication, alice, bob) == []
    assert _call(instance, bob, f"deletegoodfriend/{alice}") == "400 not_friends"
    assert HttpClient(instance.base, instance.tokens[alice]).send(bob, "?")[1]["code"] == "blocked_by_recipient"
    assert _call(instance, bob, f"block/{alice}", block=0) == "ok"
    from_bob = HttpClient(instance.base, instance.tokens[bob])
    assert [from_bob.send(alice, text)[0] for text in ("one", "two")] == [200, 400]


@pytest.mark.parametrize("remark", ["", "Ali"])
def test_the_other_side_is_told_of_the_end(instance: Instance, remark: str) -> None:
    """Who is a friend no more gets a notice, under his own name for the other; it takes no place in their chat (F21)."""
    alice, bob = add_users(instance, 2)
    befriend(instance, alice, bob, their_remark=remark)
    with open_socket(instance, bob) as socket, open_socket(instance, alice) as own:
        assert _call(instance, alice, f"deletegoodfriend/{bob}") == "删除好友成功"
        notice = socket.wait_for(_has_from(f"redirect-deleteFriend-{alice}")).data["data"]

        assert HttpClient(instance.base, instance.tokens[bob]).send(alice, "why?")[1]["data"]["seq"] == 1
        own.wait_for_text("why?")
        assert not [frame for frame in own.frames if _has_from(f"redirect-deleteFriend-{alice}")(frame)]
    assert notice["data"]["data"] == f"用户[{remark or f'用户{alice}'}]已与您解除好友关系"
    assert (notice["to_id"], notice["type"], notice["chatType"]) == (bob, "systemNotice", "single")
    assert [
        message["type"] for message in _get(instance, bob, f"history?chatType=single&peer_id={alice}")["messages"]
    ] == ["text"]


def test_who_has_blocked_a_friend_hears_nothing_of_the_end(instance: Instance) -> None:
    """A blocked friend who leaves tells nobody."""
    alice, bob = add_users(instance, 2)
    befriend(instance, alice, bob)
    assert _call(instance, bob, f"block/{alice}", block=1) == "ok"
    with open_socket(instance, bob) as socket:
        assert _call(instance, alice, f"deletegoodfriend/{bob}") == "删除好友成功"
        assert _call(instance, bob, f"block/{alice}", block=0) == "ok"
        assert HttpClient(instance.base, instance.tokens[alice]).send(bob, "marker")[0] == 200
        socket.wait_for_text("marker")

        assert not [frame for frame in socket.frames if _has_from(f"redirect-deleteFriend-{alice}")(frame)]


# Bounds and roles


def test_lists_have_bounds(instance: Instance) -> None:
    """Pages are read in the order of time, newest first; a limit that is none is the default (F19)."""
    target, *applicants = add_users(instance, 13)
    for applicant in applicants:
        assert _apply(instance, applicant, target) == "ok"

    pages = [_get(instance, target, f"listapplyfriend/{page}?limit=5")["alldata"] for page in (1, 2, 3, 4)]
    assert [row["user_id"] for page in pages for row in page] == applicants[::-1]
    assert [len(page) for page in pages] == [5, 5, 2, 0]
    for limit in ("0", "101", "x", "9" * 30):
        assert len(_get(instance, target, f"listapplyfriend/1?limit={limit}")["alldata"]) == 10
    assert _get(instance, target, "listapplyfriend/9999999999999999")["alldata"] == []
    assert _get(instance, target, "goodfriendlist/9999999999999999") == {"count": 0, "rows": []}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "listapplyfriend/{}"),
        ("GET", "goodfriendlist/{}"),
        ("GET", "getgoodfriendinfo/{}"),
        ("POST", "isApplyfriend/{}"),
        ("POST", "handleapply/{}?status=agree"),
        ("POST", "ismygoodfriend/{}"),
        ("POST", "setblackgoodfriend/{}"),
        ("POST", "setstargoodfriend/{}"),
        ("POST", "setmeOrfriendCanSee/{}?friendlookme=1&melookfriend=1"),
        ("POST", "setfriendremark/{}?nickname=a"),
        ("POST", "deletegoodfriend/{}"),
        ("POST", "applyfriend?friend_id={}"),
        ("POST", "autoAddFriendAndAgree?friend_id={}"),
    ],
)
def test_no_input_is_too_odd(instance: Instance, friends: tuple[int, int], method: str, path: str) -> None:
    """Whatever a path or parameter holds, the answer is a refusal."""
    client = HttpClient(instance.base, instance.tokens[friends[0]])
    for odd in ("0", "-1", "x", "1.5", "%00", "2147483647", "2147483648", "9999999999999999", "9" * 40, "%F0%9F%98%80"):
        status, body = client.call(method, f"/api/chat/{path.format(odd)}", {} if method == "POST" else None)
        assert status in (200, 400, 422), (odd, status, body)
        assert status != 200 or method == "GET", (odd, body)
    status, body = client.call(method, f"/api/chat/{path.format('abc')}", {} if method == "POST" else None)
    assert (status, body["code"]) == (422, "invalid")


def test_visitors_may_ask_but_not_administer(instance: Instance) -> None:
    """A visitor may apply, become a friend and end it; lists and answers are for registered users."""
    (visitor,) = add_users(instance, role="visitor")
    alice, bob = add_users(instance, 2)

    assert _apply(instance, visitor, alice) == "ok"
    assert _call(instance, visitor, "autoAddFriendAndAgree", friend_id=bob) == "ok"
    assert _call(instance, visitor, f"ismygoodfriend/{bob}")["friend_id"] == bob
    assert _call(instance, visitor, f"deletegoodfriend/{bob}") == "删除好友成功"
    for path in ("handleapply/1", "setblackgoodfriend/1", "setstargoodfriend/1", "setfriendremark/1"):
        assert _call(instance, visitor, path) == "400 visitors_excluded"
    for path in ("listapplyfriend/1", "goodfriendlist/1", f"getgoodfriendinfo/{bob}"):
        assert _get(instance, visitor, path) == "400 visitors_excluded"


# Races


@pytest.fixture
def raced(fresh_instance: InstanceFactory, database_url: str) -> Instance:
    instance = fresh_instance(DATABASE_URL=database_url, RATE_LIMIT_SENDS="off", RATE_LIMIT_AUTH="off")
    instance.seed(2, 0)
    return instance


def test_parallel_requests_double_nothing(raced: Instance) -> None:
    """Of parallel requests for the same thing one does it, on both databases: one row, one notice (F1)."""

    def in_parallel(calls: list[tuple[int, str, dict[str, Any]]]) -> list[Any]:
        def call(each: tuple[int, str, dict[str, Any]]) -> Any:
            user_id, path, params = each
            while True:  # 503: too many wait for the same lock. Come again, as a client does
                answer = _call(raced, user_id, path, **params)
                if answer != "503 unavailable":
                    return answer

        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(call, calls))

    alice, bob, carol, dave, eve, frank, *others = add_users(raced, 6 + 30)

    applied = in_parallel([(alice, "applyfriend", {"friend_id": bob})] * _THREADS)
    assert sorted(applied) == ["400 already_applied"] * (_THREADS - 1) + ["ok"]
    assert len(_rows(raced, FriendApplication, alice, bob)) == 1

    path = f"handleapply/{_application_id(raced, bob)}"
    answered = in_parallel([(bob, path, {"status": "agree"}), (bob, path, {"status": "refuse"})] * (_THREADS // 2))
    assert sorted(answered) == ["400 application_closed"] * (_THREADS - 1) + ["ok"]
    is_agreed = bool(_friend_ids(raced, alice))
    assert _rows(raced, FriendApplication, alice, bob)[0].status == ("agree" if is_agreed else "refuse")

    # Both at once, each to the other.
    both = [
        (carol, "autoAddFriendAndAgree", {"friend_id": dave}),
        (dave, "autoAddFriendAndAgree", {"friend_id": carol}),
    ]
    assert in_parallel(both * (_THREADS // 2)).count("ok") == 1
    assert len(_rows(raced, Friendship, carol, dave)) == 2
    told = f"history?chatType=single&peer_id={dave}"
    assert wait_until(lambda: len(_get(raced, carol, told)["messages"]) == 1, 10.0)

    made = in_parallel([(alice, "autoAddFriendAndAgree", {"friend_id": other}) for other in others])
    assert (made.count("ok"), made.count("429 too_many_friends")) == (20, 10)

    # Everything at once: a friendship has two sides or none, and no two changes wait for each other for ever.
    changes: list[tuple[str, dict[str, Any]]] = [
        ("autoAddFriendAndAgree", {"friend_id": 0}),
        ("deletegoodfriend/{}", {}),
        ("setstargoodfriend/{}", {}),
        ("setblackgoodfriend/{}", {"isblack": 1}),
        ("block/{}", {"block": 0}),
        ("applyfriend", {"friend_id": 0}),
    ]
    calls = [
        (
            user_id,
            path.format(other_id),
            {name: value or other_id for name, value in params.items()} if "friend_id" in params else params,
        )
        for path, params in changes * 3
        for user_id, other_id in ((eve, frank), (frank, eve))
    ]
    answers = in_parallel(calls)
    assert not {answer for answer in answers if "internal_error" in answer}
    assert len(_rows(raced, Friendship, eve, frank)) in (0, 2)
