"""The way of a message: its hops, their order in time, and who may see them."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from models import positions
from models.store import keys
from tests.support.acting import (
    DEVICE,
    add_friends,
    database_of,
    has_acknowledged_all,
    live_place,
    open_socket,
)
from tests.support.client import HttpClient
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users, change_user, make_group, start_session

_ORDER = ["accepted", "decided", "stored", "pushed", "acknowledged"]
_PHONE = "phone"

_Hop = dict[str, Any]


def _send(instance: Instance, sender_id: int, to: int, chat_type: Any = "single") -> str:
    status, body = HttpClient(instance.base, instance.tokens[sender_id]).send(to, uuid.uuid4().hex, chat_type)
    assert status == 200, body
    return str(body["data"]["id"])


def _ask(instance: Instance, viewer_id: int, message_id: str) -> tuple[int, Any]:
    return HttpClient(instance.base, instance.tokens[viewer_id]).get(f"/api/chat/messages/{message_id}/trace")


def _hops(instance: Instance, viewer_id: int, message_id: str) -> list[_Hop]:
    """Return the hops of a message, checked for what holds of every trace."""
    status, body = _ask(instance, viewer_id, message_id)
    assert status == 200, body
    assert set(body["data"]) == {"id", "hops"}
    assert body["data"]["id"] == message_id
    hops: list[_Hop] = body["data"]["hops"]
    assert [hop["at"] for hop in hops] == sorted(hop["at"] for hop in hops)
    assert hops[0] == {"at": hops[0]["at"], "hop": "accepted"}
    for user_id, device in {(hop.get("user_id"), hop.get("device")) for hop in hops}:
        way = [h["hop"] for h in hops if (h.get("user_id"), h.get("device")) in ((None, None), (user_id, device))]
        assert way == _ORDER[: len(way)], f"the way to {user_id} on {device}: {way}"
    return hops


def _places(hops: list[_Hop]) -> dict[tuple[int | None, str | None], str]:
    """Return the last hop on each device."""
    return {(hop.get("user_id"), hop.get("device")): hop["hop"] for hop in hops if "user_id" in hop}


def _is_acknowledged(instance: Instance, viewer_id: int, message_id: str) -> bool:
    return any(hop["hop"] == "acknowledged" for hop in _hops(instance, viewer_id, message_id))


@contextmanager
def _stopped_workers(instance: Instance) -> Iterator[None]:
    workers = instance.wait_processes("worker", 2)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


def test_a_message_is_traced_to_each_device(instance: Instance) -> None:
    """It waits for the device that is away, is pushed to the one that is there, and then acknowledged by it."""
    sender_id, recipient_id = add_friends(instance)
    phone = start_session(instance, recipient_id, device=_PHONE)
    with open_socket(instance, recipient_id, 2, token=phone):
        pass
    assert wait_until(lambda: not live_place(instance, recipient_id, _PHONE), 5.0)
    before_ms = time.time_ns() // 1_000_000

    with open_socket(instance, recipient_id, 2) as socket:
        message_id = _send(instance, sender_id, recipient_id)
        frame = socket.wait_for(lambda frame: bool(frame.message and frame.message["id"] == message_id))
        pushed = _hops(instance, sender_id, message_id)
        socket.ack(frame.data["cursor"])
        assert wait_until(lambda: _is_acknowledged(instance, sender_id, message_id), 10.0)

    acknowledged = _hops(instance, sender_id, message_id)
    after_ms = time.time_ns() // 1_000_000
    assert _places(pushed) == {(recipient_id, DEVICE): "pushed", (recipient_id, _PHONE): "stored"}
    assert _places(acknowledged) == {(recipient_id, DEVICE): "acknowledged", (recipient_id, _PHONE): "stored"}
    assert all(before_ms <= hop["at"] <= after_ms for hop in acknowledged)


def test_a_protocol_1_pong_is_an_acknowledgement(instance: Instance) -> None:
    """A client of the original acknowledges without knowing it."""
    sender_id, recipient_id = add_friends(instance)

    with open_socket(instance, recipient_id):
        message_id = _send(instance, sender_id, recipient_id)

        assert wait_until(lambda: _is_acknowledged(instance, sender_id, message_id), 10.0)


def test_a_recipient_without_a_device_has_it_stored(instance: Instance) -> None:
    """Who was never connected has no device to name, and none that came later had it to get."""
    sender_id, recipient_id = add_friends(instance)
    with open_socket(instance, recipient_id):
        first_id = _send(instance, sender_id, recipient_id)
        assert wait_until(lambda: has_acknowledged_all(instance, recipient_id), 10.0)
    later = start_session(instance, recipient_id, device="tablet")
    with open_socket(instance, recipient_id, 2, token=later):
        pass
    stranger_id, nobody_id = add_friends(instance)

    message_id = _send(instance, stranger_id, nobody_id)

    assert _places(_hops(instance, stranger_id, message_id)) == {(nobody_id, None): "stored"}
    assert _places(_hops(instance, sender_id, first_id)) == {(recipient_id, DEVICE): "acknowledged"}


def test_a_group_message_is_traced_to_each_member(instance: Instance) -> None:
    """Each other member has his own hops; the owner sees them too, other members do not."""
    owner_id, sender_id, member_id = add_users(instance, 3)
    group_id = make_group(instance, owner_id, [sender_id, member_id])

    with open_socket(instance, owner_id):
        message_id = _send(instance, sender_id, group_id, "group")
        assert wait_until(lambda: _is_acknowledged(instance, sender_id, message_id), 10.0)

    hops = _hops(instance, owner_id, message_id)
    assert _places(hops) == {(owner_id, DEVICE): "acknowledged", (member_id, None): "stored"}
    assert hops == _hops(instance, sender_id, message_id)
    assert _code(_ask(instance, member_id, message_id)) == (404, "not_found")


def test_a_refused_message_reaches_nobody(instance: Instance) -> None:
    """It is decided, and that is all."""
    sender_id, recipient_id = add_friends(instance)
    change_user(instance, recipient_id, status=2)
    client = HttpClient(instance.base, instance.tokens[sender_id])
    client_msg_id = uuid.uuid4().hex
    with _stopped_workers(instance):
        status, body = client.send(recipient_id, "x", client_msg_id=client_msg_id, respond_async=True)
        assert status == 202
    message_id = body["data"]["id"]

    assert wait_until(lambda: len(_hops(instance, sender_id, message_id)) == 2, 10.0)

    assert [hop["hop"] for hop in _hops(instance, sender_id, message_id)] == ["accepted", "decided"]


def test_a_message_that_waits_for_its_verdict_is_accepted(instance: Instance) -> None:
    """While no worker decides, that is all there is to tell, to those who may know it."""
    owner_id, sender_id, member_id = add_users(instance, 3)
    group_id = make_group(instance, owner_id, [sender_id, member_id])
    client = HttpClient(instance.base, instance.tokens[sender_id])

    with _stopped_workers(instance):
        _, body = client.send(group_id, "x", "group", respond_async=True)
        message_id = body["data"]["id"]
        waiting = [_hops(instance, viewer_id, message_id) for viewer_id in (sender_id, owner_id)]
        refused = _ask(instance, member_id, message_id)

    assert [[hop["hop"] for hop in hops] for hops in waiting] == [["accepted"], ["accepted"]]
    assert _code(refused) == (404, "not_found")
    assert wait_until(lambda: len(_hops(instance, sender_id, message_id)) == 4, 10.0)


def test_only_those_concerned_see_the_way(instance: Instance) -> None:
    """The sender and administrators do; the recipient, strangers, visitors and the absent token do not."""
    sender_id, recipient_id = add_friends(instance)
    stranger_id, administrator_id = add_users(instance, 2)
    (visitor_id,) = add_users(instance, role="visitor")
    change_user(instance, administrator_id, is_administrator=True)
    message_id = _send(instance, sender_id, recipient_id)

    assert _hops(instance, administrator_id, message_id) == _hops(instance, sender_id, message_id)
    for viewer_id in (recipient_id, stranger_id):
        assert _code(_ask(instance, viewer_id, message_id)) == (404, "not_found")
    assert _code(_ask(instance, visitor_id, message_id)) == (400, "visitors_excluded")
    without = HttpClient(instance.base, None).get(f"/api/chat/messages/{message_id}/trace")
    assert _code(without) == (400, "token_missing")


@pytest.mark.parametrize("message_id", ["nothing", "%00", str(uuid.UUID(int=1)), "9" * 500])
def test_what_is_no_message_has_no_way(instance: Instance, friends: tuple[int, int], message_id: str) -> None:
    """Whatever is asked for, the answer is the same."""
    assert _code(_ask(instance, friends[0], message_id)) == (404, "not_found")


def test_the_way_survives_the_loss_of_redis(instance: Instance) -> None:
    """That a device has acknowledged is known from the checkpoint, before its inbox is rebuilt and after it; when is not."""
    sender_id, recipient_id = add_friends(instance)
    with open_socket(instance, recipient_id, 2) as socket:
        read_id = _send(instance, sender_id, recipient_id)
        frame = socket.wait_for(lambda frame: bool(frame.message and frame.message["id"] == read_id))
        socket.ack(frame.data["cursor"])
        assert wait_until(lambda: _is_checkpointed(instance, recipient_id), 15.0)
    assert wait_until(lambda: not live_place(instance, recipient_id), 5.0)
    unread_id = _send(instance, sender_id, recipient_id)

    with instance.redis() as redis:
        redis.delete(keys.cursor(recipient_id), keys.inbox(recipient_id))
    lost = [_hops(instance, sender_id, message_id) for message_id in (read_id, unread_id)]
    with open_socket(instance, recipient_id, 2) as socket:
        socket.wait_for(lambda frame: bool(frame.message and frame.message["id"] == unread_id))
        rebuilt = [_hops(instance, sender_id, message_id) for message_id in (read_id, unread_id)]

    assert [_places(hops) for hops in lost] == [
        {(recipient_id, DEVICE): "acknowledged"},
        {(recipient_id, DEVICE): "stored"},
    ]
    assert [_places(hops) for hops in rebuilt] == [
        {(recipient_id, DEVICE): "acknowledged"},
        {(recipient_id, DEVICE): "pushed"},
    ]


def _is_checkpointed(instance: Instance, user_id: int) -> bool:
    database = database_of(instance)
    with database.reading() as connection:
        found = positions.load(connection, user_id)
    database.engine.dispose()
    return any(position.seen for position in found)


def _code(answer: tuple[int, Mapping[str, Any]]) -> tuple[int, str]:
    return answer[0], answer[1]["code"]
