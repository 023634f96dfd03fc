"""The transport on real socket pairs under gevent: whole writes in order, a bounded buffer, one end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent import socket as green

from webapp.sockets import transport
from webapp.sockets.transport import Transport
from webapp.sockets.wire import encode_close, encode_frame

_MAX_UNSENT = 100_000
_TIMEOUT_SECONDS = 10.0


class _Pair:
    """A transport, the peer's end of its connection, and what the transport's callbacks were told."""

    def __init__(self, max_unsent_bytes: int, *, is_tcp_buffer_small: bool = True) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        peer = socket.socket()
        if is_tcp_buffer_small:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        peer.connect(listener.getsockname())
        ours, _ = listener.accept()
        listener.close()
        if is_tcp_buffer_small:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        self.peer = green.socket(fileno=peer.detach())
        self.transport = Transport.of(ours, max_unsent_bytes)
        ours.close()  # as the web server does with its own descriptor
        self.received = b""
        self.closings = 0
        self.raises: Exception | None = None

    def start(self) -> None:
        self.transport.start(self._on_bytes, self._on_closed)

    def _on_bytes(self, data: bytes) -> None:
        self.received += data
        if self.raises is not None:
            raise self.raises

    def _on_closed(self) -> None:
        self.closings += 1
        if self.raises is not None:
            raise self.raises

    def fill(self, piece: bytes) -> int:
        """Write until the transport takes no more; return how many pieces it took."""
        taken = 0
        while self.transport.write(piece):
            taken += 1
        return taken

    def read_all(self, piece_bytes: int = 65_536) -> bytes:
        """Read as the peer, until the end."""
        data = bytearray()
        while piece := self.peer.recv(piece_bytes):
            data += piece
        return bytes(data)


Connect = Callable[..., _Pair]


@pytest.fixture
def pair() -> Iterator[Connect]:
    """Make connected pairs; they are closed at the end, and a test that waits for ever is ended."""
    made: list[_Pair] = []

    def make(max_unsent_bytes: int = _MAX_UNSENT, *, is_tcp_buffer_small: bool = True) -> _Pair:
        made.append(_Pair(max_unsent_bytes, is_tcp_buffer_small=is_tcp_buffer_small))
        made[-1].start()
        return made[-1]

    with gevent.Timeout(_TIMEOUT_SECONDS):
        yield make
    for one in made:
        one.raises = None
        one.transport.abort()
        one.peer.close()


def _wait_for(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(5):
        while not condition():
            gevent.sleep(0.005)


def test_what_arrives_is_handed_on(pair: Connect) -> None:
    """Bytes of the peer come to `on_bytes` in order."""
    connected = pair()
    for number in range(100):
        connected.peer.sendall(b"%d;" % number)

    _wait_for(lambda: connected.received.endswith(b"99;"))

    assert connected.received == b"".join(b"%d;" % number for number in range(100))


def test_a_full_buffer_takes_nothing_more(pair: Connect) -> None:
    """A peer that does not read fills the buffer; the write that does not fit says False and leaves no trace."""
    connected = pair()

    taken = connected.fill(b"x" * 1_000)

    assert 0 < connected.transport.unsent_bytes <= _MAX_UNSENT
    assert connected.transport.unsent_bytes > _MAX_UNSENT - 1_000
    unsent = connected.transport.unsent_bytes
    assert not connected.transport.write(b"y" * 1_000)
    assert connected.transport.unsent_bytes == unsent
    assert connected.transport.is_open

    reader = gevent.spawn(connected.read_all)
    _wait_for(lambda: connected.transport.unsent_bytes == 0)
    assert connected.transport.write(b"z")
    connected.transport.finish(b"")
    assert reader.get() == b"x" * 1_000 * taken + b"z"


def test_a_slow_reader_gets_everything_in_order(pair: Connect) -> None:
    """8 MB through a peer that reads in small pieces arrive whole and in order."""
    connected = pair(is_tcp_buffer_small=False)
    pieces = [os.urandom(40_000) for _ in range(200)]
    reader = gevent.spawn(connected.read_all, 997)

    for piece in pieces:
        while not connected.transport.write(piece):
            gevent.sleep(0.001)
    _wait_for(lambda: connected.transport.unsent_bytes == 0)
    connected.transport.finish(b"end")

    assert reader.get() == b"".join(pieces) + b"end"


def test_tiny_writes_keep_their_order(pair: Connect) -> None:
    """Writes of single bytes, some of which the socket does not take at once, arrive as they were made."""
    connected = pair()
    reader = gevent.spawn(connected.read_all, 100)
    expected = bytearray()

    for number in range(30_000):
        piece = bytes([number % 251])
        while not connected.transport.write(piece):
            gevent.sleep(0)
        expected += piece
    _wait_for(lambda: connected.transport.unsent_bytes == 0)
    connected.transport.finish(b"")

    assert reader.get() == bytes(expected)


def test_finishing_says_goodbye_after_a_whole_frame(pair: Connect) -> None:
    """What waits is given up, but never in the middle of a frame, and the close frame is the last."""
    connected = pair()
    frame = encode_frame(b"x" * 5_000)
    taken = connected.fill(frame)

    connected.transport.finish(encode_close(4408))

    assert not connected.transport.is_open
    assert not connected.transport.write(frame)
    data = connected.read_all()
    assert data.endswith(encode_close(4408))
    whole, rest = divmod(len(data) - len(encode_close(4408)), len(frame))
    assert rest == 0
    assert 0 < whole < taken
    assert data.startswith(frame * whole)


def test_finishing_an_idle_connection_reaches_the_peer(pair: Connect) -> None:
    """The close frame is read before the end, also where bytes of the peer have not been read."""
    connected = pair()
    connected.peer.sendall(b"never read" * 100)

    connected.transport.finish(b"bye")

    assert connected.read_all() == b"bye"
    connected.peer.close()
    _wait_for(lambda: connected.closings == 1)
    assert connected.received == b""


def test_finishing_ends_though_the_peer_reads_nothing(pair: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is over at once for whoever holds the connection, and for the peer when its time to read is over."""
    monkeypatch.setattr(transport, "_UNSENT_LINGER_SECONDS", 0.1)
    connected = pair()
    connected.fill(b"x" * 1_000)

    connected.transport.finish(b"bye")

    assert connected.closings == 1
    assert connected.transport.unsent_bytes > 0
    _wait_for(lambda: connected.transport.unsent_bytes == 0)
    assert connected.closings == 1


def test_a_peer_that_reads_late_is_told_why(pair: Connect) -> None:
    """Whoever was too slow learns it from the close frame, long after a peer that reads would have answered it."""
    connected = pair(2_000_000)
    connected.fill(b"x" * 1_000_000)  # more than the kernels take of it

    connected.transport.finish(encode_close(4408))
    gevent.sleep(2 * transport._LINGER_SECONDS)

    assert connected.transport.unsent_bytes > 0
    assert connected.read_all().endswith(encode_close(4408))


def test_aborting_closes_once(pair: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often and however it ends, `on_closed` is called once, and the peer sees the end."""
    monkeypatch.setattr(transport, "_LINGER_SECONDS", 0.05)
    connected = pair()
    connected.transport.finish(b"")

    for _ in range(3):
        connected.transport.abort()
    gevent.sleep(0.1)

    assert connected.closings == 1
    assert connected.read_all() == b""
    assert not connected.transport.write(b"x")
    connected.transport.finish(b"x")


def test_the_peers_end_is_ours(pair: Connect) -> None:
    """A peer that leaves, politely or not, ends the connection."""
    for is_reset in (False, True):
        connected = pair()
        if is_reset:
            connected.fill(b"x" * 1_000)
        connected.peer.close()

        _wait_for(lambda connected=connected: connected.closings == 1)  # type: ignore[misc]
        assert not connected.transport.is_open


def test_starting_after_the_end_tells_it_at_once(pair: Connect) -> None:
    """A connection that was dropped before anybody listened is closed for him too."""
    connected = _Pair(_MAX_UNSENT)
    connected.transport.abort()

    connected.start()

    assert connected.closings == 1
    connected.peer.close()


@pytest.mark.parametrize("where", ["on_bytes", "on_closed"])
def test_an_error_in_a_callback_ends_only_its_connection(
    pair: Connect, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in one connection's handling drops that connection; the hub never sees it and serves the others."""
    seen_by_hub: list[object] = []
    monkeypatch.setattr(gevent.get_hub(), "handle_error", lambda *what: seen_by_hub.append(what))
    broken, other = pair(), pair()
    broken.raises = RuntimeError("a bug")

    if where == "on_bytes":
        broken.peer.sendall(b"x")
    else:
        broken.peer.close()
    _wait_for(lambda: broken.closings == 1)
    other.peer.sendall(b"still served")
    _wait_for(lambda: other.received == b"still served")

    assert seen_by_hub == []
    assert not broken.transport.is_open


def test_a_write_to_a_peer_that_is_gone_says_false(pair: Connect) -> None:
    """An error of the socket ends the connection instead of raising."""
    connected = pair()
    connected.peer.close()

    _wait_for(lambda: not connected.transport.write(b"x"))

    _wait_for(lambda: connected.closings == 1)


@pytest.mark.parametrize(("max_unsent", "pause_above"), [(1_048_576, 262_144), (400_000, 137_856), (65_536, 0), (1, 0)])
def test_a_replay_pauses_before_the_buffer_is_full(pair: Connect, max_unsent: int, pause_above: int) -> None:
    """There is always room for another page, however small the buffer is."""
    assert pair(max_unsent).transport.replay_unsent_bytes == pause_above


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    peer = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    listener.close()
    return ours, peer


@pytest.mark.parametrize(("written", "expected"), [(b"first", b"handshakefirst"), (None, b"handshake")])
def test_a_handshake_goes_out_with_the_first_write_or_alone_before_the_end(
    written: bytes | None, expected: bytes
) -> None:
    ours, peer = _tcp_pair()
    transport = Transport.of(ours, _MAX_UNSENT, b"handshake")
    ours.close()
    if written is not None:
        assert transport.write(written)
    transport.abort()

    assert peer.recv(100) == expected
    assert peer.recv(100) == b""
    peer.close()
