"""What a connection notes of the entries it writes, and how little it looks at them for it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from models import bodies
from models.facts import GroupFacts, MemberFacts, UserFacts
from models.groups import Summary
from models.memberships import Change, Person
from models.requests import Request, conversation_key
from models.store import bus
from webapp.group_notices import GroupNotices
from webapp.sockets.noted import Unacknowledged

_HOSTILE = '","from_id":99,"seq":98,"sendUUid":"x","seq":97}'


def _user(user_id: int, name: str) -> UserFacts:
    return UserFacts(user_id, f"uuid-{user_id}", name, name, name, "user", 1, "", 1)


def _request(data: str, options: Any, client_msg_id: str | None, to_id: int = 8) -> Request:
    return Request(
        id="1b7b0d6c-6c3f-4b70-9c38-0d5e6a0e7f11",
        kind="send",
        chat_type="single",
        sender_id=7,
        role="user",
        device="default",
        to_id=to_id,
        type="text",
        data=data,
        options=options,
        created_at_ms=1_700_000_000_000,
        client_msg_id=client_msg_id,
        reply_to=None,
        conversation=conversation_key("single", 7, to_id),
    )


@pytest.mark.parametrize("client_msg_id", [None, "c1", 'q"uote\\', _HOSTILE, '"actionType":"revoke', "雁"])
@pytest.mark.parametrize("text", ["plain", _HOSTILE, "雁\n", "\\"])
def test_sender_and_seq_are_those_of_the_message(text: str, client_msg_id: str | None) -> None:
    """Whatever names, text, options and numbers a user chooses, nobody else's message seems to have arrived."""
    options = {"from_id": 99, "sendUUid": text, "seq": 98, text: [{"from_id": 1, "seq": 2}]}
    message = bodies.single_message(_request(text, options, client_msg_id), 41, _user(7, text), _user(8, text))

    assert bodies.sender_and_seq(bodies.encode(message)) == (7, 41)
    assert bodies.sender_and_seq(bodies.encode(bodies.personalised(message, from_name=text))) == (7, 41)


@pytest.mark.parametrize("client_msg_id", [None, "c1"])
def test_what_is_no_one_to_one_message_of_a_user_is_not_noted(client_msg_id: str | None) -> None:
    """Group messages, recalls, notices and references to a group's log."""
    request = _request("text", None, client_msg_id)
    message = bodies.single_message(request, 3, _user(7, "a"), _user(8, "b"))
    group = GroupFacts(5, "u", 7, "g", "", "", 0, 1, 0, 1, {}, [])
    group_message = bodies.group_message(request, 3, _user(7, "a"), group, MemberFacts("", "", 1, 0))
    others = (
        group_message,
        bodies.recall_message(message, "a", 1, is_group=False),
        bodies.recall_message(group_message, "a", 1, is_group=True),
        bodies.notice_message(request, 3, {"from_id": 7, "data": {"data": "x"}, "type": "systemNotice"}),
        bodies.notice_message(request, 3, {"from_id": "redirect-x-7", "type": "systemNotice"}),
    )

    assert [bodies.sender_and_seq(orjson.dumps(other)) for other in others] == [None] * len(others)
    assert bodies.sender_and_seq(b"") is None
    assert bodies.sender_and_seq(b"{}") is None


def test_a_notice_to_a_group_is_not_noted() -> None:
    """Its `seq` is one of the group's, and would stand for messages that its author wrote to the member alone."""
    group = Summary(5, "u", 7, "g", "", "", 0, 2)
    author = Person(7, "uuid-7", "a", "a", "", "user", 1, None)
    (notice,) = GroupNotices("/static/").created(Change(group, author))
    body = bodies.encode(bodies.notice_message(notice, 7, orjson.loads(notice.data)["message"]))

    assert body.endswith(b'"seq":7}')
    assert bodies.sender_and_seq(body) is None


def _body(sender_id: int, seq: int) -> bytes:
    return b'{"id":"x","from_id":%d,"to_id":8,"sendUUid":"u","seq":%d}' % (sender_id, seq)


def test_an_acknowledgement_gives_the_newest_of_each_sender_once() -> None:
    """What it does not cover stays for the next."""
    notes = Unacknowledged()
    for cursor, (sender_id, seq) in enumerate([(7, 1), (9, 4), (7, 2), (7, 3)], 1):
        notes.note(cursor, _body(sender_id, seq))

    assert notes.take(3) == {7: 2, 9: 4}
    assert notes.take(3) == {}
    assert notes.take(9) == {7: 3}


def test_notes_of_a_client_that_never_acknowledges_are_bounded() -> None:
    """The newest of each sender is kept, however many came from others since."""
    notes = Unacknowledged()
    notes.note(1, _body(5, 1))
    for cursor in range(2, 20_000):
        notes.note(cursor, _body(7, cursor))
        assert len(notes._notes or ()) <= 1_001

    assert notes.take(20_000) == {5: 1, 7: 19_999}


def test_a_publication_with_signals_is_read_as_it_was_written() -> None:
    """And one without is no longer than it was before there were any."""
    news = bus.Publication()
    assert news.encode() == b"[[],[],[],[],[]]"
    news.signals.append(bus.Signal("receipt", 8, news.place(b'{"type":"receipt"}'), None, "read:7", 12))
    news.orders.append(bus.Order(8, 3, "replace"))

    read = bus.decode(news.encode())

    assert (read.signals, read.orders, read.bodies) == (news.signals, news.orders, news.bodies)
    assert bus.decode(b"[[],[],[],[],[]]").signals == []
