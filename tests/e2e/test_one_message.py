"""One message, through every real process: accepted over HTTP, decided by a Celery task, shown on the other's socket."""

from __future__ import annotations

import base64
import json
import sqlite3
import time
import urllib.error
import urllib.request
import uuid
from contextlib import closing
from typing import Any

import pytest

from tests.conftest import InstanceFactory
from tests.support.client import ChatSocket, HttpClient, message_text
from tests.support.instance import Instance, wait_until

_UNKNOWN_USER = 999_999
# Alone in being in no pair that `friends` hands out; 21 is the last member of the group, and 22's friend.
_SENDER_OF_22 = 21
_DISABLED_USER = 22

# What both sides see alike: names and avatars are personalised (contract section 4).
_SHARED_FIELDS = (
    "id", "from_id", "to_id", "chatType", "type", "data", "options", "create_time", "isremove", "seq", "sendUUid"
)  # fmt: skip


def _open(instance: Instance, user_id: int) -> ChatSocket:
    """Connect, and wait until the user's connection is known to all processes."""
    socket = ChatSocket(instance.base, instance.tokens[user_id])
    socket.wait_for(lambda frame: frame.data.get("type") == "system")
    assert wait_until(lambda: bool(instance.holders(user_id)), 5.0), f"online_{{{user_id}}} stays empty"
    return socket


def _close(instance: Instance, user_id: int, socket: ChatSocket) -> None:
    socket.close()
    assert wait_until(lambda: not instance.holders(user_id), 5.0), f"online_{{{user_id}}} still names a closed socket"


def _open_on_two_processes(instance: Instance, first_id: int, second_id: int) -> tuple[ChatSocket, ChatSocket]:
    """Connect both, and again whoever is on the other's process. Chance decides who accepts a connection."""
    sockets = {user_id: _open(instance, user_id) for user_id in (first_id, second_id)}
    for attempt in range(200):
        if instance.holders(first_id).isdisjoint(instance.holders(second_id)):
            return sockets[first_id], sockets[second_id]
        moving_id = (first_id, second_id)[attempt % 2]
        _close(instance, moving_id, sockets[moving_id])
        sockets[moving_id] = _open(instance, moving_id)
    pytest.fail("200 connections were all accepted by one web process")


def _disable(instance: Instance, user_id: int) -> None:
    """Set the status as an administrator would, in the database: the way there is before anything else exists."""
    with closing(sqlite3.connect(instance.data_dir / "hongyan.db", timeout=10.0)) as database:
        database.execute('UPDATE "user" SET status = 0 WHERE id = ?', (user_id,))
        database.commit()


def test_the_first_frame_is_the_welcome(instance: Instance, friends: tuple[int, int]) -> None:
    """The first frame on a socket is ORIG's welcome."""
    before_ms = int(time.time() * 1000)

    with _open(instance, friends[0]) as socket:
        welcome = socket.frames[0].data

    assert list(welcome) == ["type", "data", "timestamp"]
    assert welcome["type"] == "system"
    assert welcome["data"] == "欢迎您访问我们的系统！"
    assert before_ms - 1_000 <= welcome["timestamp"] <= time.time() * 1000 + 1_000


def test_friends_on_two_processes_write_to_each_other(instance: Instance, friends: tuple[int, int]) -> None:
    """Two users on different web processes exchange messages both ways, and both sides see the same message."""
    first_id, second_id = friends
    first_socket, second_socket = _open_on_two_processes(instance, first_id, second_id)
    seqs = []

    with first_socket, second_socket:
        for sender_id, recipient_id, reader in (
            (first_id, second_id, second_socket),
            (second_id, first_id, first_socket),
        ):
            text = f"你好 {uuid.uuid4().hex}"
            before_ms = int(time.time() * 1000)

            status, body = HttpClient(instance.base, instance.tokens[sender_id]).send(recipient_id, text)
            frame = reader.wait_for_text(text).data

            assert (status, body["msg"]) == (200, "ok")
            message = body["data"]
            uuid.UUID(message["sendUUid"])
            assert message_text(message) == text
            assert (
                message
                | {
                    "from_id": sender_id,
                    "to_id": recipient_id,
                    "chatType": "single",
                    "type": "text",
                    "data": json.dumps({"data": text, "dataType": False, "otherData": None}, ensure_ascii=False),
                    "options": {},
                    "isremove": 0,
                }
                == message
            )
            assert before_ms - 1_000 <= message["create_time"] <= time.time() * 1000 + 1_000
            for name in ("id", "from_name", "from_avatar", "to_name", "to_avatar"):
                assert isinstance(message[name], str), name
            seqs.append(message["seq"])

            assert set(frame) == {"type", "data", "timestamp"}
            assert frame["type"] == "singleChat"
            assert isinstance(frame["timestamp"], int)
            assert {name: frame["data"][name] for name in _SHARED_FIELDS} == {
                name: message[name] for name in _SHARED_FIELDS
            }

    assert seqs == [seqs[0], seqs[0] + 1]


def test_a_protocol_1_sender_gets_no_frame(instance: Instance, friends: tuple[int, int]) -> None:
    """A protocol-1 device is never sent its own message: what it sees next is the other's answer."""
    sender_id, recipient_id = friends
    with _open(instance, sender_id) as socket:
        HttpClient(instance.base, instance.tokens[sender_id]).send(recipient_id, "mine")
        answer = uuid.uuid4().hex

        HttpClient(instance.base, instance.tokens[recipient_id]).send(sender_id, answer)
        socket.wait_for_text(answer)

        # What other tests have left for this user may come too, but nothing he sent himself.
        assert sender_id not in [message["from_id"] for message in socket.messages]


@pytest.mark.parametrize("state", ["unknown", "disabled"])
def test_an_unavailable_recipient_is_refused(instance: Instance, state: str) -> None:
    """A send to somebody who does not exist or was disabled is refused with ORIG's text and a code."""
    recipient_id = _UNKNOWN_USER if state == "unknown" else _DISABLED_USER
    if state == "disabled":
        _disable(instance, recipient_id)

    status, body = HttpClient(instance.base, instance.tokens[_SENDER_OF_22]).send(recipient_id, "hello")

    assert status == 400
    assert body == {
        "msg": "fail",
        "data": "对方不存在或者被禁用，不能发消息",
        "code": "recipient_unavailable",
    }


def test_a_send_without_a_token_is_refused(instance: Instance, friends: tuple[int, int]) -> None:
    """A send without a token is refused with ORIG's text."""
    status, body = HttpClient(instance.base, None).send(friends[1], "hello")

    assert status == 400
    assert (body["msg"], body["data"]) == ("fail", "您没有权限访问即时通讯接口")
    assert isinstance(body["code"], str)


def test_a_send_without_a_recipient_is_invalid(instance: Instance, friends: tuple[int, int]) -> None:
    """A send that names no recipient is answered with 422 and ORIG's text."""
    client = HttpClient(instance.base, instance.tokens[friends[0]])

    status, body = client.post("/api/chat/socket/sendmessage", {"chatType": "single", "type": "text", "data": "x"})

    assert status == 422
    assert (body["msg"], body["data"]) == ("fail", "接收人/群的id值不能为空")
    assert isinstance(body["code"], str)


def test_an_offline_recipient_gets_everything_in_order(instance: Instance, friends: tuple[int, int]) -> None:
    """What was sent to somebody without a connection is shown once, in order, when he connects."""
    sender_id, recipient_id = friends
    sender = HttpClient(instance.base, instance.tokens[sender_id])
    run = uuid.uuid4().hex
    texts = [f"{run} {number}" for number in range(10)]
    assert not instance.holders(recipient_id)
    answers = [sender.send(recipient_id, text) for text in texts]
    assert [status for status, _ in answers] == [200] * 10

    with _open(instance, recipient_id) as socket:
        HttpClient(instance.base, instance.tokens[recipient_id]).post("/api/chat/chatGetmessageOffLine")
        socket.wait_for_text(texts[-1])
        live = f"{run} live"
        sender.send(recipient_id, live)
        socket.wait_for_text(live)
        seen = [message for message in socket.messages if message_text(message).startswith(run)]

    assert [message_text(message) for message in seen] == [*texts, live]
    assert [message["id"] for message in seen[:-1]] == [body["data"]["id"] for _, body in answers]


@pytest.mark.parametrize("reads", [True, False], ids=["reads but answers no ping", "reads nothing"])
def test_what_was_not_acknowledged_is_shown_again(instance: Instance, friends: tuple[int, int], reads: bool) -> None:
    """What was written to a connection that never answered its ping is shown on the next one, with the same id."""
    sender_id, recipient_id = friends
    text = uuid.uuid4().hex
    deaf = ChatSocket(instance.base, instance.tokens[recipient_id], answer_pings=False, read=reads)
    assert wait_until(lambda: bool(instance.holders(recipient_id)), 5.0)

    status, body = HttpClient(instance.base, instance.tokens[sender_id]).send(recipient_id, text)
    assert status == 200
    if reads:
        deaf.wait_for_text(text)
        deaf.wait_for_ping()
    deaf.drop(abruptly=True)

    assert wait_until(lambda: not instance.holders(recipient_id), 5.0)
    with _open(instance, recipient_id) as socket:
        assert socket.wait_for_text(text).data["data"]["id"] == body["data"]["id"]


def test_a_message_goes_the_same_way_with_rabbitmq(fresh_instance: InstanceFactory, rabbitmq_url: str) -> None:
    """With RabbitMQ as Celery's broker a message is accepted, decided and shown as with Redis."""
    instance = fresh_instance(CELERY_BROKER_URL=rabbitmq_url)
    instance.seed(2, 1)
    text = uuid.uuid4().hex

    with _open(instance, 2) as socket:
        status, body = HttpClient(instance.base, instance.tokens[1]).send(2, text)

        assert status == 200
        assert socket.wait_for_text(text).data["data"]["id"] == body["data"]["id"]


def _ask_flower(instance: Instance, path: str, *, with_password: bool = True) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{instance.flower_port}{path}")
    if with_password:
        password = (instance.data_dir / "flower_password").read_text().strip()
        credentials = base64.b64encode(f"hongyan:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {credentials}")
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_flower_shows_the_work_but_no_text(instance: Instance, friends: tuple[int, int]) -> None:
    """Flower shows succeeded drains to who has the password; neither it nor any log shows a message or a token."""
    sender_id, recipient_id = friends
    text = f"secret{uuid.uuid4().hex}"
    status, _ = HttpClient(instance.base, instance.tokens[sender_id]).send(recipient_id, text)
    assert status == 200
    tasks: dict[str, dict[str, Any]] = {}

    def a_drain_decided_something() -> bool:
        status, answer = _ask_flower(instance, "/api/tasks?state=SUCCESS&limit=1000")
        if status == 200:
            tasks.update(json.loads(answer))
        return any("drain" in task["name"] and "decided" in str(task["result"]) for task in tasks.values())

    assert wait_until(a_drain_decided_something, 20.0, poll_seconds=0.2), f"flower shows {list(tasks.values())[-5:]}"
    drain_id = next(task_id for task_id, task in tasks.items() if "drain" in task["name"])
    pages = [_ask_flower(instance, path) for path in ("/tasks", f"/task/{drain_id}", f"/api/task/info/{drain_id}")]
    assert [status for status, _ in pages] == [200, 200, 200]
    shown = "".join(page for _, page in pages) + json.dumps(tasks)
    logged = "".join(path.read_text(errors="replace") for path in instance.log_dir.glob("*.log"))
    for secret in (text, instance.tokens[sender_id], instance.tokens[recipient_id]):
        assert secret not in shown
        assert secret not in logged


@pytest.mark.parametrize("path", ["/", "/tasks", "/api/tasks", "/api/workers"])
def test_flower_is_closed_without_its_password(instance: Instance, path: str) -> None:
    """No page of flower is shown without the password."""
    assert wait_until(lambda: _ask_flower(instance, path, with_password=False)[0] == 401, 20.0, poll_seconds=0.2)
