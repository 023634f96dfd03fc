"""`import-original` on a running system: whoever used the original goes on here with his password, friends, groups and queue."""

from __future__ import annotations

import stat
import time
from contextlib import closing
from typing import Any

import redis
from sqlalchemy import select

from models.users import User
from schemas.accounts import visitor_signature
from tests.conftest import InstanceFactory
from tests.support import original_data as data
from tests.support.client import ChatSocket, HttpClient
from tests.support.instance import Instance, wait_until
from tests.support.original_client import OriginalClient, text_of
from tests.support.original_data import ANNA, BERT, CARL, GROUP_ID, PASSWORDS, VISITOR
from tests.support.relations import writing

_WRONG = "账户或密码错误"


def _log_in(instance: Instance, username: str, password: str, device: str = "default") -> tuple[int, Any]:
    body = {"username": username, "password": password, "device": device}
    return HttpClient(instance.base, None).call("POST", "/api/loginChat", body)


def _stored_password(instance: Instance, user_id: int) -> str:
    with writing(instance) as connection:
        return str(connection.execute(select(User.password).where(User.id == user_id)).scalar_one())


def _take_over(instance: Instance) -> None:
    dump = data.write_dump(instance.data_dir / "dump.sql")
    url = f"unix://{instance.redis_socket}?db=5"
    with closing(redis.Redis.from_url(url)) as original:
        data.fill_redis(original)
    instance.run_flask("import-original", str(dump), "--redis", url)


def test_users_of_the_original_go_on_here(fresh_instance: InstanceFactory) -> None:
    """With the client they have, while the system runs; each message is shown once, in order, with its id and time."""
    instance = fresh_instance()
    _take_over(instance)

    # The password he has; another one is none, and the hash itself neither.
    assert _log_in(instance, "bert", "wrong-secret")[1]["data"] == _WRONG
    assert _stored_password(instance, BERT).startswith("original:$argon2id$")
    status, answer = _log_in(instance, "bert", PASSWORDS[BERT])
    assert status == 200, answer
    login = answer["data"]
    assert (login["id"], login["uuid"], login["username"]) == (BERT, data.uuid_of(BERT), "bert")
    assert _stored_password(instance, BERT).startswith("$argon2id$")
    assert _log_in(instance, "bert", PASSWORDS[BERT], "phone")[0] == 200

    with OriginalClient(instance.base, BERT, login["token"]) as bert:
        bert.wait_for_text(ANNA, "no time")
        shown = [message for message in bert.shown if not str(message["from_id"]).startswith("redirect-")]
        told = [(message["id"], text_of(message), message["create_time"]) for message in shown]
        at = data.SENT_AT_MS
        assert [text for _, text, _ in told] == [
            "first",
            "a stranger's",
            "to all of you",
            "",  # recalled before he saw it
            "fifth",
            "of a group that is gone",
            "Anna撤回了一条消息",
            "no uuid",
            "no time",
        ]
        by_text = {text: (message_id, sent_at) for message_id, text, sent_at in told}
        for number, text in ((1, "first"), (2, "a stranger's"), (3, "to all of you"), (5, "fifth")):
            assert by_text[text] == (data.uuid_of(100_000 + number), at + number * 1_000)
        # The application that still waits; the one of a friend is answered, and greetings are made anew.
        notices = [message["from_id"] for message in bert.shown if str(message["from_id"]).startswith("redirect-apply")]
        assert notices.count(f"redirect-applyFriend-{CARL}") == 1
        assert f"redirect-applyFriend-{ANNA}" not in notices
        first = next(message for message in shown if text_of(message) == "first")
        assert first["to_name"] == "bert"  # not the remark that Anna has for him (C19)
        said = next(message for message in shown if text_of(message) == "to all of you")
        assert "group_users" not in said["group"]
        assert (said["group"]["user_id"], said["group"]["member_count"]) == (ANNA, 2)

        # What he had, he has.
        client = HttpClient(instance.base, login["token"])
        friends = client.get("/api/chat/goodfriendlist/1")[1]["data"]["rows"]["newList"]
        assert [(each["friend_id"], each["name"]) for part in friends for each in part["list"]] == [(ANNA, "Annchen")]
        groups = client.get("/api/chat/grouplist/1")[1]["data"]
        assert [each["id"] for each in groups] == [GROUP_ID]
        applied = client.get("/api/chat/listapplyfriend/1")[1]["data"]
        assert [each["user_id"] for each in applied["alldata"] if each["status"] == "pending"] == [CARL]
        requests = client.get("/api/chat/requests")[1]["data"]["requests"]
        assert [each["user_id"] for each in requests] == [VISITOR]

        # And chat goes on behind what was.
        assert bert.send(ANNA, "here I am")["sendStatus"] == "success"
        anna = _log_in(instance, "anna", PASSWORDS[ANNA])[1]["data"]
        with OriginalClient(instance.base, ANNA, anna["token"]) as other:
            other.wait_for_text(BERT, "here I am")
            # What she had sent herself is not shown to her again.
            assert [text_of(m) for m in other.shown if not str(m["from_id"]).startswith("redirect-")] == ["here I am"]
            assert other.send(GROUP_ID, "all of you again", "group")["sendStatus"] == "success"
        bert.wait_for_text(GROUP_ID, "all of you again", "group")
        sender = HttpClient(instance.base, anna["token"])
        last_id = next(message["id"] for message in bert.shown if text_of(message) == "all of you again")

        def is_acknowledged() -> bool:
            devices = sender.get(f"/api/chat/messages/{last_id}")[1]["data"]["recipients"]
            return "acknowledged" in [device["state"] for device in devices if device["user_id"] == BERT]

        assert wait_until(is_acknowledged, 5.0)  # else it would rightly be shown once more
        history = sender.get(f"/api/chat/history?chatType=single&peer_id={BERT}")
        texts = [text_of(message) for message in history[1]["data"]["messages"]]
        assert (texts[0], texts[-1]) == ("first", "here I am")

    # Whoever was shut out stays so, nothing is shown again to who has had it, and a device finds its visitor.
    assert _log_in(instance, "banned", PASSWORDS[data.BANNED])[1]["code"] == "account_disabled"
    with closing(ChatSocket(instance.base, login["token"], 2)) as socket:
        socket.wait_for(lambda frame: frame.data.get("type") == "hello")
        assert socket.messages == []
    timestamp = time.time_ns() // 1_000_000
    signed = {"X-Security-Sign": visitor_signature(data.DEVICE_ID, timestamp, "hongyan")}
    device: dict[str, Any] = {"deviceId": data.DEVICE_ID, "timestamp": timestamp}
    visitor = HttpClient(instance.base, None).call("POST", "/api/visitorRegister", device, signed)
    assert visitor[1]["data"]["id"] == VISITOR
    carl = {**device, "username": "carl", "password": PASSWORDS[CARL]}
    status, answer = HttpClient(instance.base, None).call("POST", "/api/visitorloginChat", carl, signed)
    assert (status, answer["data"]["id"], answer["data"]["role"]) == (200, CARL, "user")
    left = instance.data_dir / "import-original-left.jsonl"
    assert stat.S_IMODE(left.stat().st_mode) == 0o600
    assert len(left.read_text().splitlines()) == 3
    # Whoever registers now comes behind all of them.
    status, answer = HttpClient(instance.base, None).call(
        "POST", "/api/regChat", {"username": "newcomer", "password": "secret-1"}
    )
    assert status == 200, answer
    assert answer["data"]["id"] == data.BANNED + 1
