"""Profiles and settings over HTTP: what others may see of a user, and how he changes it."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import InstanceFactory
from tests.support.acting import open_socket
from tests.support.client import Frame, HttpClient
from tests.support.instance import Instance
from tests.support.relations import add_users, befriend, change_user, disable_friend_row


def _call(instance: Instance, user_id: int, path: str, **params: Any) -> tuple[int, Any]:
    """Call a POST route as a user, and return status and data."""
    status, body = HttpClient(instance.base, instance.tokens[user_id]).post(f"/api/chat/{path}", params)
    return status, body["data"]


def _set(instance: Instance, user_id: int, name: str, value: Any) -> tuple[int, Any]:
    return _call(instance, user_id, "updateUserinfo", fieldname=name, fieldValue=value)


def _settings(instance: Instance, user_id: int) -> Any:
    status, info = _call(instance, user_id, "getUserSetInfo", userid=user_id)
    assert status == 200, info
    return json.loads(info["userset"])


def _uuid_of(user_id: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"hongyan-seed-{user_id}"))


def _public(instance: Instance, user_uuid: str) -> tuple[int, Any]:
    status, body = HttpClient(instance.base, None).get(f"/api/userinfo/{user_uuid}")
    return status, body["data"]


# What others see


def test_anybody_sees_a_minimal_profile(instance: Instance) -> None:
    """Without a token: names, avatar, role and what he says of himself; no settings, no ids (E23)."""
    (alice,) = add_users(instance)
    assert _call(instance, alice, "userset", userset='{"chatset":{"user":{"sendCount":0}}}') == (200, "ok")
    shown: dict[str, Any] = {
        "uuid": _uuid_of(alice),
        "username": f"added{alice}",
        "nickname": f"用户{alice}",
        "avatar": "",
        "role": "user",
        "userinfo": None,
    }

    assert _public(instance, _uuid_of(alice)) == (200, shown)
    assert _set(instance, alice, "bio", "likes geese")[0] == 200
    shown["userinfo"] = {
        "gender": "unknown",
        "birthday": None,
        "bio": "likes geese",
        "location": None,
        "website": None,
    }
    assert _public(instance, _uuid_of(alice)) == (200, shown)
    assert _public(instance, str(uuid.uuid4())) == (200, None)
    assert _public(instance, "short") == (422, "uuid值 的长度 必须 在 36 和 36 之间")
    change_user(instance, alice, status=0)
    assert _public(instance, _uuid_of(alice)) == (200, None)


def test_a_search_takes_its_words_literally(instance: Instance) -> None:
    """Wildcards are ordinary characters; visitors, disabled users and oneself are not found (F19)."""
    alice, bob, carol, gone = add_users(instance, 4)
    (visitor,) = add_users(instance, role="visitor")
    mark = uuid.uuid4().hex[:8]
    for user_id, name in ((alice, "x"), (bob, "A_b%"), (carol, "axb"), (gone, "a_b%x"), (visitor, "a_b%v")):
        change_user(instance, user_id, username=f"{mark}{name}")
    change_user(instance, gone, status=0)

    def found(keyword: str) -> list[int]:
        status, users = _call(instance, alice, "searchUser", keyword=keyword)
        assert status == 200, users
        return [user["id"] for user in users]

    assert found(mark) == [bob, carol]
    assert found(f"{mark}a_b") == found("_b%") == [bob]
    assert set(_call(instance, alice, "searchUser", keyword=mark)[1][0]) == {
        "id",
        "username",
        "avatar",
        "role",
        "uuid",
        "nickname",
    }
    assert len(found("seed")) == 50
    assert _call(instance, alice, "searchUser") == (422, "搜索关键词不能为空")
    assert _call(instance, alice, "searchUser", keyword="x" * 51)[0] == 422
    assert _call(instance, visitor, "searchUser", keyword=mark)[0] == 400


def test_the_info_for_a_chat_says_what_i_am_to_him(instance: Instance) -> None:
    """`isgoodfriend` is about the other's list; his block or an administrator's switch shows in its status."""
    alice, bob = add_users(instance, 2)
    (visitor,) = add_users(instance, role="visitor")

    def info() -> tuple[bool, bool]:
        status, shown = _call(instance, alice, "getUserSetInfo", userid=bob)
        assert status == 200, shown
        assert set(shown) == {"id", "userset", "invite_confirm", "uuid", "isgoodfriend", "isgoodfriend_status"}
        assert (shown["id"], shown["uuid"], shown["invite_confirm"]) == (bob, _uuid_of(bob), 0)
        return shown["isgoodfriend"], shown["isgoodfriend_status"]

    assert info() == (False, True)
    befriend(instance, alice, bob)
    assert info() == (True, True)
    assert _call(instance, bob, f"setblackgoodfriend/{alice}", isblack=1) == (200, "ok")
    assert info() == (True, False)
    assert _call(instance, bob, f"setblackgoodfriend/{alice}", isblack=0) == (200, "ok")
    disable_friend_row(instance, bob, alice)
    assert info() == (True, False)
    for nobody in (visitor, 999_999, 9_999_999_999):
        assert _call(instance, alice, "getUserSetInfo", userid=nobody) == (
            400,
            "用户不存在或者为游客，无法加为好友",
        )


# Settings


def test_settings_are_merged_key_by_key(instance: Instance) -> None:
    """Two pages that each save their part do not undo each other; null takes a key away (E22)."""
    (alice,) = add_users(instance)
    first = {"chatset": {"visitor": {"sendCount": 0, "needFollow": False}, "user": {"sendCount": 2}}}
    assert _call(instance, alice, "userset", userset=json.dumps(first)) == (200, "ok")
    assert _settings(instance, alice) == first

    # As an object too, since a JSON body may hold one.
    assert _call(instance, alice, "userset", userset={"chatset": {"user": {"sendCount": 1}}, "theme": "dark"})[0] == 200
    assert _call(instance, alice, "userset", userset='{"theme":null,"sound":true}')[0] == 200

    assert _settings(instance, alice) == {
        "chatset": {"visitor": {"sendCount": 0, "needFollow": False}, "user": {"sendCount": 1}},
        "sound": True,
    }


@pytest.mark.parametrize("stored", ["", "{broken", "[]", '{"theme":"dark"}'])
def test_settings_without_chatset_tell_others_nothing(instance: Instance, stored: str) -> None:
    """Which means the defaults, as for somebody who has set nothing."""
    alice, bob = add_users(instance, 2)
    change_user(instance, alice, userset=stored)

    assert _call(instance, bob, "getUserSetInfo", userid=alice)[1]["userset"] == ""


def test_others_see_of_settings_how_they_may_write(instance: Instance) -> None:
    """What else one keeps there is his own; a visitor, too, needs to know no more (E23)."""
    alice, bob = add_users(instance, 2)
    (visitor,) = add_users(instance, role="visitor")
    chatset = {"visitor": {"sendCount": 0, "needFollow": False}, "user": {"sendCount": 2, "needFollow": False}}
    assert _call(instance, alice, "userset", userset={"chatset": chatset, "note": "to myself"})[0] == 200

    for other in (bob, visitor):
        shown = _call(instance, other, "getUserSetInfo", userid=alice)[1]["userset"]
        assert json.loads(shown) == {"chatset": chatset}
    assert _settings(instance, alice) == {"chatset": chatset, "note": "to myself"}


@pytest.mark.parametrize(
    "given", ["not json", "[]", "12", '"text"', "{", "{}x", "[" * 2_000, '{"a":' * 500 + "1" + "}" * 500]
)
def test_settings_must_be_an_object(instance: Instance, given: str) -> None:
    """What is no JSON object is refused when it is written, and changes nothing (C9)."""
    (alice,) = add_users(instance)

    assert _call(instance, alice, "userset", userset=given)[0] == 422
    assert _call(instance, alice, "getUserSetInfo", userid=alice)[1]["userset"] == ""


def test_settings_are_bounded(instance: Instance) -> None:
    """Neither at once nor bit by bit can settings grow without end; unreadable ones of old give way."""
    (alice,) = add_users(instance)
    change_user(instance, alice, userset="{broken")
    assert _call(instance, alice, "userset", userset=json.dumps({"a": "x" * 10_000})) == (200, "ok")

    assert _call(instance, alice, "userset", userset=json.dumps({"b": "x" * 10_000}))[0] == 422
    assert _call(instance, alice, "userset", userset=json.dumps({"b": "x" * 20_000}))[0] == 422
    assert set(_settings(instance, alice)) == {"a"}


def test_a_setting_holds_for_the_next_message(instance: Instance) -> None:
    """A message decided after the answer follows the new setting."""
    alice, stranger = add_users(instance, 2)
    client = HttpClient(instance.base, instance.tokens[stranger])
    for count, status in ((0, 400), (2, 200), (0, 400)):
        given = json.dumps({"chatset": {"user": {"sendCount": count, "needFollow": False}}})
        assert _call(instance, alice, "userset", userset=given) == (200, "ok")
        assert client.send(alice, f"{count}")[0] == status


def test_the_original_client_reads_ids_where_it_is_let(fresh_instance: InstanceFactory) -> None:
    """With PUBLIC_PROFILE=original its page learns with whom to chat, and how one may; other settings stay private (E23)."""
    instance = fresh_instance(PUBLIC_PROFILE="original")
    alice, bob = add_users(instance, 2)
    chatset = {"visitor": {"sendCount": 0, "needFollow": False}, "user": {"sendCount": 2, "needFollow": False}}
    assert _call(instance, alice, "userset", userset={"chatset": chatset, "theme": "dark"}) == (200, "ok")

    told = [_public(instance, _uuid_of(user_id))[1] for user_id in (alice, bob)]

    assert [profile["id"] for profile in told] == [alice, bob]
    assert json.loads(told[0]["userset"]) == {"chatset": chatset}
    assert told[1]["userset"] == ""


def test_parallel_settings_all_count(fresh_instance: InstanceFactory, database_url: str) -> None:
    """Twenty pages that save a key each at the same time: all twenty are kept, on both databases (E22)."""
    instance = fresh_instance(DATABASE_URL=database_url)
    instance.seed(2, 0)

    def save(number: int) -> None:
        while _call(instance, 1, "userset", userset={f"page{number}": number})[0] == 503:
            pass  # too many wait for the same lock. Come again, as a client does

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(save, range(20)))

    assert _settings(instance, 1) == {f"page{number}": number for number in range(20)}


# One's own profile


def test_the_next_message_carries_the_new_profile(instance: Instance) -> None:
    """Nickname and avatar are read when a message is decided, not when somebody logged in (E21)."""
    alice, bob = add_users(instance, 2)
    befriend(instance, alice, bob)
    client = HttpClient(instance.base, instance.tokens[alice])
    with open_socket(instance, bob) as socket:
        assert client.send(bob, "before")[0] == 200
        assert _set(instance, alice, "nickname", "小雁") == (200, "修改昵称成功")
        assert _set(instance, alice, "avatar", "https://example.com/a.png") == (200, "头像更新成功")
        assert client.send(bob, "after")[0] == 200
        message = socket.wait_for_text("after").message

    assert message is not None
    assert (message["from_name"], message["from_avatar"]) == ("小雁", "https://example.com/a.png")


@pytest.mark.parametrize("version", [1, 2])
def test_a_new_avatar_is_told_to_ones_own_sockets(instance: Instance, version: Any) -> None:
    """The notice that the client shows under the avatar setting comes with the new avatar, on either protocol (E20)."""
    (alice,) = add_users(instance)

    def is_avatar(frame: Frame) -> bool:
        data = frame.data.get("data")
        return isinstance(data, dict) and (data.get("redirect") or {}).get("doaction") == "avatar"

    with open_socket(instance, alice, version) as socket:
        assert _set(instance, alice, "avatar", "/static/media/new.png") == (200, "头像更新成功")
        notice = socket.wait_for(is_avatar).data["data"]

    assert notice["from_id"] == notice["msgidKey"] == f"redirect-userInfoSet-{alice}"
    assert (notice["from_name"], notice["from_avatar"]) == ("头像更换成功", "/static/media/new.png")
    assert notice["data"]["data"] == "不满意你的头像可以继续更换"
    assert notice["redirect"]["url"].startswith("/pages/setpageInfo/setpageInfo?action=userinfoSet&title=")
    assert notice["redirect"]["type"] == "navigateTo"


@pytest.mark.parametrize(
    ("name", "value", "status", "text"),
    [
        ("username", "other", 400, "账号不可修改"),
        ("nickname", "x" * 30, 200, "修改昵称成功"),
        ("nickname", "x" * 31, 400, "昵称长度不能超过30个字符"),
        ("nickname", "", 422, "修改结果不能为空"),
        ("avatar", "/" + "x" * 1_000, 400, "头像地址过长不能超过1000个字符"),
        ("avatar", "https://example.com/" + "x" * 980, 200, "头像更新成功"),
        ("invite_confirm", 1, 200, "设置成功"),
        ("invite_confirm", "0", 200, "设置成功"),
        ("invite_confirm", 2, 400, "添加我为好友设置值错误"),
        ("gender", "female", 200, "设置成功"),
        ("gender", "other", 422, "修改结果 的值 `other` 必须在 [`male`、`female`、`unknown`] 中"),
        ("birthday", "2001-02-28", 200, "设置成功"),
        ("birthday", "2001-02-29", 422, "修改结果 的值必须是 YYYY-MM-DD 形式的日期"),
        ("bio", "x" * 201, 422, "修改结果 的长度 必须 在 1 和 200 之间"),
        ("website", "https://example.com/~me", 200, "设置成功"),
        ("website", "javascript:alert(1)", 422, "修改结果 的值必须是 http(s) 链接"),
        ("location", "杭州", 200, "设置成功"),
    ],
)
def test_each_field_has_its_rules(
    instance: Instance, friends: tuple[int, int], name: str, value: Any, status: int, text: str
) -> None:
    """Fields are changed one at a time, under ORIG's rules and texts."""
    (alice,) = add_users(instance)

    assert _set(instance, alice, name, value) == (status, text)


@pytest.mark.parametrize(
    "name", ["password", "role", "status", "id", "userset", "facts_version", "is_administrator", "x"]
)
def test_other_fields_cannot_be_changed(instance: Instance, name: str) -> None:
    """An unknown field is refused, not answered with success (E19)."""
    (alice,) = add_users(instance)

    status, text = _set(instance, alice, name, "1")

    assert status == 422
    assert text.startswith(f"修改类型 的值 `{name}` 必须在 [`username`、`nickname`、`avatar`、")


@pytest.mark.parametrize(
    "value",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "//evil.example/x.png",
        "/\\evil.example/x.png",
        "https:///x.png",
        "http://[::1/x.png",
        "user.jpg",
        'https://example.com/"onerror="x',
        "https://example.com/a b.png",
        "https://example.com/\nx",
        "https://example.com/\0",
    ],
)
def test_an_avatar_is_an_address_that_runs_nothing(instance: Instance, value: str) -> None:
    """An avatar is an http(s) URL or a path of this server (E19)."""
    (alice,) = add_users(instance)

    assert _set(instance, alice, "avatar", value)[0] == 422


def test_visitors_have_a_profile_too(instance: Instance) -> None:
    """A visitor may change his name and settings, and ask about others."""
    (visitor,) = add_users(instance, role="visitor")
    (alice,) = add_users(instance)

    assert _set(instance, visitor, "nickname", "guest") == (200, "修改昵称成功")
    assert _call(instance, visitor, "userset", userset='{"sound":false}') == (200, "ok")
    assert _call(instance, visitor, "getUserSetInfo", userid=alice)[0] == 200
