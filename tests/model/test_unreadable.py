"""What nobody can read, wherever it stands, is set aside: it stops neither a user nor a drain (ORIG B4)."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, select

from models.notices import PendingNotice
from models.requests import Request
from models.store import keys
from tests.model.rig import GROUP_ID, Rig, Socket

_UNREADABLE = [b"nonsense", b"", b"\xff|{}", b"3:x:::|{}", b"3:1::|", b"3:1::|nonsense", b"::::|{}"]


def _tell(rig: Rig, *requests: Request) -> None:
    rig.accept(*requests)
    rig.drain()


def _spoil(rig: Rig, user_id: int, entry: bytes) -> None:
    """Put an entry into an inbox as a drain would."""
    rig.client.rpush(keys.inbox(user_id), entry)
    rig.client.hincrby(keys.cursor(user_id), "next", 1)


def _shown(socket: Socket) -> list[str]:
    """Return the ids of the messages that a socket was shown."""
    return [_message(frame)["id"] for frame in socket.texts("singleChat")]


def _message(frame: dict[str, Any]) -> dict[str, Any]:
    message: dict[str, Any] = frame["data"]
    return message


@pytest.mark.parametrize("entry", _UNREADABLE)
def test_an_unreadable_entry_is_passed_over(rig: Rig, entry: bytes) -> None:
    """Its neighbours are shown at every connect, live ones too, it is kept for people to look at, and it can be acknowledged."""
    rig.web.connect(2, "a", 2).abort()
    before, after, later = (rig.build_send(1, 2, text) for text in ("before", "after", "later"))
    _tell(rig, before)
    _spoil(rig, 2, entry)
    _tell(rig, after)

    for _ in range(2):
        socket = rig.web.connect(2, "a", 2)
        assert _shown(socket) == [before.id, after.id]
        assert [(frame["from"], frame["to"]) for frame in socket.texts("reset")] == [(2, 2)]
    old = rig.web.connect(2, "b", 1)
    _tell(rig, later)
    rig.deliver()

    assert _shown(socket) == [before.id, after.id, later.id]
    assert _shown(old) == [later.id]
    assert rig.client.smembers(keys.dead_entries(2)) == {entry}
    socket.say_json({"type": "ack", "cursor": 4})
    rig.web.checkpoint()
    assert rig.cursor_state(2)["d:a"] == "4"


def test_protocol_1_is_shown_what_surrounds_an_unreadable_entry(rig: Rig) -> None:
    """It is told of no gap, which it could not understand, but it gets everything else."""
    rig.web.connect(2, "a", 1).abort()
    before, after = rig.build_send(1, 2, "before"), rig.build_send(1, 2, "after")
    _tell(rig, before)
    _spoil(rig, 2, b"nonsense")
    _tell(rig, after)

    assert _shown(rig.web.connect(2, "a", 1)) == [before.id, after.id]


def test_a_group_message_that_is_nowhere_is_a_gap(rig: Rig) -> None:
    """An entry may refer to a message that neither the group's log nor SQL has."""
    rig.web.connect(2, "a", 2).abort()
    _spoil(rig, 2, b"3:1::%d.999|" % GROUP_ID)
    after = rig.build_send(1, 2, "after")
    _tell(rig, after)

    socket = rig.web.connect(2, "a", 2)

    assert _shown(socket) == [after.id]
    assert [(frame["from"], frame["to"]) for frame in socket.texts("reset")] == [(1, 1)]


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_socket_whose_reading_fails_is_sent_away(rig: Rig, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    """It must not stay open and deaf: its client comes back, and gets what it lacks."""
    socket = rig.web.connect(2, "a", protocol)
    message = rig.build_send(1, 2, "hello")
    _tell(rig, message)

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(rig.web.office, "read_inbox", fail)
        rig.web.compare()

    assert not socket.is_open
    assert socket.close_code == (1012 if protocol == 2 else None)
    assert _shown(rig.web.connect(2, "a", protocol)) == [message.id]


@pytest.mark.parametrize("request_bytes", [b"x", b"[]", b"null"])
def test_an_unreadable_notice_stops_nobody(rig: Rig, request_bytes: bytes) -> None:
    """A notice that was left behind and cannot be read is buried, and what waits is decided."""
    with rig.database.writing() as connection:
        connection.execute(insert(PendingNotice), [{"id": "bad", "request": request_bytes, "created_at_ms": 0}])
    send = rig.build_send(1, 2, "hello")

    _tell(rig, send)

    assert [row["id"] for row in rig.rows()] == [send.id]
    assert rig.dead() == [request_bytes]
    with rig.database.reading() as connection:
        assert connection.execute(select(PendingNotice.id)).all() == []
