"""What a connection writes and believes: each entry once and in its place, and no acknowledgement of what it did not write."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace

import gevent
import pytest

from models.store.counters import Rate
from models.store.inbox import Entry, Page
from webapp.sockets.connection import Connection
from webapp.sockets.transport import Transport

_EPOCH = "e1"


class _Office:
    """Remembers what connections tell it."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.inbox = Page(_EPOCH, 0, 0, 1, [])

    def read_inbox(self, connection: Connection, most: int) -> Page:
        first = max(connection.written, self.inbox.base) + 1
        return replace(self.inbox, first=first, entries=self.inbox.entries[first - self.inbox.first :])

    def acknowledge(self, connection: Connection) -> None:
        self.acknowledged.append(connection.acknowledged)

    def ping_later(self, connection: Connection) -> None:
        raise AssertionError("protocol 2 is not pinged in these tests")

    def receive(self, connection: Connection, payload: bytes) -> None:
        connection.acknowledge(int(payload))  # all that is said in these tests

    def closed(self, connection: Connection) -> None:
        pass


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Connect two sockets over loopback: a transport sets options that only TCP has."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    return ours, theirs


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = _tcp_pair()
    theirs.settimeout(5)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def opened(pair: tuple[socket.socket, socket.socket]) -> Iterator[tuple[_Office, Connection]]:
    """Give a live protocol 2 connection that has written nothing, and its office."""
    ours, _ = pair
    office = _Office()
    transport = Transport.of(ours, 1_000_000)
    connection = Connection(
        office,
        transport,
        number=1,
        name="p:1:2",
        user_id=1,
        role="user",
        device="default",
        session_id="s",
        protocol=2,
        frame_max_bytes=65_536,
        frame_rate=Rate("frames", 60_000, 5),
    )
    connection.begin(_EPOCH, 0, 0, 0, b"")
    connection.catch_up()
    yield office, connection
    transport.abort()


def test_an_entry_that_is_published_again_is_not_written_again(
    opened: tuple[_Office, Connection], pair: tuple[socket.socket, socket.socket]
) -> None:
    """A publication that comes twice, or late, writes nothing that this connection has written."""
    _, connection = opened

    for number in (1, 2, 2, 1, 3):
        connection.deliver(_EPOCH, number, b'{"number":%d}' % number)

    assert re.findall(rb'"number":(\d)', pair[1].recv(65_536)) == [b"1", b"2", b"3"]


def test_an_entry_behind_a_gap_is_not_written(
    opened: tuple[_Office, Connection], pair: tuple[socket.socket, socket.socket]
) -> None:
    """An entry whose predecessor was not written waits until the inbox was read."""
    _, connection = opened

    for number in (1, 3):
        connection.deliver(_EPOCH, number, b'{"number":%d}' % number)

    assert re.findall(rb'"number":(\d)', pair[1].recv(65_536)) == [b"1"]
    assert connection.written == 1


def test_an_acknowledgement_beyond_what_was_written_is_ignored(opened: tuple[_Office, Connection]) -> None:
    """An entry that stands in the inbox and was not written yet cannot be acknowledged by guessing its cursor."""
    office, connection = opened
    connection.deliver(_EPOCH, 1, b"{}")

    connection.acknowledge(2)

    assert (office.acknowledged, connection.acknowledged) == ([], 0)


def test_an_acknowledgement_counts_once_and_only_forwards(opened: tuple[_Office, Connection]) -> None:
    """What was written can be acknowledged; going back or repeating changes nothing."""
    office, connection = opened
    for cursor in (1, 2, 3):
        connection.deliver(_EPOCH, cursor, b"{}")

    for cursor in (2, 2, 1, 3):
        connection.acknowledge(cursor)

    assert office.acknowledged == [2, 3]


def test_each_message_may_be_acknowledged_for_itself(
    opened: tuple[_Office, Connection], pair: tuple[socket.socket, socket.socket]
) -> None:
    """Who reads faster than the rate of frames is not closed for saying so. An acknowledgement of nothing new counts."""
    office, connection = opened
    for cursor in range(1, 21):
        connection.deliver(_EPOCH, cursor, b"{}")

    for cursor in (*range(1, 21), 20, 20, 20, 20, 0):
        _say(pair[1], b"%d" % cursor)
    gevent.sleep(0.05)

    assert office.acknowledged == list(range(1, 21))
    assert connection.transport.is_open

    _say(pair[1], b"20")
    gevent.sleep(0.05)

    assert b"\x11\x4d" in pair[1].recv(65_536)  # 4429


def _say(theirs: socket.socket, payload: bytes) -> None:
    """Write a text frame as a client does, masked with zeros."""
    theirs.sendall(bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload)


def test_what_the_inbox_lost_behind_a_connection_is_marked(
    opened: tuple[_Office, Connection], pair: tuple[socket.socket, socket.socket]
) -> None:
    """Entries that are gone before this connection wrote them are named by a reset, before what comes after them."""
    office, connection = opened
    office.inbox = Page(_EPOCH, newest=5, base=3, first=4, entries=[Entry(0, n, None, b"{}") for n in (4, 5)])

    connection.catch_up()

    written = pair[1].recv(65_536)
    (reset,) = re.findall(rb'\{"type":"reset"[^}]*\}', written)
    assert {key: json.loads(reset)[key] for key in ("epoch", "from", "to")} == {"epoch": _EPOCH, "from": 1, "to": 3}
    assert re.findall(rb'"cursor":(\d)', written.partition(reset)[2]) == [b"4", b"5"]


def test_the_result_of_a_repeat_does_not_show_the_entry_again(
    opened: tuple[_Office, Connection], pair: tuple[socket.socket, socket.socket]
) -> None:
    """Two tries that are decided together have one entry: the first result stands for it, and what follows goes on."""
    _, connection = opened
    connection.refs["m"] = ["first", "second"]

    connection.deliver(_EPOCH, 1, b'{"number":1}', own_device="default", message_id="m")
    connection.deliver(_EPOCH, 2, b'{"number":2}')
    connection.settle("m", "first", b'{"number":1}', 1, _EPOCH)
    connection.settle("m", "second", b'{"number":1}', 1, _EPOCH)

    written = pair[1].recv(65_536)
    assert re.findall(rb'"ref":"(\w+)"', written) == [b"first", b"second"]
    assert re.findall(rb'"cursor":(\d)', written) == [b"1", b"2"]


def test_a_result_of_another_epoch_is_no_entry_of_this_one(
    opened: tuple[_Office, Connection], pair: tuple[socket.socket, socket.socket]
) -> None:
    """Redis lost its data and presence with it, so nobody told this socket: results came with low cursors of the new inbox,
    which counted as shown, ahead of entries that were not. The verdict is told, and the client comes back for the rest."""
    office, connection = opened
    _, theirs = pair
    for cursor in (1, 2, 3):
        connection.deliver(_EPOCH, cursor, b'{"number":%d}' % cursor)
    connection.refs["m"] = ["r"]
    office.inbox = Page("e2", 2, 0, 1, [])

    connection.settle("m", "r", b'{"number":4}', 2, "e2")
    gevent.sleep(0.05)

    data = b""
    while chunk := theirs.recv(65_536):
        data += chunk
        if b"\x03\xf4" in data:  # 1012, server restarting: reconnect
            break
    result = json.loads(data[data.index(b'{"type":"sendResult"') : data.index(b"\x88", data.index(b"sendResult"))])
    assert result["ref"] == "r"
    assert "cursor" not in result
    assert b"\x03\xf4" in data
