"""Protocol 2's signals: typing, read, receipts and presence, across web processes and devices."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from models.store import keys
from tests.support.acting import (
    add_friends,
    empty_inbox,
    live_place,
    open_placed,
    open_socket,
    show_marker,
)
from tests.support.client import ChatSocket, Frame, HttpClient
from tests.support.instance import Instance, wait_until
from tests.support.relations import (
    add_users,
    befriend,
    disable_friend_row,
    make_group,
    set_membership,
    set_strangers,
    start_session,
)

_QUIET_SECONDS = 1.5  # for what must not come: longer than a batch of any kind takes
_GONE_SECONDS = 6.0


def _signals(socket: ChatSocket, kind: str, **members: Any) -> list[dict[str, Any]]:
    return [frame.data for frame in list(socket.frames) if _is(frame, kind, members)]


def _is(frame: Frame, kind: str, members: dict[str, Any]) -> bool:
    return frame.data.get("type") == kind and members.items() <= frame.data.items()


def _wait_for(socket: ChatSocket, kind: str, timeout: float = 5.0, **members: Any) -> dict[str, Any]:
    return socket.wait_for(lambda frame: _is(frame, kind, members), timeout).data


def _apart(instance: Instance, stack: ExitStack, user_id: int, other_id: int) -> tuple[ChatSocket, ChatSocket]:
    """Connect two users to different web processes."""
    first = stack.enter_context(open_socket(instance, user_id, 2))
    process_id = live_place(instance, user_id).partition(":")[0]
    second = stack.enter_context(open_placed(instance, other_id, 2, is_on=False, process_id=process_id))
    return first, second


def _type(socket: ChatSocket, to_id: Any, chat_type: Any = "single") -> None:
    socket.send_json({"type": "typing", "chatType": chat_type, "to_id": to_id})


def _seq_of(answer: tuple[int, Any]) -> int:
    status, body = answer
    assert status == 200, body
    return int(body["data"]["seq"])


def _newest_cursor(socket: ChatSocket) -> int:
    frames = [frame.data for frame in list(socket.frames) if frame.data.get("type") == "singleChat"]
    return max(int(frame.get("cursor", 0)) for frame in frames)


# Typing


def test_typing_reaches_a_friend_on_another_process(instance: Instance, friends: tuple[int, int]) -> None:
    """Only the peer is told, with the name of who types, and a protocol 1 socket of his never."""
    with ExitStack() as stack:
        mine, theirs = _apart(instance, stack, *friends)
        legacy_token = start_session(instance, friends[1], device="legacy")
        legacy = stack.enter_context(open_socket(instance, friends[1], 1, token=legacy_token))

        _type(mine, friends[1])

        assert _wait_for(theirs, "typing") == {
            "type": "typing",
            "chatType": "single",
            "to_id": friends[1],
            "from_id": friends[0],
        }
        show_marker(instance, friends[0], friends[1], legacy)
        assert not _signals(legacy, "typing")
        assert not _signals(mine, "typing")


def test_typing_in_a_group_reaches_its_active_members(instance: Instance) -> None:
    """Who waits for approval is told nothing, and who is in no group cannot make himself heard."""
    owner, member, pending, stranger = add_users(instance, 4)
    group_id = make_group(instance, owner, [member, pending])
    set_membership(instance, group_id, pending, 2)
    with ExitStack() as stack:
        sockets = {user_id: stack.enter_context(open_socket(instance, user_id, 2)) for user_id in instance.tokens if
                   user_id in (owner, member, pending, stranger)}  # fmt: skip

        _type(sockets[stranger], group_id, "group")
        _type(sockets[pending], group_id, "group")
        _type(sockets[owner], group_id, "group")

        seen = _wait_for(sockets[member], "typing")
        assert seen == {"type": "typing", "chatType": "group", "to_id": group_id, "from_id": owner}
        time.sleep(_QUIET_SECONDS)
        assert len(_signals(sockets[member], "typing")) == 1
        assert not _signals(sockets[pending], "typing")
        assert not _signals(sockets[owner], "typing")


def test_typing_goes_only_where_a_message_may_go(instance: Instance, friends: tuple[int, int]) -> None:
    """A block stops it at once, though it was told a moment ago; lifting it lets it through."""
    user_id, friend_id = friends
    blocking = HttpClient(instance.base, instance.tokens[friend_id])
    with open_socket(instance, user_id, 2) as mine, open_socket(instance, friend_id, 2) as theirs:
        _type(mine, friend_id)
        _wait_for(theirs, "typing")
        assert blocking.post(f"/api/chat/block/{user_id}", {"block": 1})[0] == 200
        try:
            time.sleep(0.5)
            _type(mine, friend_id)
            time.sleep(_QUIET_SECONDS)
            assert len(_signals(theirs, "typing")) == 1
        finally:
            assert blocking.post(f"/api/chat/block/{user_id}", {"block": 0})[0] == 200
        _type(mine, friend_id)
        assert wait_until(lambda: len(_signals(theirs, "typing")) == 2, 5.0)


def test_a_stranger_who_may_not_write_cannot_be_seen_typing(instance: Instance) -> None:
    """Friends only is friends only."""
    stranger, recluse = add_users(instance, 2)
    set_strangers(instance, recluse, user=0, visitor=0)
    with open_socket(instance, stranger, 2) as mine, open_socket(instance, recluse, 2) as theirs:
        _type(mine, recluse)

        time.sleep(_QUIET_SECONDS)
        assert not _signals(theirs, "typing")


def test_a_flood_of_typing_is_thinned_out(instance: Instance, friends: tuple[int, int]) -> None:
    """A few a second reach the peer, the rest is ignored and costs the sender nothing."""
    with open_socket(instance, friends[0], 2) as mine, open_socket(instance, friends[1], 2) as theirs:
        for _ in range(40):
            _type(mine, friends[1])
        _wait_for(theirs, "typing")
        time.sleep(_QUIET_SECONDS)

        assert len(_signals(theirs, "typing")) <= 3
        assert mine.is_open


def test_malformed_signals_are_ignored(instance: Instance, friends: tuple[int, int]) -> None:
    """Neither answers, nor ends the connection, nor reaches anybody."""
    wrong: tuple[Any, ...] = (None, -1, 2**63, "x", [], {}, 1.5, True, "\0")
    with open_socket(instance, friends[0], 2) as mine, open_socket(instance, friends[1], 2) as theirs:
        for value in wrong:
            _type(mine, value)
            mine.send_json({"type": "read", "chatType": "single", "peer_id": value, "seq": value})
        _type(mine, friends[1], ["single"])
        mine.send_json({"type": ["typing"], "chatType": "single", "to_id": friends[1]})
        mine.send_json({"type": "typing"})
        mine.send_json({"type": "read"})

        show_marker(instance, friends[0], friends[1], theirs)
        assert mine.is_open
        assert not _signals(theirs, "typing")


# Read


def test_reading_tells_the_other_devices_and_the_sender(instance: Instance) -> None:
    """The device that read is not told, a marker never goes back, and never beyond the newest message."""
    writer, reader = add_friends(instance)
    phone_token = start_session(instance, reader, device="phone")
    client = HttpClient(instance.base, instance.tokens[writer])
    with ExitStack() as stack:
        senders, readers = _apart(instance, stack, writer, reader)
        phone = stack.enter_context(open_socket(instance, reader, 2, token=phone_token))
        seqs = [_seq_of(client.send(reader, f"to read {number}")) for number in range(3)]

        readers.send_json({"type": "read", "chatType": "single", "peer_id": writer, "seq": seqs[1]})

        assert _wait_for(phone, "read") == {
            "type": "read",
            "chatType": "single",
            "peer_id": writer,
            "seq": seqs[1],
        }
        receipt = _wait_for(senders, "receipt", state="read")
        assert abs(receipt.pop("at") - time.time() * 1000) < 60_000
        assert receipt == {
            "type": "receipt",
            "state": "read",
            "chatType": "single",
            "peer_id": reader,
            "seq": seqs[1],
            "user_id": reader,
        }
        for seq in (seqs[0], seqs[1]):
            readers.send_json({"type": "read", "chatType": "single", "peer_id": writer, "seq": seq})
        readers.send_json({"type": "read", "chatType": "single", "peer_id": writer, "seq": 1_000_000})

        _wait_for(phone, "read", seq=seqs[2])
        _wait_for(senders, "receipt", state="read", seq=seqs[2])
        assert [signal["seq"] for signal in _signals(phone, "read")] == [seqs[1], seqs[2]]
        assert [signal["seq"] for signal in _signals(senders, "receipt", state="read")] == [seqs[1], seqs[2]]
        assert not _signals(readers, "read")
    assert _read_seq(instance, reader, writer) == seqs[2]


def test_reading_over_http_is_the_same(instance: Instance) -> None:
    """The route tells the devices that did not ask, and the sender."""
    writer, reader = add_friends(instance)
    phone_token = start_session(instance, reader, device="phone")
    seq = _seq_of(HttpClient(instance.base, instance.tokens[writer]).send(reader, "read me"))
    with (
        open_socket(instance, writer, 2) as senders,
        open_socket(instance, reader, 2) as readers,
        open_socket(instance, reader, 2, token=phone_token) as phone,
    ):
        body = {"chatType": "single", "peer_id": writer, "seq": seq + 5}
        answer = HttpClient(instance.base, phone_token).post("/api/chat/read", body)

        assert answer == (200, {"msg": "ok", "data": "ok"})
        _wait_for(readers, "read", seq=seq, peer_id=writer)
        _wait_for(senders, "receipt", state="read", seq=seq, user_id=reader)
        assert not _signals(phone, "read")


def test_any_number_is_read_as_far_as_there_are_messages(instance: Instance) -> None:
    """0 of an empty conversation changes nothing, and what no message can have is the newest."""
    writer, reader = add_friends(instance)
    client = HttpClient(instance.base, instance.tokens[reader])

    def read(seq: int) -> int:
        return client.post("/api/chat/read", {"chatType": "single", "peer_id": writer, "seq": seq})[0]

    assert (read(0), read(2**40)) == (200, 200)
    sent = [_seq_of(HttpClient(instance.base, instance.tokens[writer]).send(reader, text)) for text in "ab"]
    assert _read_seq(instance, reader, writer) == 0

    assert (read(2**31), read(0)) == (200, 200)

    assert _read_seq(instance, reader, writer) == sent[-1]


def test_reading_a_group_tells_only_the_own_devices(instance: Instance) -> None:
    """Nobody gets a receipt of a group, and who is no member marks nothing."""
    owner, member, stranger = add_users(instance, 3)
    group_id = make_group(instance, owner, [member])
    phone_token = start_session(instance, member, device="phone")
    seq = _seq_of(HttpClient(instance.base, instance.tokens[owner]).send(group_id, "to all", "group"))
    with (
        open_socket(instance, owner, 2) as owners,
        open_socket(instance, member, 2) as members,
        open_socket(instance, member, 2, token=phone_token) as phone,
    ):
        frame = {"type": "read", "chatType": "group", "peer_id": group_id, "seq": seq}
        members.send_json(frame)

        assert _wait_for(phone, "read") == frame
        time.sleep(_QUIET_SECONDS)
        assert not _signals(owners, "receipt")
    body = {"chatType": "group", "peer_id": group_id, "seq": seq}
    assert HttpClient(instance.base, instance.tokens[stranger]).post("/api/chat/read", body)[0] == 404
    huge = {"chatType": "group", "peer_id": 2**40, "seq": seq}
    assert HttpClient(instance.base, instance.tokens[stranger]).post("/api/chat/read", huge)[0] == 404


def _read_seq(instance: Instance, user_id: int, peer_id: int) -> int:
    _, body = HttpClient(instance.base, instance.tokens[user_id]).get("/api/chat/conversations")
    return next(int(entry["read_seq"]) for entry in body["data"]["conversations"] if entry["peer_id"] == peer_id)


# Receipts


def test_an_acknowledgement_tells_the_sender_that_it_arrived(instance: Instance) -> None:
    """Up to the newest acknowledged, once, on another process; what is not acknowledged is not told."""
    writer, reader = add_friends(instance)
    client = HttpClient(instance.base, instance.tokens[writer])
    with ExitStack() as stack:
        senders, readers = _apart(instance, stack, writer, reader)
        seqs = [_seq_of(client.send(reader, f"arrives {number}")) for number in range(3)]
        readers.wait_for_text("arrives 2")
        cursors = {frame.message["seq"]: frame.data["cursor"] for frame in list(readers.frames) if frame.message}
        time.sleep(_QUIET_SECONDS)
        assert not _signals(senders, "receipt")

        readers.ack(cursors[seqs[1]])

        receipt = _wait_for(senders, "receipt")
        assert abs(receipt.pop("at") - time.time() * 1000) < 60_000
        assert receipt == {
            "type": "receipt",
            "state": "delivered",
            "chatType": "single",
            "peer_id": reader,
            "seq": seqs[1],
            "user_id": reader,
        }
        readers.ack(cursors[seqs[2]])
        _wait_for(senders, "receipt", seq=seqs[2])
        assert len(_signals(senders, "receipt")) == 2


def test_a_protocol_1_pong_tells_the_sender_too(instance: Instance) -> None:
    """The legacy client cannot acknowledge by itself; the pong does it for him."""
    writer, reader = add_friends(instance)
    with open_socket(instance, writer, 2) as senders, open_socket(instance, reader, 1):
        seq = _seq_of(HttpClient(instance.base, instance.tokens[writer]).send(reader, "by pong"))

        _wait_for(senders, "receipt", state="delivered", seq=seq, user_id=reader)


def test_two_devices_make_one_watermark_that_never_goes_back(instance: Instance) -> None:
    """A device that acknowledges later than another tells nothing new."""
    writer, reader = add_friends(instance)
    phone_token = start_session(instance, reader, device="phone")
    client = HttpClient(instance.base, instance.tokens[writer])
    with ExitStack() as stack:
        senders, desk = _apart(instance, stack, writer, reader)
        phone = stack.enter_context(open_socket(instance, reader, 2, token=phone_token))
        seqs = [_seq_of(client.send(reader, f"for both {number}")) for number in range(2)]
        for socket in (desk, phone):
            socket.wait_for_text("for both 1")

        desk.ack(_newest_cursor(desk))
        _wait_for(senders, "receipt", seq=seqs[1])
        phone.ack(_newest_cursor(phone) - 1)
        phone.ack(_newest_cursor(phone))

        time.sleep(_QUIET_SECONDS)
        assert [signal["seq"] for signal in _signals(senders, "receipt")] == [seqs[1]]


def test_resuming_acknowledges_what_the_lost_connection_had_written(instance: Instance) -> None:
    """A client that reads, loses its connection and returns with its cursor has acknowledged: the sender is told."""
    writer, reader = add_friends(instance)
    empty_inbox(instance, reader)
    with open_socket(instance, writer, 2) as senders:
        with open_socket(instance, reader, 2) as first:
            epoch = str(first.wait_for(lambda frame: frame.data.get("type") == "hello").data["epoch"])
            seq = _seq_of(HttpClient(instance.base, instance.tokens[writer]).send(reader, "before the loss"))
            cursor = first.wait_for_text("before the loss").data["cursor"]
            first.drop(abruptly=True)

        with open_socket(instance, reader, 2, cursor=cursor, epoch=epoch):
            _wait_for(senders, "receipt", state="delivered", seq=seq)


def test_a_burst_makes_few_receipts(instance: Instance) -> None:
    """At most about three a second per pair, the last with the newest seq."""
    writer, reader = add_friends(instance)
    client = HttpClient(instance.base, instance.tokens[writer])

    def acknowledge(frame: Frame) -> None:
        if frame.message is not None:
            readers.ack(frame.data["cursor"])

    with open_socket(instance, writer, 2) as senders:
        readers = ChatSocket(instance.base, instance.tokens[reader], 2, on_frame=acknowledge)
        with readers:
            began = time.monotonic()
            for number in range(40):
                newest = _seq_of(client.send(reader, f"burst {number}"))
            _wait_for(senders, "receipt", seq=newest)
            lasted = time.monotonic() - began

    receipts = _signals(senders, "receipt")
    assert len(receipts) <= lasted / 0.3 + 2
    assert [receipt["seq"] for receipt in receipts] == sorted({receipt["seq"] for receipt in receipts})


def test_groups_and_notices_make_no_receipts(instance: Instance) -> None:
    """A group's senders ask for the state of a message instead."""
    owner, member = add_users(instance, 2)
    group_id = make_group(instance, owner, [member])
    with open_socket(instance, owner, 2) as owners, open_socket(instance, member, 2) as members:
        assert HttpClient(instance.base, instance.tokens[owner]).send(group_id, "to all", "group")[0] == 200
        members.wait_for_text("to all")
        members.ack(_newest_cursor(members))

        time.sleep(_QUIET_SECONDS)
        assert not _signals(owners, "receipt")


# Presence


def _is_told(socket: ChatSocket, user_id: int, *, online: bool) -> Callable[[], bool]:
    return lambda: any(signal["online"] is online for signal in _signals(socket, "presence", user_id=user_id))


def test_friends_are_told_who_comes_and_goes(instance: Instance) -> None:
    """Once when the first device comes, once when the last has gone, on another process."""
    watcher, friend = add_friends(instance)
    phone_token = start_session(instance, friend, device="phone")
    with ExitStack() as stack:
        watching, desk = _apart(instance, stack, watcher, friend)
        online = _wait_for(watching, "presence", user_id=friend)
        assert abs(online.pop("at") - time.time() * 1000) < 60_000
        assert online == {"type": "presence", "user_id": friend, "online": True}

        phone = stack.enter_context(open_socket(instance, friend, 2, token=phone_token))
        desk.close()
        time.sleep(4.0)
        assert len(_signals(watching, "presence", user_id=friend)) == 1

        phone.close()
        _wait_for(watching, "presence", _GONE_SECONDS, user_id=friend, online=False)
        assert len(_signals(watching, "presence", user_id=friend)) == 2
        with instance.redis() as client:
            assert client.zscore(keys.ANNOUNCED, str(friend)) is None


def test_who_is_away_for_a_moment_now_and_then_is_not_told_as_gone(instance: Instance) -> None:
    """Neither by the process that he left two seconds ago, while others have had him since."""
    watcher, friend = add_friends(instance)
    with open_socket(instance, watcher, 2) as watching:
        with open_socket(instance, friend, 2):
            _wait_for(watching, "presence", user_id=friend, online=True)
        for pause in (0.4, 1.2) * 4:
            time.sleep(pause)
            with open_socket(instance, friend, 2):
                time.sleep(1.2)

        assert len(_signals(watching, "presence", user_id=friend)) == 1


def test_a_reconnect_is_not_told(instance: Instance) -> None:
    """Who is back within two seconds was never gone, whichever process has him now."""
    watcher, friend = add_friends(instance)
    with open_socket(instance, watcher, 2) as watching:
        with open_socket(instance, friend, 2):
            _wait_for(watching, "presence", user_id=friend, online=True)
        for _ in range(3):
            with open_socket(instance, friend, 2):
                time.sleep(0.6)
            time.sleep(0.2)
        with open_socket(instance, friend, 1):
            time.sleep(4.0)

            assert len(_signals(watching, "presence", user_id=friend)) == 1


def test_a_new_socket_is_told_who_is_there(instance: Instance) -> None:
    """Of each online friend once, also of one with a protocol 1 client; protocol 1 is told nothing."""
    newcomer, there = add_friends(instance)
    [away] = add_users(instance)
    befriend(instance, newcomer, away)
    with open_socket(instance, there, 1) as legacy:
        assert wait_until(lambda: _is_announced(instance, there), 5.0)
        with open_socket(instance, newcomer, 2) as mine:
            _wait_for(mine, "presence", user_id=there, online=True)
            time.sleep(_QUIET_SECONDS)

            assert [signal["user_id"] for signal in _signals(mine, "presence")] == [there]
            assert not _signals(legacy, "presence")


@pytest.mark.parametrize("has_to_agree", [False, True], ids=["automatic", "asked"])
def test_who_become_friends_are_told_of_each_other(instance: Instance, has_to_agree: bool) -> None:
    """Both are here already, on two processes: each is told once that the other is, and nobody else is told anything."""
    user_id, other_id, third = add_users(instance, 3)
    befriend(instance, user_id, third)
    mine, theirs = (HttpClient(instance.base, instance.tokens[each]) for each in (user_id, other_id))
    with ExitStack() as stack:
        watching = stack.enter_context(open_socket(instance, third, 2))
        here, there = _apart(instance, stack, user_id, other_id)
        _wait_for(watching, "presence", user_id=user_id, online=True)
        assert wait_until(lambda: _is_announced(instance, other_id), 5.0)

        if has_to_agree:
            assert mine.post("/api/chat/applyfriend", {"friend_id": other_id})[0] == 200
            _, applications = theirs.get("/api/chat/listapplyfriend/1")
            path = f"/api/chat/handleapply/{applications['data']['alldata'][0]['id']}"
            assert theirs.post(path, {"status": "agree"})[0] == 200
        else:
            assert mine.post("/api/chat/autoAddFriendAndAgree", {"friend_id": other_id})[0] == 200

        _wait_for(here, "presence", user_id=other_id, online=True)
        _wait_for(there, "presence", user_id=user_id, online=True)
        time.sleep(_QUIET_SECONDS)
        assert len(_signals(here, "presence", user_id=other_id)) == 1
        assert len(_signals(there, "presence")) == 1
        assert [signal["user_id"] for signal in _signals(watching, "presence")] == [user_id]


def test_only_those_who_may_know_are_told(instance: Instance) -> None:
    """Not strangers, not who is blocked or blocks, not who was parted by an administrator, not one-sided friends."""
    user_id, stranger, blocked, blocker, parted, friend = add_users(instance, 6)
    for other in (blocked, blocker, parted, friend):
        befriend(instance, user_id, other)
    HttpClient(instance.base, instance.tokens[user_id]).post(f"/api/chat/block/{blocked}", {"block": 1})
    HttpClient(instance.base, instance.tokens[blocker]).post(f"/api/chat/block/{user_id}", {"block": 1})
    disable_friend_row(instance, parted, user_id)
    with ExitStack() as stack:
        watching = {
            watcher: stack.enter_context(open_socket(instance, watcher, 2))
            for watcher in (stranger, blocked, blocker, parted, friend)
        }
        mine = stack.enter_context(open_socket(instance, user_id, 2))

        _wait_for(watching[friend], "presence", user_id=user_id, online=True)
        _wait_for(mine, "presence", user_id=friend, online=True)
        time.sleep(_QUIET_SECONDS)
        told = {watcher for watcher, socket in watching.items() if _signals(socket, "presence", user_id=user_id)}
        assert told == {friend}
        assert {signal["user_id"] for signal in _signals(mine, "presence")} == {friend}


def test_whom_a_dead_process_left_behind_is_told_as_gone(instance: Instance) -> None:
    """Its lease runs out, and any process finds it."""
    watcher, friend = add_friends(instance)
    with instance.redis() as client, open_socket(instance, watcher, 2) as watching:
        client.zadd(keys.ANNOUNCED, {str(friend): time.time() * 1000 + 500})

        _wait_for(watching, "presence", 20.0, user_id=friend, online=False)


def _is_announced(instance: Instance, user_id: int) -> bool:
    with instance.redis() as client:
        return client.zscore(keys.ANNOUNCED, str(user_id)) is not None
