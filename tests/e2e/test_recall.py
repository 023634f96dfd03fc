"""Recall: who may take a message back, and what is left of it everywhere (ORIG 9.D)."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from contextlib import ExitStack, closing
from typing import Any

import pytest

from models.requests import conversation_key, recall_id
from models.store import keys
from tests.support.acting import add_friends, empty_inbox, open_socket, show_marker, start_session
from tests.support.client import ChatSocket, HttpClient, message_text
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users, befriend, make_group

_GROUP = 1
_OWNER, _MEMBER, _OTHER_MEMBER, _OUTSIDER = 1, 2, 3, 25
_FIVE_MINUTES_MS = 300_000
_LONG_AGO_MS = 1_000_000_000_000
_NOT_FOUND = "消息不存在，无法撤回"

_Answer = tuple[int, Any]


def _send(instance: Instance, sender_id: int, to: int, *, is_group: bool = False) -> dict[str, Any]:
    client = HttpClient(instance.base, instance.tokens[sender_id])
    status, body = client.send(to, f"secret {uuid.uuid4().hex}", "group" if is_group else "single")
    assert status == 200, body
    message: dict[str, Any] = body["data"]
    return message


def _recall(instance: Instance, user_id: int, message: dict[str, Any], to: int | None = None, **fields: Any) -> _Answer:
    """Recall as the legacy client does, with the name, avatar and time that it sends along."""
    return HttpClient(instance.base, instance.tokens[user_id]).post(
        "/api/chat/revokeMessage",
        {
            "to_id": message["to_id"] if to is None else to,
            "to_name": "somebody",
            "to_avatar": "/somewhere.png",
            "id": message["id"],
            "chatType": message["chatType"],
            "create_time": message["create_time"],
        }
        | fields,
    )


def _is_recall_of(message: dict[str, Any], shown: dict[str, Any]) -> bool:
    return shown["id"] == message["id"] and shown.get("actionType") == "revoke"


def _wait_for_recall(socket: ChatSocket, message: dict[str, Any]) -> dict[str, Any]:
    frame = socket.wait_for(lambda frame: frame.message is not None and _is_recall_of(message, frame.message))
    return frame.message or {}


def _age(instance: Instance, message: dict[str, Any], milliseconds: int) -> None:
    """Make a stored message older, as the server knows it."""
    with closing(sqlite3.connect(instance.data_dir / "hongyan.db", timeout=10.0)) as database:
        database.execute(
            "UPDATE message SET created_at_ms = created_at_ms - ? WHERE id = ?", (milliseconds, message["id"])
        )
        database.commit()


def test_a_recall_is_shown_to_the_recipient(instance: Instance, friends: tuple[int, int]) -> None:
    """The recipient is shown a notice with the recalled message's id and seq, and the sender's name from the server."""
    sender_id, recipient_id = friends
    with open_socket(instance, recipient_id) as socket:
        message = _send(instance, sender_id, recipient_id)
        before_ms = int(time.time() * 1000)

        status, body = _recall(instance, sender_id, message)

        shown = _wait_for_recall(socket, message)
    assert status == 200
    assert body["data"] == shown
    assert (shown["type"], shown["actionType"], shown["seq"]) == ("systemNotice", "revoke", message["seq"])
    assert (shown["from_id"], shown["to_id"], shown["to_name"]) == (sender_id, recipient_id, message["to_name"])
    assert shown["data"] == {"data": f"用户{sender_id}撤回了一条消息", "dataType": False, "otherData": None}
    assert (shown["options"], shown["group"], shown["isremove"]) == ({}, None, 0)
    assert before_ms - 1_000 <= shown["create_time"] <= time.time() * 1000 + 1_000


@pytest.mark.parametrize("who", ["recipient", "stranger"])
def test_only_the_sender_may_recall(instance: Instance, friends: tuple[int, int], who: str) -> None:
    """D1: whoever did not send a message cannot recall it, and learns nothing about it."""
    sender_id, recipient_id = friends
    message = _send(instance, sender_id, recipient_id)
    user_id, to = (recipient_id, sender_id) if who == "recipient" else (_OTHER_MEMBER, recipient_id)

    for named in (to, message["to_id"]):
        status, body = _recall(instance, user_id, message, named)
        assert (status, body["code"], body["data"]) == (400, "message_not_found", _NOT_FOUND)

    with open_socket(instance, recipient_id) as socket:
        show_marker(instance, sender_id, recipient_id, socket)
        assert not any(_is_recall_of(message, shown) for shown in socket.messages)
    assert _recall(instance, sender_id, message)[0] == 200


def test_the_limit_is_measured_by_the_server(instance: Instance, friends: tuple[int, int]) -> None:
    """D2: after five minutes a message stays, whatever time the client names; before, it goes. Times ahead are refused."""
    sender_id, recipient_id = friends
    old, young = (_send(instance, sender_id, recipient_id) for _ in range(2))
    _age(instance, old, _FIVE_MINUTES_MS + 1_000)
    _age(instance, young, _FIVE_MINUTES_MS - 30_000)
    now_ms = int(time.time() * 1000)

    for create_time in (now_ms, _LONG_AGO_MS):
        status, body = _recall(instance, sender_id, old, create_time=create_time)
        assert (status, body["code"], body["data"]) == (400, "recall_too_late", "消息超过5分钟，不能撤回")
    status, body = _recall(instance, sender_id, young, create_time=now_ms + 60_000)
    assert (status, body["code"]) == (422, "invalid")
    assert body["data"].startswith("消息发送时间 的数值 必须 在 1000000000000 和 ")
    assert _recall(instance, sender_id, young, create_time=_LONG_AGO_MS)[0] == 200


@pytest.mark.parametrize("v", [1, 2])
def test_who_was_away_never_sees_what_was_recalled(instance: Instance, friends: tuple[int, int], v: int) -> None:
    """D3, D7: who comes back later is shown a tombstone in the message's place, and the recall after it."""
    sender_id, recipient_id = friends
    empty_inbox(instance, recipient_id)
    message = _send(instance, sender_id, recipient_id)
    between = _send(instance, sender_id, recipient_id)
    assert _recall(instance, sender_id, message)[0] == 200

    with open_socket(instance, recipient_id, 1 if v == 1 else 2) as socket:
        show_marker(instance, sender_id, recipient_id, socket)
        shown = socket.messages
        everything = json.dumps([frame.data for frame in socket.frames])

    tombstone, second, recall = shown[:3]
    assert (tombstone["id"], tombstone["isremove"], tombstone["seq"]) == (message["id"], 1, message["seq"])
    assert "actionType" not in tombstone
    assert message_text(tombstone) == ""
    assert second == between
    assert _is_recall_of(message, recall)
    assert message_text(message) not in everything


def test_nothing_of_it_stays_where_messages_are_kept(instance: Instance, friends: tuple[int, int]) -> None:
    """D3: after a recall neither Redis nor the database holds the text, on either side."""
    sender_id, recipient_id = friends
    for user_id in friends:
        empty_inbox(instance, user_id)  # the log of a user who was never there begins with what comes after the first
    message = _send(instance, sender_id, recipient_id)
    text = message_text(message)

    assert _recall(instance, sender_id, message)[0] == 200

    with instance.redis() as client:
        for owner, peer in (friends, friends[::-1]):
            log = client.lrange(keys.single_log(owner, peer), 0, -1)
            assert any(message["id"] in entry for entry in log)
            assert not any(text in entry for entry in (*log, *client.lrange(keys.inbox(owner), 0, -1)))
    with closing(sqlite3.connect(instance.data_dir / "hongyan.db", timeout=10.0)) as database:
        bodies = database.execute("SELECT body, body_for_sender FROM message").fetchall()
    assert text not in str(bodies)


def test_an_invented_id_is_no_channel(instance: Instance, friends: tuple[int, int]) -> None:
    """D5: without a message there is nothing to recall, and nobody is told of the attempt, friend or stranger."""
    sender_id, recipient_id = friends
    invented = {"id": str(uuid.uuid4()), "chatType": "single", "create_time": int(time.time() * 1000)}
    with open_socket(instance, recipient_id) as socket:
        show_marker(instance, sender_id, recipient_id, socket)
        count = len(socket.messages)

        for to in (recipient_id, _OTHER_MEMBER, 999_999):
            status, body = _recall(instance, sender_id, invented | {"to_id": to})
            assert (status, body["code"]) == (400, "message_not_found")
        status, body = _recall(instance, _MEMBER, invented | {"to_id": _GROUP, "chatType": "group"})
        assert (status, body["code"]) == (400, "message_not_found")

        show_marker(instance, sender_id, recipient_id, socket)
        assert len(socket.messages) == count + 1
    with instance.redis() as client:
        assert not client.exists(keys.inbox(999_999), keys.cursor(999_999))


def test_a_message_is_recalled_where_it_was_sent(instance: Instance, friends: tuple[int, int]) -> None:
    """D5: an own message cannot be recalled towards somebody else, nor as a group's."""
    sender_id, recipient_id = friends
    message = _send(instance, sender_id, recipient_id)

    for to, chat_type in ((_OTHER_MEMBER, "single"), (_GROUP, "group")):
        status, body = _recall(instance, sender_id, message, to, chatType=chat_type)
        assert status == 400
        assert body["code"] == ("message_not_found" if chat_type == "single" else "not_in_group")


def test_recalling_twice_is_one_recall(instance: Instance, friends: tuple[int, int]) -> None:
    """D7: a repeated recall is answered as the first was, and shown once."""
    sender_id, recipient_id = friends
    empty_inbox(instance, recipient_id)
    with open_socket(instance, recipient_id) as socket:
        message = _send(instance, sender_id, recipient_id)

        answers = [_recall(instance, sender_id, message) for _ in range(3)]

        show_marker(instance, sender_id, recipient_id, socket)
        recalls = [shown for shown in socket.messages if _is_recall_of(message, shown)]
    assert [status for status, _ in answers] == [200] * 3
    assert len(recalls) == 1
    assert answers[0] == answers[1] == answers[2]


def test_a_recall_cannot_be_recalled(instance: Instance, friends: tuple[int, int]) -> None:
    """A refused message, and a recall itself, are no messages that could be recalled."""
    sender_id, recipient_id = friends
    client = HttpClient(instance.base, instance.tokens[sender_id])
    refused_id = client.send(999_999, "x", respond_async=True)[1]["data"]["id"]
    assert wait_until(lambda: client.get(f"/api/chat/messages/{refused_id}")[1]["data"]["status"] == "refused", 5.0)

    refused = {"id": refused_id, "to_id": 999_999, "chatType": "single", "create_time": _LONG_AGO_MS}
    assert _recall(instance, sender_id, refused)[1]["code"] == "message_not_found"

    message = _send(instance, sender_id, recipient_id)
    assert _recall(instance, sender_id, message)[0] == 200
    own_id = recall_id(sender_id, conversation_key("single", sender_id, recipient_id), message["id"])
    with closing(sqlite3.connect(instance.data_dir / "hongyan.db", timeout=10.0)) as database:
        stands = "SELECT kind, verdict FROM message WHERE id = ?"
        assert database.execute(stands, (own_id,)).fetchall() == [("recall", "stored")]
    assert _recall(instance, sender_id, message | {"id": own_id})[1]["code"] == "message_not_found"


def test_other_devices_of_the_sender_are_told(instance: Instance, friends: tuple[int, int]) -> None:
    """A recall reaches the sender's other devices as it reaches the recipient."""
    sender_id, recipient_id = friends
    token = start_session(instance, sender_id, "second")
    with open_socket(instance, sender_id, 2, token=token) as other:
        message = _send(instance, sender_id, recipient_id)
        other.wait_for_text(message_text(message))

        assert _recall(instance, sender_id, message)[0] == 200

        assert _wait_for_recall(other, message)["seq"] == message["seq"]


@pytest.mark.parametrize("who", ["sender", "owner"])
def test_a_group_message_is_recalled_for_all(instance: Instance, who: str) -> None:
    """D6, D8: its sender and the group's owner may recall a group message; every member is told, the recaller too."""
    recaller_id = _MEMBER if who == "sender" else _OWNER
    readers = (_OWNER, _MEMBER, _OTHER_MEMBER)
    with ExitStack() as stack:
        sockets = {user_id: stack.enter_context(open_socket(instance, user_id)) for user_id in readers}
        message = _send(instance, _MEMBER, _GROUP, is_group=True)
        sockets[_OTHER_MEMBER].wait_for_text(message_text(message))

        status, body = _recall(instance, recaller_id, message)

        assert status == 200
        for socket in sockets.values():
            shown = _wait_for_recall(socket, message)
            assert shown == body["data"]
            assert shown["data"]["data"] == f"用户{recaller_id} 撤回了一条消息"
            assert shown["group"] is None
            assert shown["seq"] == message["seq"]


@pytest.mark.parametrize(("user_id", "code"), [(_OTHER_MEMBER, "message_not_found"), (_OUTSIDER, "not_in_group")])
def test_others_cannot_recall_a_group_message(instance: Instance, user_id: int, code: str) -> None:
    """D1, D8: another member or an outsider cannot recall a group message."""
    message = _send(instance, _MEMBER, _GROUP, is_group=True)

    status, body = _recall(instance, user_id, message)

    assert (status, body["code"]) == (400, code)


def test_a_refusal_ends_with_what_caused_it(instance: Instance) -> None:
    """Who is not in the group, or finds no group, is told so in ORIG's words; a member who came back may recall again."""
    owner, member, outsider = add_users(instance, 3)
    group_id = make_group(instance, owner, [member])
    befriend(instance, owner, member)
    message = _send(instance, member, group_id, is_group=True)
    client = HttpClient(instance.base, instance.tokens[owner])

    assert _recall(instance, outsider, message)[1]["data"] == "你不在该群聊中，操作失败"
    assert _recall(instance, member, message, 2**31 - 1)[1]["data"] == "群不存在"
    body = {"group_id": group_id, "user_id": member}
    assert client.post("/api/chat/groupDeleteUser", body)[0] == 200
    for _ in range(2):
        assert _recall(instance, member, message)[1]["code"] == "not_in_group"
    assert client.post("/api/chat/groupInviteUser", body)[0] == 200

    answers = [_recall(instance, member, message) for _ in range(2)]

    assert [status for status, _ in answers] == [200, 200]
    assert answers[0] == answers[1]


def test_a_new_owner_recalls_what_he_could_not(instance: Instance) -> None:
    """A member's recall of another's message is refused, and goes through when the group has become his."""
    owner, member = add_users(instance, 2)
    group_id = make_group(instance, owner, [member])
    message = _send(instance, owner, group_id, is_group=True)
    assert _recall(instance, member, message)[1]["code"] == "message_not_found"
    body = {"group_id": group_id, "user_id": member}
    assert HttpClient(instance.base, instance.tokens[owner]).post("/api/chat/groupTransfer", body)[0] == 200

    assert _recall(instance, member, message)[0] == 200


def test_a_member_who_was_away_sees_the_tombstone(instance: Instance) -> None:
    """D3: a member who comes back later is shown what is left of the group's message, and then the recall."""
    empty_inbox(instance, _OTHER_MEMBER)
    message = _send(instance, _MEMBER, _GROUP, is_group=True)
    assert _recall(instance, _OWNER, message)[0] == 200

    with open_socket(instance, _OTHER_MEMBER) as socket:
        _wait_for_recall(socket, message)
        mine = [shown for shown in socket.messages if shown["id"] == message["id"]]
        everything = json.dumps([frame.data for frame in socket.frames])

    assert [(shown["isremove"], shown.get("actionType")) for shown in mine] == [(1, None), (0, "revoke")]
    assert message_text(message) not in everything
    with instance.redis() as client:
        assert not any(message_text(message) in entry for entry in client.lrange(keys.group_log(_GROUP), 0, -1))


def test_a_recall_takes_no_place_in_the_conversation(instance: Instance) -> None:
    """A recall carries the recalled message's seq: the next message has the next one."""
    sender_id, recipient_id = add_friends(instance)
    first = _send(instance, sender_id, recipient_id)
    assert _recall(instance, sender_id, first)[0] == 200

    assert (first["seq"], _send(instance, sender_id, recipient_id)["seq"]) == (1, 2)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"to_id": 0}, "接收者id或者群id 的数值 必须 在 1 和 10000000000000000 之间"),
        ({"to_id": ""}, "接收者id或者群id不能为空"),
        ({"id": ""}, "消息uuid不能为空"),
        ({"chatType": "x"}, "聊天类型 的值 `x` 必须在 [`single`、`group`] 中"),
        ({"create_time": "x"}, "消息发送时间 的值 `x` 的类型不是 `int`"),
    ],
)
def test_invalid_parameters_are_told(
    instance: Instance, friends: tuple[int, int], fields: dict[str, Any], text: str
) -> None:
    """A recall that lacks something is answered with 422 and ORIG's text."""
    message = {"id": "x", "to_id": friends[1], "chatType": "single", "create_time": _LONG_AGO_MS}

    status, body = _recall(instance, friends[0], message, **fields)

    assert (status, body["code"], body["data"]) == (422, "invalid", text)


def test_a_spoofed_name_is_not_believed(instance: Instance, friends: tuple[int, int]) -> None:
    """D4: names and avatars that the client sends, even very long ones, change nothing."""
    message = _send(instance, *friends)

    status, body = _recall(instance, friends[0], message, to_name="系统", to_avatar="x" * 4_000)

    assert status == 200
    assert (body["data"]["to_name"], body["data"]["to_avatar"]) == (message["to_name"], message["to_avatar"])
