"""Searching one's messages and forwarding one of them (contract sections 6 and 8)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.conftest import InstanceFactory
from tests.support.acting import open_socket
from tests.support.client import HttpClient, message_text
from tests.support.instance import Instance
from tests.support.relations import add_member, add_users, befriend, make_group, set_strangers, start_session, writing


def _client(instance: Instance, user_id: int) -> HttpClient:
    return HttpClient(instance.base, instance.tokens[user_id])


def _search(instance: Instance, user_id: int, q: str, **params: Any) -> dict[str, Any]:
    status, body = _client(instance, user_id).get(f"/api/chat/search?{urlencode({'q': q, **params})}")
    assert status == 200, body
    assert set(body["data"]) == {"messages", "more"}
    return body["data"]  # type: ignore[no-any-return]


def _texts(page: dict[str, Any]) -> list[str]:
    return [message_text(message) for message in page["messages"]]


def _send(instance: Instance, sender_id: int, to: int, text: str, chat_type: Any = "single") -> str:
    status, body = _client(instance, sender_id).send(to, text, chat_type)
    assert status == 200, body
    return str(body["data"]["id"])


def _send_raw(instance: Instance, sender_id: int, to: int, kind: str, data: str) -> str:
    body = {"sendto_id": to, "chatType": "single", "type": kind, "data": data, "options": "%7B%22a%22%3A1%7D"}
    status, answer = _client(instance, sender_id).post("/api/chat/socket/sendmessage", body)
    assert status == 200, answer
    return str(answer["data"]["id"])


def _friends(instance: Instance) -> tuple[int, int]:
    first, second = add_users(instance, 2)
    befriend(instance, first, second)
    return first, second


# Search


def test_search_finds_what_one_sent_and_got_newest_first(instance: Instance) -> None:
    """In one-to-one chats and groups alike, whichever shard they live in, without respect to case."""
    me, friend = _friends(instance)
    [other] = add_users(instance)
    befriend(instance, me, other)
    group_id = make_group(instance, friend, [me])
    word = uuid.uuid4().hex
    _send(instance, me, friend, f"first {word}")
    _send(instance, other, me, f"second {word.upper()}")
    _send(instance, friend, group_id, f"third {word}", "group")
    _send(instance, me, group_id, f"fourth {word}", "group")
    _send(instance, me, friend, "another thing")

    found = _search(instance, me, word)

    assert [text.split()[0] for text in _texts(found)] == ["fourth", "third", "second", "first"]
    assert found["more"] is False
    assert [text.split()[0] for text in _texts(_search(instance, other, word))] == ["second"]
    assert {message["chatType"] for message in found["messages"]} == {"single", "group"}


def test_search_is_paged_by_the_id_of_the_last_result(instance: Instance) -> None:
    """Every result once, whatever the size of a page, also where many were decided in the same moment."""
    me, friend = _friends(instance)
    [other] = add_users(instance)
    befriend(instance, me, other)
    word = uuid.uuid4().hex
    client = _client(instance, me)
    for number in range(90):
        to = (friend, other)[number % 2]
        assert client.send(to, f"{word} {number}", respond_async=number % 10 != 9)[0] in (200, 202)
    for to in (friend, other):
        _send(instance, me, to, "the last of them")

    found: list[str] = []
    pages = 0
    before: dict[str, str] = {}
    while True:
        page = _search(instance, me, word, limit=7, **before)
        found += _texts(page)
        pages += 1
        if not page["more"]:
            break
        before = {"before": page["messages"][-1]["id"]}

    assert sorted(found) == sorted(f"{word} {number}" for number in range(90))
    assert pages == 13
    odd = [text for text in found if int(text.split()[1]) % 2]
    assert odd == sorted(odd, key=lambda text: -int(text.split()[1]))


@pytest.mark.parametrize("text", ["100%", "a_b", "back\\slash", 'a "quoted" word', "雁字回时", "😀 face", "<b>'x'</b>"])
def test_search_takes_every_sign_for_itself(instance: Instance, text: str) -> None:
    """Wildcards are signs, and a text is found however the client has written its JSON."""
    me, friend = _friends(instance)
    for ensure_ascii in (False, True):
        body = {"data": f"<{text}>", "dataType": False, "otherData": None}
        _send_raw(instance, me, friend, "text", json.dumps(body, ensure_ascii=ensure_ascii))
    _send_raw(instance, me, friend, "text", f"plain <{text}>")
    _send(instance, me, friend, "100 axb backslash a quoted word")

    assert len(_search(instance, friend, text)["messages"]) == 3


def test_search_looks_at_texts_only(instance: Instance) -> None:
    """Not at names, ids, options or the addresses of pictures and stickers; at the name of a file."""
    me = add_users(instance, 1, nickname="Wintergreen")[0]
    [friend] = add_users(instance)
    befriend(instance, me, friend)
    body = {"dataType": "image", "otherData": None}
    _send_raw(instance, me, friend, "image", json.dumps({**body, "data": "/wintergreen.jpg"}))
    _send_raw(instance, me, friend, "iconMenus", json.dumps({**body, "data": "https://host/wintergreen.png"}))
    _send(instance, me, friend, "nothing of it here")
    file = {"data": "/a/b.bin", "dataType": "file", "otherData": {"name": "summergreen.pdf", "size": 1, "mime": "x"}}
    _send_raw(instance, me, friend, "file", json.dumps(file))

    assert _texts(_search(instance, friend, "wintergreen")) == []
    assert _texts(_search(instance, friend, "otherData")) == []
    assert _texts(_search(instance, friend, "summergreen")) == ["/a/b.bin"]


def test_search_shows_nothing_that_history_would_not_show(instance: Instance) -> None:
    """Not what was said before one came, nor in a group that one has left, nor what is recalled or was refused."""
    me, friend = _friends(instance)
    owner, late, recluse = add_users(instance, 3)
    set_strangers(instance, recluse, user=0, visitor=0)
    group_id = make_group(instance, owner, [friend])
    word = uuid.uuid4().hex
    _send(instance, owner, group_id, f"early {word}", "group")
    add_member(instance, group_id, late)
    _send(instance, owner, group_id, f"late {word}", "group")
    recalled = _send(instance, me, friend, f"recalled {word}")
    recall = {"id": recalled, "chatType": "single", "to_id": friend}
    assert _client(instance, me).post("/api/chat/revokeMessage", recall)[0] == 200
    assert _client(instance, me).send(recluse, f"refused {word}")[0] == 400

    assert _texts(_search(instance, late, word)) == [f"late {word}"]
    assert _texts(_search(instance, friend, word)) == [f"late {word}", f"early {word}"]
    assert _texts(_search(instance, me, word)) == []
    assert _texts(_search(instance, recluse, word)) == []
    with writing(instance) as connection:
        connection.exec_driver_sql(f"DELETE FROM group_user WHERE group_id = {group_id} AND user_id = {late}")
    assert _texts(_search(instance, late, word)) == []


def test_search_refuses_what_it_cannot_do(instance: Instance) -> None:
    """Pages begin at a message that the caller may see; texts have 1 to 50 signs; visitors may not search."""
    me, friend = _friends(instance)
    [stranger] = add_users(instance)
    theirs = _send(instance, me, friend, "not the stranger's")
    client = _client(instance, stranger)

    for before in (theirs, str(uuid.uuid4()), "x"):
        assert client.get(f"/api/chat/search?q=a&before={before}")[0] == 404
    for query in ("", "q=", f"q={'x' * 51}", "q=%00", f"q=a&before={'x' * 37}", "q=a&before=%00"):
        assert client.get(f"/api/chat/search?{query}")[0] == 422, query
    assert client.get("/api/chat/search?q=a&limit=1000")[1]["data"] == {"messages": [], "more": False}
    visitor_token = start_session(instance, stranger, device="v", role="visitor")
    assert HttpClient(instance.base, visitor_token).get("/api/chat/search?q=a")[0] == 400


# Forward


def _forward(client: HttpClient, message_id: str, targets: Sequence[tuple[Any, Any]]) -> tuple[int, Any]:
    to = [{"chatType": chat_type, "sendto_id": to_id} for chat_type, to_id in targets]
    return client.post("/api/chat/forward", {"id": message_id, "to": to})


def test_forwarding_sends_the_same_content_to_each_target(instance: Instance) -> None:
    """As one's own new message, to users and groups, each with its verdict; a refused one does not stop the others."""
    me, friend = _friends(instance)
    other, recluse = add_users(instance, 2)
    befriend(instance, me, other)
    set_strangers(instance, recluse, user=0, visitor=0)
    group_id = make_group(instance, me, [friend])
    data = json.dumps({"data": "/a.png", "dataType": "image", "otherData": {"w": 1}})
    original = _send_raw(instance, friend, me, "image", data)

    with open_socket(instance, other, 2) as theirs, open_socket(instance, friend, 2) as members:
        targets = [("single", other), ("group", group_id), ("single", recluse), ("single", me), ("single", other)]
        status, body = _forward(_client(instance, me), original, targets)

        assert status == 200, body
        results = body["data"]["results"]
        assert [(result["chatType"], result["sendto_id"]) for result in results] == targets
        assert [result["ok"] for result in results] == [True, True, False, False, True]
        assert [result.get("code") for result in results] == [None, None, "friends_only", "self", None]
        assert results[0] == results[4]
        assert original not in {result.get("id") for result in results}
        got = theirs.wait_for(lambda frame: (frame.message or {}).get("id") == results[0]["id"]).message
        in_group = members.wait_for(lambda frame: (frame.message or {}).get("id") == results[1]["id"]).message

    assert got is not None
    assert in_group is not None
    assert (got["from_id"], got["to_id"], got["type"], got["data"], got["options"]) == (
        me,
        other,
        "image",
        data,
        {"a": 1},
    )
    assert (in_group["chatType"], in_group["to_id"], in_group["data"]) == ("group", group_id, data)
    assert _client(instance, me).get(f"/api/chat/messages/{results[0]['id']}")[1]["data"]["status"] in (
        "stored",
        "delivered",
    )


def test_what_one_cannot_see_cannot_be_forwarded(instance: Instance) -> None:
    """Neither a stranger's message, nor a recalled one, nor a notice, nor one that never was."""
    me, friend = _friends(instance)
    stranger, late = add_users(instance, 2)
    group_id = make_group(instance, friend, [me])
    theirs = _send(instance, me, friend, "between us")
    early = _send(instance, friend, group_id, "before you came", "group")
    add_member(instance, group_id, late)
    recalled = _send(instance, me, friend, "to be recalled")
    recall = {"id": recalled, "chatType": "single", "to_id": friend}
    status, body = _client(instance, me).post("/api/chat/revokeMessage", recall)
    assert status == 200, body
    with open_socket(instance, friend, 2) as socket:
        assert _client(instance, stranger).post("/api/chat/applyfriend", {"friend_id": friend})[0] == 200
        told = socket.wait_for(lambda frame: f"redirect-applyFriend-{stranger}" in json.dumps(frame.data))
    notice = told.data["data"]["id"]

    for user_id, message_id in (
        (stranger, theirs),
        (late, early),
        (me, recalled),
        (friend, recalled),
        (friend, notice),
        (stranger, notice),
        (me, str(uuid.uuid4())),
    ):
        status, body = _forward(_client(instance, user_id), message_id, [("single", friend)])
        assert (status, body["code"]) == (404, "not_found")


def test_forwarding_checks_its_parameters(instance: Instance) -> None:
    """One to twenty targets, as an array or its JSON text; a visitor may not forward."""
    me, friend = _friends(instance)
    message_id = _send(instance, me, friend, "many times")
    client = _client(instance, me)
    good = {"chatType": "single", "sendto_id": friend}
    malformed: tuple[Any, ...] = (
        None,
        [],
        [good] * 21,
        "x",
        "[]",
        1,
        {},
        [1],
        [None],
        [{}],
        [{**good, "sendto_id": "x"}],
        [[]],
        [{**good, "chatType": "x"}],
    )
    for to in malformed:
        assert client.post("/api/chat/forward", {"id": message_id, "to": to})[0] == 422, to
    assert client.post("/api/chat/forward", {"to": [good]})[0] == 422
    assert client.post("/api/chat/forward", {"id": "\0", "to": [good]})[0] == 422
    status, body = client.post("/api/chat/forward", {"id": message_id, "to": json.dumps([good])})
    assert (status, body["data"]["results"][0]["ok"]) == (200, True)
    status, body = _forward(client, message_id, [("single", 2**40), ("group", 2**40)])
    assert status == 200
    assert [result["code"] for result in body["data"]["results"]] == ["recipient_unavailable", "group_unavailable"]
    visitor_token = start_session(instance, me, device="v", role="visitor")
    assert _forward(HttpClient(instance.base, visitor_token), message_id, [("single", friend)])[0] == 400


def test_forwards_count_as_sends(fresh_instance: InstanceFactory) -> None:
    """Each target is a send: what is beyond the limit is refused, and all of it with 429."""
    limited = fresh_instance(RATE_LIMIT_SENDS="5 per minute")
    me, friend = _friends(limited)
    message_id = _send(limited, friend, me, "five and no more")
    others = add_users(limited, 8)
    client = _client(limited, me)

    status, body = _forward(client, message_id, [("single", user_id) for user_id in others])

    assert status == 200, body
    results = body["data"]["results"]
    assert [result["ok"] for result in results] == [True] * 5 + [False] * 3
    assert {result["code"] for result in results[5:]} == {"rate_limited"}
    assert _forward(client, message_id, [("single", friend)])[0] == 429


def test_search_forward_and_reading_work_on_postgresql(fresh_instance: InstanceFactory, postgres_url: str) -> None:
    """Its integers are bounded, its LIKE looks at case, and its query for read markers returns what rose."""
    other = fresh_instance(DATABASE_URL=postgres_url)
    me, friend = _friends(other)
    group_id = make_group(other, me, [friend])
    first = _send(other, me, friend, "Postgres 100% 雁")
    second = _send(other, me, group_id, "postgres 100% again", "group")
    with open_socket(other, me, 2) as mine, open_socket(other, friend, 2) as theirs:
        mine.wait_for(lambda frame: frame.data.get("type") == "presence" and frame.data["user_id"] == friend)
        mine.send_json({"type": "typing", "chatType": "group", "to_id": group_id})
        theirs.wait_for(lambda frame: frame.data.get("type") == "typing")
        body = {"chatType": "single", "peer_id": me, "seq": 2_147_483_647}
        assert _client(other, friend).post("/api/chat/read", body)[0] == 200
        read = mine.wait_for(lambda frame: frame.data.get("type") == "receipt" and frame.data["state"] == "read")
        assert read.data["seq"] == 1

    page = _search(other, friend, "POSTGRES 100%")
    assert [message["id"] for message in page["messages"]] == [second, first]
    assert _texts(_search(other, friend, "雁", before=second)) == ["Postgres 100% 雁"]
    status, forwarded = _forward(_client(other, friend), first, [("single", me), ("group", 2**40)])
    assert status == 200
    assert [result["ok"] for result in forwarded["data"]["results"]] == [True, False]
    for path, status in (
        (f"history?chatType=group&peer_id={2**40}", 404),
        (f"history?chatType=single&peer_id={2**40}&before={2**40}", 404),
        (f"history?chatType=single&peer_id={me}&before={2**40}", 200),
    ):
        assert _client(other, friend).get(f"/api/chat/{path}")[0] == status
