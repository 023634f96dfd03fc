"""Sending over HTTP: forms of the request, its limits, repeats, verdicts that come later, groups, and odd bodies."""

from __future__ import annotations

import http.client
import json
import random
import socket as sockets
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from models.store import keys
from tests.conftest import InstanceFactory
from tests.support.acting import (
    add_friends,
    empty_inbox,
    has_acknowledged_all,
    live_place,
    open_socket,
    show_marker,
    start_session,
    stopped,
)
from tests.support.client import ChatSocket, HttpClient, message_text
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users, befriend

_PATH = "/api/chat/socket/sendmessage"
_UNKNOWN_USER = 999_999
_GROUP = 1
_MEMBERS = range(1, 20)  # of the group; 20 and 21 are members too, but other tests disable 20
_OUTSIDER = 23

_Answer = tuple[int, dict[str, Any]]


def _request(
    instance: Instance,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> _Answer:
    """Send exactly this. Every answer of the product is an envelope."""
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=20.0)
    with closing(connection):
        connection.request(method, path, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def _params(to: int, text: str = "x", **fields: Any) -> dict[str, Any]:
    return {"sendto_id": to, "chatType": "single", "type": "text", "data": {"data": text}, **fields}


def _post(instance: Instance, user_id: int, params: Mapping[str, Any], **headers: str) -> _Answer:
    token = {"token": instance.tokens[user_id], "Content-Type": "application/json"}
    return _request(instance, "POST", _PATH, json.dumps(params).encode(), token | headers)


def _state(instance: Instance, user_id: int, message_id: str) -> _Answer:
    return HttpClient(instance.base, instance.tokens[user_id]).get(f"/api/chat/messages/{message_id}")


def _check_failure(answer: _Answer, status: int, code: str, text: str | None = None) -> None:
    assert answer[0] == status, answer
    assert list(answer[1]) == ["msg", "data", "code"]
    assert (answer[1]["msg"], answer[1]["code"]) == ("fail", code)
    assert isinstance(answer[1]["data"], str)
    if text is not None:
        assert answer[1]["data"] == text


# Repeats


def test_a_repeat_gives_the_first_message(instance: Instance, friends: tuple[int, int]) -> None:
    """A send that is repeated with its clientMsgId is answered with the first Message, and is shown once."""
    sender_id, recipient_id = friends
    empty_inbox(instance, recipient_id)
    params = _params(recipient_id, "once", clientMsgId=uuid.uuid4().hex)

    answers = [_post(instance, sender_id, params) for _ in range(4)]

    assert answers == [answers[0]] * 4
    assert answers[0][0] == 200
    assert answers[0][1]["data"]["clientMsgId"] == params["clientMsgId"]
    with open_socket(instance, recipient_id) as socket:
        show_marker(instance, sender_id, recipient_id, socket)
        assert [message_text(message) for message in socket.messages][:-1] == ["once"]


def test_parallel_repeats_are_one_message(instance: Instance, friends: tuple[int, int]) -> None:
    """Repeats that race each other over both web processes are answered alike, and shown once."""
    sender_id, recipient_id = friends
    empty_inbox(instance, recipient_id)
    params = _params(recipient_id, "once", clientMsgId=uuid.uuid4().hex)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: _post(instance, sender_id, params), range(40)))

    assert answers == [answers[0]] * 40
    assert answers[0][0] == 200
    with open_socket(instance, recipient_id) as socket:
        show_marker(instance, sender_id, recipient_id, socket)
        assert len(socket.messages) == 2


def test_parallel_sends_have_one_order(instance: Instance) -> None:
    """Sends that race each other from both sides get each its own seq, and everybody is shown them in that order."""
    first_id, second_id = add_friends(instance)

    with open_socket(instance, first_id) as first, open_socket(instance, second_id, 2) as second:

        def send(number: int) -> int:
            sender_id, recipient_id = ((first_id, second_id), (second_id, first_id))[number % 2]
            status, answer = _post(instance, sender_id, _params(recipient_id, str(number)))
            assert status == 200
            return int(answer["data"]["seq"])

        with ThreadPoolExecutor(20) as pool:
            seqs = list(pool.map(send, range(60)))
        show_marker(instance, first_id, second_id, second)
        show_marker(instance, second_id, first_id, first)

        for socket, own_id in ((first, first_id), (second, second_id)):
            shown = [message["seq"] for message in socket.messages if message["from_id"] != own_id]
            assert shown == sorted(shown)
            assert len(set(shown)) == len(shown) == 31
    assert sorted(seqs) == [*range(1, 61)]


def test_a_repeat_gives_the_first_refusal(instance: Instance, friends: tuple[int, int]) -> None:
    """A refused send that is repeated is answered with the first refusal."""
    params = _params(_UNKNOWN_USER, clientMsgId=uuid.uuid4().hex)

    for _ in range(3):
        answer = _post(instance, friends[0], params)
        _check_failure(answer, 400, "recipient_unavailable", "对方不存在或者被禁用，不能发消息")


@pytest.mark.parametrize(
    "change", [{"data": {"data": "other"}}, {"type": "card"}, {"options": "%7B%7D"}, {"sendto_id": 999_998}]
)
def test_the_same_id_for_other_content_is_a_conflict(
    instance: Instance, friends: tuple[int, int], change: dict[str, Any]
) -> None:
    """A clientMsgId that is used again for anything else is refused with 409."""
    params = _params(friends[1], clientMsgId=uuid.uuid4().hex)
    assert _post(instance, friends[0], params)[0] == 200

    answer = _post(instance, friends[0], params | change)

    _check_failure(answer, 409, "idempotency_conflict", "相同的消息编号已用于其它内容")


def test_an_id_belongs_to_its_sender(instance: Instance, friends: tuple[int, int]) -> None:
    """Two users may use the same clientMsgId."""
    client_msg_id = uuid.uuid4().hex

    there = _post(instance, friends[0], _params(friends[1], clientMsgId=client_msg_id))
    back = _post(instance, friends[1], _params(friends[0], clientMsgId=client_msg_id))

    assert (there[0], back[0]) == (200, 200)
    assert there[1]["data"]["id"] != back[1]["data"]["id"]


@pytest.mark.parametrize("client_msg_id", ["x" * 65, "nul\0", {"a": "x" * 64}])
def test_an_invalid_id_is_not_dropped(instance: Instance, friends: tuple[int, int], client_msg_id: Any) -> None:
    """A clientMsgId that cannot be one is refused with 422: without it, a repeat would be a second message."""
    _check_failure(_post(instance, friends[0], _params(friends[1], clientMsgId=client_msg_id)), 422, "invalid")


# Verdicts that come later


def test_an_asynchronous_send_can_be_followed(instance: Instance, friends: tuple[int, int]) -> None:
    """`Prefer: respond-async` is answered with 202; the state goes from stored to delivered; others are told nothing."""
    sender_id, recipient_id = friends
    empty_inbox(instance, recipient_id)
    client = HttpClient(instance.base, instance.tokens[sender_id])

    status, body = client.send(recipient_id, "later", respond_async=True)

    assert status == 202
    assert body == {"msg": "ok", "data": {"id": body["data"]["id"], "status": "accepted"}}
    message_id = body["data"]["id"]
    assert _state(instance, sender_id, message_id)[1]["data"]["status"] in ("accepted", "stored")
    assert wait_until(lambda: _state(instance, sender_id, message_id)[1]["data"]["status"] == "stored", 5.0)
    stored = _state(instance, sender_id, message_id)[1]["data"]
    assert stored["id"] == message_id
    assert stored["seq"] >= 1
    assert {recipient["user_id"] for recipient in stored["recipients"]} == {recipient_id}
    assert {recipient["state"] for recipient in stored["recipients"]} == {"stored"}
    for other_id in (recipient_id, _OUTSIDER if _OUTSIDER not in friends else 25):
        _check_failure(_state(instance, other_id, message_id), 404, "not_found")

    with open_socket(instance, recipient_id, answer_pings=False) as socket:
        ping = socket.wait_for_ping()
        pushed = _state(instance, sender_id, message_id)[1]["data"]
        assert pushed["status"] == "stored"
        assert ("default", "pushed") in {(r["device"], r["state"]) for r in pushed["recipients"]}
        socket.pong(ping.payload)
        assert wait_until(lambda: _state(instance, sender_id, message_id)[1]["data"]["status"] == "delivered", 5.0)
    delivered = _state(instance, sender_id, message_id)[1]["data"]
    assert delivered["seq"] == stored["seq"]
    mine = next(recipient for recipient in delivered["recipients"] if recipient["device"] == "default")
    assert mine["state"] == "acknowledged"
    assert stored["recipients"][0]["at"] <= mine["at"] <= time.time() * 1000 + 1_000


def _wait_decided(instance: Instance, user_id: int, message_id: str) -> None:
    assert wait_until(lambda: _state(instance, user_id, message_id)[1]["data"]["status"] != "accepted", 5.0)


def test_an_asynchronous_repeat_gets_the_verdict(instance: Instance, friends: tuple[int, int]) -> None:
    """A repeat that does not wait gets what stands: the Message, the refusal, or 409 where its content is another."""
    sender_id, recipient_id = friends
    prefer = {"Prefer": "Respond-Async, wait=10"}
    params = _params(recipient_id, "later", clientMsgId=uuid.uuid4().hex)
    refused = _params(_UNKNOWN_USER, clientMsgId=uuid.uuid4().hex)

    for given in (params, refused):
        status, body = _post(instance, sender_id, given, **prefer)
        assert (status, body["data"]["status"]) == (202, "accepted")
        _wait_decided(instance, sender_id, body["data"]["id"])

    status, body = _post(instance, sender_id, params, **prefer)
    assert (status, body) == _post(instance, sender_id, params)
    assert (status, body["data"]["clientMsgId"]) == (200, params["clientMsgId"])
    _check_failure(_post(instance, sender_id, refused, **prefer), 400, "recipient_unavailable")
    other = params | {"data": {"data": "other"}}
    _check_failure(_post(instance, sender_id, other, **prefer), 409, "idempotency_conflict")


def test_without_waiting_a_repeat_gets_the_verdict(fresh_instance: InstanceFactory) -> None:
    """With SEND_WAIT_SECONDS=0 sends and recalls are answered with 202, and repeats with the verdict once there is one."""
    hasty = fresh_instance(SEND_WAIT_SECONDS="0")
    hasty.seed(2, 1)
    params = _params(2, clientMsgId=uuid.uuid4().hex)

    status, body = _post(hasty, 1, params)
    assert (status, body["data"]["status"]) == (202, "accepted")
    _wait_decided(hasty, 1, body["data"]["id"])

    status, repeat = _post(hasty, 1, params)
    assert (status, repeat["data"]["id"]) == (200, body["data"]["id"])

    # A recall is repeated without a clientMsgId: it is known by what it recalls.
    client = HttpClient(hasty.base, hasty.tokens[1])
    target = {"id": body["data"]["id"], "to_id": 2, "chatType": "single", "create_time": repeat["data"]["create_time"]}
    recall = target | {"to_name": "x", "to_avatar": "/static/media/user.jpg"}
    assert client.post("/api/chat/revokeMessage", recall)[0] == 202
    assert wait_until(lambda: client.post("/api/chat/revokeMessage", recall)[0] == 200, 5.0)


def test_the_state_of_a_refused_send_has_its_code(instance: Instance, friends: tuple[int, int]) -> None:
    """An accepted send that was refused is known as refused, with its code and without recipients."""
    client = HttpClient(instance.base, instance.tokens[friends[0]])
    message_id = client.send(_UNKNOWN_USER, "x", respond_async=True)[1]["data"]["id"]

    assert wait_until(lambda: _state(instance, friends[0], message_id)[1]["data"]["status"] == "refused", 5.0)

    assert _state(instance, friends[0], message_id)[1]["data"] == {
        "id": message_id,
        "status": "refused",
        "code": "recipient_unavailable",
        "recipients": [],
    }


@pytest.mark.parametrize("message_id", ["x", str(uuid.UUID(int=1)), "%00", "%ED%A0%80", "a" * 500, "%27", "*"])
def test_the_state_of_nothing_is_not_found(instance: Instance, friends: tuple[int, int], message_id: str) -> None:
    """An id that names none of the caller's messages is answered with 404, whatever it looks like."""
    _check_failure(_state(instance, friends[0], message_id), 404, "not_found")


def test_nothing_is_accepted_that_redis_has_not_confirmed(fresh_instance: InstanceFactory) -> None:
    """While Redis takes no writes, no send is answered; the answer comes when the request is durable."""
    # Counting a send against its rate is a write too, and would stand in the way of what is looked at.
    instance = fresh_instance(RATE_LIMIT_SENDS="off")
    sender_id, recipient_id = add_users(instance, 2)
    befriend(instance, sender_id, recipient_id)
    client = HttpClient(instance.base, instance.tokens[sender_id])
    client.send(recipient_id, "warms the session up", respond_async=True)

    with ThreadPoolExecutor(1) as pool, instance.redis() as redis:
        redis.client_pause(10_000, all=False)  # reads go on: the session is checked, the request cannot be written
        try:
            pending = pool.submit(client.send, recipient_id, uuid.uuid4().hex, respond_async=True)
            with pytest.raises(TimeoutError):
                pending.result(1.5)
        finally:
            redis.client_unpause()
        status, _ = pending.result(10.0)

    assert status == 202


def test_a_late_verdict_is_promised_and_kept(instance: Instance, friends: tuple[int, int]) -> None:
    """While no worker works, sends are answered with 202 after 5 s; afterwards each gets its verdict, and nothing is lost."""
    sender_id, recipient_id = friends
    empty_inbox(instance, recipient_id)
    client = HttpClient(instance.base, instance.tokens[sender_id])
    client_msg_id = uuid.uuid4().hex

    with open_socket(instance, recipient_id) as socket, open_socket(instance, sender_id, 2) as own:
        with stopped(instance.wait_processes("worker", 2)):
            ids = [client.send(recipient_id, str(number), respond_async=True)[1]["data"]["id"] for number in range(20)]
            began = time.monotonic()
            status, body = client.send(recipient_id, "waited for", client_msg_id=client_msg_id)
            seconds = time.monotonic() - began
            assert status == 202
            assert body["data"]["status"] == "accepted"
            assert 4.9 < seconds < 9.0
            ids.append(body["data"]["id"])
            repeat = client.send(recipient_id, "waited for", client_msg_id=client_msg_id, respond_async=True)
            assert repeat == (202, body)
            refused = client.send(_UNKNOWN_USER, "x", respond_async=True)[1]["data"]["id"]
            for message_id in (*ids, refused):
                assert _state(instance, sender_id, message_id)[1]["data"]["status"] == "accepted"
            _check_failure(_state(instance, recipient_id, ids[0]), 404, "not_found")
            assert socket.messages == []

        socket.wait_for_text("waited for", timeout=15.0)
        own.wait_for(lambda frame: frame.data.get("id") == refused and not frame.data["ok"])
        own.wait_for(lambda frame: frame.data.get("id") == ids[-1] and frame.data["ok"])
        show_marker(instance, sender_id, recipient_id, socket)

        assert [message["id"] for message in socket.messages][:-1] == ids
    assert client.send(recipient_id, "waited for", client_msg_id=client_msg_id)[1]["data"]["id"] == ids[-1]


def test_other_content_is_a_conflict_before_the_verdict(instance: Instance, friends: tuple[int, int]) -> None:
    """Who does not wait is told so too while the first send is undecided; a true repeat gets its state."""
    sender_id, recipient_id = friends
    prefer = {"Prefer": "respond-async"}
    params = _params(recipient_id, "first", clientMsgId=uuid.uuid4().hex)

    with stopped(instance.wait_processes("worker", 2)):
        first = _post(instance, sender_id, params, **prefer)
        repeat = _post(instance, sender_id, params, **prefer)
        others = [
            _post(instance, sender_id, params | change, **prefer)
            for change in ({"data": {"data": "other"}}, {"sendto_id": _UNKNOWN_USER})
        ]

    assert first[0] == 202
    assert repeat == first
    for other in others:
        _check_failure(other, 409, "idempotency_conflict")
    _wait_decided(instance, sender_id, first[1]["data"]["id"])
    assert message_text(_post(instance, sender_id, params)[1]["data"]) == "first"


# Forms of the request


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("respond-async", 202),
        ("return=minimal, Respond-Async; wait=10", 202),
        ("no-respond-async", 200),
        ("wait=10", 200),
        ('note="respond-async"', 200),
    ],
)
def test_the_preference_is_read_as_a_list(
    instance: Instance, friends: tuple[int, int], header: str, status: int
) -> None:
    """Only the preference of that name makes a send answer before its verdict (RFC 7240)."""
    sender_id, recipient_id = friends

    assert _post(instance, sender_id, _params(recipient_id, "preferred"), Prefer=header)[0] == status


def test_whose_session_has_ended_sends_nothing(instance: Instance) -> None:
    """Waiting for the verdict or not, with good parameters or bad: he is told that his token is none any more (G8)."""
    sender_id, recipient_id = add_users(instance, 2)
    befriend(instance, sender_id, recipient_id)
    client = HttpClient(instance.base, instance.tokens[sender_id])
    assert client.send(recipient_id, "before")[0] == 200
    assert client.post("/api/chat/logout")[0] == 200

    for params in (_params(recipient_id), _params(recipient_id, clientMsgId="late"), _params(recipient_id, type="?")):
        for headers in ({}, {"Prefer": "respond-async"}):
            _check_failure(_post(instance, sender_id, params, **headers), 400, "token_invalid")

    assert _texts(instance, recipient_id, sender_id) == ["before"]


def test_a_session_that_redis_has_lost_sends_at_once(instance: Instance) -> None:
    """The copy is put back from SQL, and the send that met its absence is accepted, once."""
    sender_id, recipient_id = add_users(instance, 2)
    befriend(instance, sender_id, recipient_id)
    with instance.redis() as redis:
        for text in ("first", "second"):
            assert redis.delete(keys.sessions(sender_id)) == 1
            assert HttpClient(instance.base, instance.tokens[sender_id]).send(recipient_id, text)[0] == 200

    assert _texts(instance, recipient_id, sender_id) == ["first", "second"]


def _texts(instance: Instance, user_id: int, peer_id: int) -> list[str]:
    """Return the texts of the user's conversation with a peer, oldest first."""
    client = HttpClient(instance.base, instance.tokens[user_id])
    status, body = client.get(f"/api/chat/history?chatType=single&peer_id={peer_id}")
    assert status == 200, body
    return [message_text(message) for message in body["data"]["messages"]]


@pytest.mark.parametrize("place", ["token header", "bearer", "query", "JSON body", "form body"])
@pytest.mark.parametrize("form", [False, True], ids=["JSON", "form"])
def test_the_token_may_stand_in_several_places(
    instance: Instance, friends: tuple[int, int], place: str, form: bool
) -> None:
    """The token is found in the header `token`, as a bearer, in the query or in the body, of JSON and form requests."""
    token = instance.tokens[friends[0]]
    params, path, headers = _params(friends[1], place), _PATH, {}
    if place == "token header":
        headers["token"] = token
    elif place == "bearer":
        headers["Authorization"] = f"Bearer {token}"
    elif place == "query":
        path += f"?token={token}"
    else:
        params["token"] = token
    if form:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = urlencode(params | {"data": json.dumps(params["data"])}).encode()
    else:
        headers["Content-Type"] = "application/json"
        body = json.dumps(params).encode()

    status, answer = _request(instance, "POST", path, body, headers)

    assert status == 200, answer
    assert answer["data"]["from_id"] == friends[0]
    assert message_text(answer["data"]) == place


def test_parameters_may_stand_in_the_query_and_in_parts(instance: Instance, friends: tuple[int, int]) -> None:
    """Parameters are looked up in query and body together, and a body may be multipart."""
    path = f"{_PATH}?{urlencode({'sendto_id': friends[1], 'chatType': 'single'})}"
    body = b"".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (("type", "text"), ("data", '{"data":"鸿雁"}'))
    )
    headers = {"token": instance.tokens[friends[0]], "Content-Type": "multipart/form-data; boundary=b"}

    status, answer = _request(instance, "POST", path, body + b"--b--\r\n", headers)

    assert (status, answer["data"]["data"]) == (200, '{"data":"鸿雁"}')


@pytest.fixture(scope="module")
def strange_friends(instance: Instance) -> tuple[int, int]:
    """Friends whose messages need not be such as clients can show."""
    return add_friends(instance)


@pytest.mark.parametrize("data", [{"data": "你好", "dataType": False, "otherData": None}, [1, 2], 17, True, 1.5])
def test_data_that_is_no_text_becomes_its_json(instance: Instance, strange_friends: tuple[int, int], data: Any) -> None:
    """An object given as `data` is kept as its JSON text, as ORIG's validator does."""
    status, answer = _post(instance, strange_friends[0], _params(strange_friends[1]) | {"data": data})

    assert status == 200
    assert isinstance(answer["data"]["data"], str)
    assert json.loads(answer["data"]["data"]) == data


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, None),
        ("", None),
        (quote(json.dumps({"a": "你", "b": [1, None]})), {"a": "你", "b": [1, None]}),
        ('{"a":1}', {"a": 1}),
        ({"a": {"b": 1}}, {"a": {"b": 1}}),
        ("%7B%7D", {}),
        ("%7B", None),
        ("%E4%BD", None),
        ("not json", None),
        ("[" * 300 + "]" * 300, None),
        (quote('"a%22'), None),
    ],
)
def test_options_are_decoded_as_the_seed_does(
    instance: Instance, friends: tuple[int, int], options: Any, expected: Any
) -> None:
    """Options are percent-decoded JSON; what cannot be decoded is null, and disturbs nobody."""
    for _ in range(4):  # over either web process
        status, answer = _post(instance, friends[0], _params(friends[1]) | {"options": options})

        assert status == 200, answer
        assert answer["data"]["options"] == expected


@pytest.mark.parametrize(
    ("fields", "is_taken"),
    [
        ({"data": "x" * 16_384}, True),
        ({"data": "x" * 16_385}, False),
        ({"data": "字" * 5_461}, True),  # 16,383 bytes
        ({"data": "字" * 5_462}, False),
        ({"options": json.dumps("y" * 8_190)}, True),
        ({"options": json.dumps("y" * 8_191)}, False),
        ({"options": quote(json.dumps("字" * 2_700, ensure_ascii=False))}, True),  # 8,102 bytes, encoded 24,306
        ({"options": quote(json.dumps("字" * 2_800, ensure_ascii=False))}, False),
    ],
)
def test_sizes_are_measured_in_decoded_bytes(
    instance: Instance, strange_friends: tuple[int, int], fields: dict[str, Any], is_taken: bool
) -> None:
    """`data` holds at most 16,384 UTF-8 bytes, `options` half of that after decoding; more is 413."""
    answer = _post(instance, strange_friends[0], _params(strange_friends[1]) | fields)

    if is_taken:
        assert answer[0] == 200, answer
    else:
        _check_failure(answer, 413, "message_too_large")


def test_a_body_that_is_too_large_is_refused(instance: Instance, friends: tuple[int, int]) -> None:
    """A request body above the limit is answered with 413, as JSON and as a form."""
    token = {"token": instance.tokens[friends[0]]}
    text = "x" * 262_145

    for content_type, body in (
        ("application/json", json.dumps(_params(friends[1], text))),
        ("application/x-www-form-urlencoded", urlencode(_params(friends[1], text))),
    ):
        answer = _request(instance, "POST", _PATH, body.encode(), token | {"Content-Type": content_type})
        _check_failure(answer, 413, "too_large")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"sendto_id": None}, "接收人/群的id值不能为空"),
        ({"sendto_id": "x"}, "接收人/群的id值 的值 `x` 的类型不是 `int`"),
        ({"sendto_id": 0}, "接收人/群的id值 的数值 必须 在 1 和 10000000000000000 之间"),
        ({"chatType": "both"}, "接收类型 的值 `both` 必须在 [`single`、`group`] 中"),
        ({"type": ""}, "消息类型不能为空"),
        ({"data": ""}, "消息内容不能为空"),
        ({"data": "a\0b"}, None),
        ({"type": "systemNotice"}, None),
        ({"type": "revoke"}, None),
        ({"type": "pdf"}, None),
    ],
)
def test_invalid_parameters_are_told(
    instance: Instance, strange_friends: tuple[int, int], fields: dict[str, Any], text: str | None
) -> None:
    """The first fault is told with 422 and ORIG's text; types that only the server may use are faults too."""
    _check_failure(_post(instance, strange_friends[0], _params(strange_friends[1]) | fields), 422, "invalid", text)


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'"x"', b"1", b"null", b"\xff", b'{"data":"\\ud800"}', b"{}{}", b"[" * 100_000, b'{"a":' * 50_000],
)
def test_malformed_json_is_invalid(instance: Instance, friends: tuple[int, int], body: bytes) -> None:
    """A body that is no JSON object is answered with 422, also where the token has to be looked for in it."""
    content = {"Content-Type": "application/json"}

    answer = _request(instance, "POST", _PATH, body, content | {"token": instance.tokens[friends[0]]})
    _check_failure(answer, 422, "invalid")
    _check_failure(_request(instance, "POST", _PATH, body, content), 400, "token_missing", "您没有权限访问即时通讯接口")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/api/chat/nowhere", 404, "not_found"),
        ("GET", "/%00", 404, "not_found"),
        ("GET", _PATH, 405, "method_not_allowed"),
        ("DELETE", _PATH, 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("POST", "/api/chat/messages/x", 405, "method_not_allowed"),
    ],
)
def test_unknown_routes_and_methods(instance: Instance, method: str, path: str, status: int, code: str) -> None:
    """What no route answers is 404 with ORIG's text, a method that a route does not know 405, in the envelope."""
    answer = _request(instance, method, path)

    _check_failure(answer, status, code, "404 错误" if status == 404 else None)


def test_english_is_spoken_where_asked_for(instance: Instance, friends: tuple[int, int]) -> None:
    """`Accept-Language: en` gives English texts, of refusals too; the code stays."""
    english = {"Accept-Language": "en"}

    refused = _post(instance, friends[0], _params(_UNKNOWN_USER), **english)

    _check_failure(refused, 400, "recipient_unavailable", "The recipient does not exist or is disabled")
    _check_failure(_request(instance, "GET", "/nowhere", headers=english), 404, "not_found", "Not found")


_ODD_CONTENT_TYPES = [
    "multipart/form-data",
    "multipart/form-data; boundary=",
    "multipart/form-data; boundary=b",
    "text/plain",
    "",
    "application/json; charset=x",
    "application/x-www-form-urlencoded; charset=utf-16",
]


def _odd_value(chance: random.Random) -> Any:
    deep: Any = "x"
    for _ in range(chance.choice([1, 10, 260, 900])):
        deep = [deep] if chance.random() < 0.5 else {"a": deep}
    odd: list[Any] = [
        None,
        True,
        False,
        0,
        -1,
        1.5,
        1e300,
        10**30,
        "",
        " ",
        "\0",
        "\u202e",
        "single",
        "text",
        "%",
        "%00",
        "%zz",
    ]
    odd += ["9" * 400, "-0", "+1", "１２", "{}", "[", "\\", "'", '"', "鸿" * 100, [], {}, [None], {"a": "\0"}, deep]
    return chance.choice(odd)


def _odd_body(chance: random.Random, recipient_id: int) -> tuple[bytes, dict[str, str]]:
    params = _params(recipient_id, "fuzz")
    for name in chance.sample([*sorted(params), "options", "clientMsgId", "token", "extra"], chance.randint(1, 4)):
        params[name] = _odd_value(chance)
    headers = {"Content-Type": "application/json"}
    kind = chance.randrange(6)
    if kind == 0:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return urlencode({name: str(value) for name, value in params.items()}, errors="replace").encode(), headers
    if kind == 1:
        body = bytearray(json.dumps(params).encode())
        for _ in range(chance.randint(1, 5)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        return bytes(body), headers
    if kind == 2:
        headers["Content-Type"] = chance.choice(_ODD_CONTENT_TYPES)
        return chance.randbytes(chance.randrange(200)), headers
    return json.dumps(params).encode(), headers


def _count_errors(instance: Instance) -> int:
    log = (instance.log_dir / "web.log").read_text(errors="replace")
    return log.count("Traceback") + log.count('"level": "error"')


def test_no_input_is_an_error_of_ours(instance: Instance, strange_friends: tuple[int, int]) -> None:
    """Whatever comes in a send's body is answered in the envelope, and never as our own failure."""
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    print(f"seed {seed}")
    errors_before = _count_errors(instance)

    for _ in range(200):
        body, headers = _odd_body(chance, strange_friends[1])
        if chance.random() < 0.9:
            headers["token"] = instance.tokens[strange_friends[0]]
        path = chance.choice([_PATH, _PATH, "/api/chat/revokeMessage", "/api/chat/chatGetmessageOffLine"])
        status, answer = _request(instance, "POST", path, body, headers)
        if status == 429:  # a fast machine gets more than 100 a second through
            time.sleep(1.0)
            status, answer = _request(instance, "POST", path, body, headers)

        assert status in (200, 400, 409, 413, 422), (seed, body, status, answer)
        assert answer["msg"] == ("ok" if status == 200 else "fail")
        assert answer.get("code") not in ("internal_error", "unavailable", "outcome_unknown"), (seed, body, answer)
    client = HttpClient(instance.base, instance.tokens[strange_friends[0]])
    assert client.send(strange_friends[1], "still there")[0] == 200
    assert _count_errors(instance) == errors_before


@pytest.mark.parametrize(
    "raw",
    [
        b"POST /api/chat/socket/sendmessage HTTP/1.1\r\nHost: x\r\ntoken: \xff\xfe\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /api/chat/socket/sendmessage?token=%ff%00 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"POST /api/chat/socket/sendmessage HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"POST /api/chat/socket/sendmessage HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /ws?token=\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
    ],
)
def test_no_bytes_are_an_error_of_ours(instance: Instance, raw: bytes) -> None:
    """What is hardly HTTP is answered with a 4xx or not at all."""
    with sockets.create_connection(("127.0.0.1", instance.port), timeout=10.0) as connection:
        connection.sendall(raw)
        connection.shutdown(sockets.SHUT_WR)
        answer = connection.recv(65_536)

    assert not answer or answer.startswith(b"HTTP/1.1 4"), answer
    assert b"internal_error" not in answer


# Groups


def test_a_group_message_reaches_every_other_member_once(instance: Instance) -> None:
    """Each other member gets the message once, with the slim group summary; the sender gets no frame, only the answer."""
    sender_id = 1
    client = HttpClient(instance.base, instance.tokens[sender_id])
    text, last = uuid.uuid4().hex, uuid.uuid4().hex
    with ExitStack() as stack:
        sockets_of = {
            user_id: stack.enter_context(open_socket(instance, user_id, 1 + user_id % 2))
            for user_id in (*_MEMBERS, _OUTSIDER)
            if user_id != sender_id
        }
        own = stack.enter_context(open_socket(instance, sender_id))

        status, body = client.send(_GROUP, text, "group")
        assert status == 200
        assert client.send(_GROUP, last, "group")[0] == 200

        members = [user_id for user_id in sockets_of if user_id != _OUTSIDER]
        for user_id in members:
            sockets_of[user_id].wait_for_text(last)
        shown = {user_id: [m for m in s.messages if message_text(m) == text] for user_id, s in sockets_of.items()}
        assert [len(shown[user_id]) for user_id in members] == [1] * len(members)
        assert shown[_OUTSIDER] == []
        assert [m for m in own.messages if m["from_id"] == sender_id] == []

    message = body["data"]
    assert all(shown[user_id] == [message] for user_id in members)
    assert (message["chatType"], message["from_id"], message["to_id"]) == ("group", sender_id, _GROUP)
    assert set(message["group"]) == {
        "id",
        "uuid",
        "user_id",
        "name",
        "avatar",
        "remark",
        "invite_confirm",
        "member_count",
    }
    assert (message["group"]["id"], message["group"]["user_id"], message["group"]["member_count"]) == (_GROUP, 1, 21)


def test_an_outsider_cannot_write_to_a_group(instance: Instance, friends: tuple[int, int]) -> None:
    """Who is no member is refused with ORIG's text; a group that does not exist with another."""
    outsider = HttpClient(instance.base, instance.tokens[friends[0]])

    _check_failure(outsider.send(_GROUP, "x", "group"), 400, "not_member", "您不在群里，无法发消息")
    _check_failure(
        outsider.send(999, "x", "group"), 400, "group_unavailable", "群不存在或者已解散或者被封禁，无法发消息"
    )


def test_a_conversation_counts_its_messages(instance: Instance) -> None:
    """`seq` counts the messages of both sides from 1 without gaps, refusals and repeats take none."""
    first_id, second_id = add_friends(instance)
    seqs = []

    for number in range(6):
        sender_id, recipient_id = ((first_id, second_id), (second_id, first_id))[number % 2]
        params = _params(recipient_id, str(number), clientMsgId=uuid.uuid4().hex)
        status, answer = _post(instance, sender_id, params)
        assert status == 200
        seqs.append(answer["data"]["seq"])
        assert _post(instance, sender_id, params)[1]["data"]["seq"] == seqs[-1]
        assert _post(instance, sender_id, params | {"data": {"data": "conflict"}})[0] == 409
        assert _post(instance, sender_id, _params(_UNKNOWN_USER))[0] == 400

    assert seqs == [1, 2, 3, 4, 5, 6]


# The legacy client's fetch


@pytest.mark.parametrize("answer_pings", [True, False], ids=["acknowledged", "unacknowledged"])
def test_the_offline_fetch_doubles_nothing(instance: Instance, friends: tuple[int, int], answer_pings: bool) -> None:
    """`chatGetmessageOffLine` answers ok with and without a connection, however often, and shows nothing twice."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    reader, sender = (HttpClient(instance.base, instance.tokens[user_id]) for user_id in friends)
    for number in range(5):
        assert sender.send(reader_id, str(number))[0] == 200
    assert reader.post("/api/chat/chatGetmessageOffLine") == (200, {"msg": "ok", "data": "ok"})

    with open_socket(instance, reader_id, answer_pings=answer_pings) as socket:
        for _ in range(5):
            assert reader.post("/api/chat/chatGetmessageOffLine") == (200, {"msg": "ok", "data": "ok"})
            show_marker(instance, sender_id, reader_id, socket)
        ids = [message["id"] for message in socket.messages]

    assert len(ids) == len(set(ids)) == 10


def test_the_offline_fetch_wakes_a_connection(instance: Instance, friends: tuple[int, int]) -> None:
    """What a connection was never told of is written when its user asks for it."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    with open_socket(instance, reader_id) as socket:
        show_marker(instance, sender_id, reader_id, socket)
        place = live_place(instance, reader_id)
        with instance.redis() as client:
            client.hdel(f"online_{{{reader_id}}}", "default")  # so that the drain tells nobody
            assert HttpClient(instance.base, instance.tokens[sender_id]).send(reader_id, "silent")[0] == 200
            client.hset(f"online_{{{reader_id}}}", "default", place)

        HttpClient(instance.base, instance.tokens[reader_id]).post("/api/chat/chatGetmessageOffLine")

        socket.wait_for_text("silent")
        assert wait_until(lambda: has_acknowledged_all(instance, reader_id), 5.0)


def test_another_device_asks_for_itself(instance: Instance, friends: tuple[int, int]) -> None:
    """A device that logs in later starts with what comes from then on."""
    reader_id, sender_id = friends
    empty_inbox(instance, reader_id)
    assert HttpClient(instance.base, instance.tokens[sender_id]).send(reader_id, "before")[0] == 200
    token = start_session(instance, reader_id, f"new {uuid.uuid4().hex}")

    with ChatSocket(instance.base, token) as socket:
        socket.wait_for(lambda frame: frame.data.get("type") == "system")
        HttpClient(instance.base, token).post("/api/chat/chatGetmessageOffLine")
        show_marker(instance, sender_id, reader_id, socket)

        assert len(socket.messages) == 1
