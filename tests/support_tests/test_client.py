"""The socket client itself, against a server that writes exactly the bytes a test gives it."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import original_client
from tests.support.client import ChatSocket
from tests.support.instance import wait_until
from tests.support.original_client import OriginalClient
from tests.support.receiver import PersistentReceiver
from tests.support.websocket import HandshakeRefused, StreamCorrupt

_WELCOME = {"type": "system", "data": "欢迎您访问我们的系统！", "timestamp": 1}

Script = Callable[[socket.socket], None]
Serve = Callable[..., str]


def _frame(opcode: int, payload: bytes) -> bytes:
    length = len(payload)
    if length < 126:
        return struct.pack("!BB", 0x80 | opcode, length) + payload
    if length < 65_536:
        return struct.pack("!BBH", 0x80 | opcode, 126, length) + payload
    return struct.pack("!BBQ", 0x80 | opcode, 127, length) + payload


def _text(data: object) -> bytes:
    return _frame(1, json.dumps(data).encode())


def _message(message_id: str, seq: int, cursor: int | None = None) -> dict[str, object]:
    body = json.dumps({"data": f"text {seq}", "dataType": False, "otherData": None})
    message = {
        "id": message_id,
        "seq": seq,
        "from_id": 1,
        "to_id": 2,
        "chatType": "single",
        "type": "text",
        "data": body,
    }
    return {"type": "singleChat", "data": message, "timestamp": 1} | ({} if cursor is None else {"cursor": cursor})


def _read_frame(peer: socket.socket) -> tuple[int, bytes]:
    """Read one masked frame below 126 bytes; opcode -1 at the end."""
    head = peer.recv(2, socket.MSG_WAITALL)
    if len(head) < 2:
        return -1, b""
    mask = peer.recv(4, socket.MSG_WAITALL)
    payload = peer.recv(head[1] & 0x7F, socket.MSG_WAITALL)
    return head[0] & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def _shake_hands(peer: socket.socket, extra_header: str, targets: list[str]) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        request += peer.recv(4_096)
    lines = request.decode().split("\r\n")
    targets.append(lines[0].split()[1])
    key = next(line.split(": ")[1] for line in lines if line.startswith("Sec-WebSocket-Key"))
    accept = base64.b64encode(hashlib.sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
    head = f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n{extra_header}\r\n"
    peer.sendall(head.encode())


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve one connection after the other, each with its script; then refuse."""
    with ExitStack() as stack:

        def start(*scripts: Script, extra_header: str = "", targets: list[str] | None = None) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def run() -> None:
                for script in scripts:
                    peer, _ = listener.accept()
                    with peer:
                        _shake_hands(peer, extra_header, [] if targets is None else targets)
                        script(peer)
                        # Closing with unread bytes would reset the connection and could take our last frames with it.
                        peer.shutdown(socket.SHUT_WR)
                        while _read_frame(peer)[0] != -1:
                            pass
                listener.close()

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            stack.callback(thread.join, 5.0)
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield start


def test_frames_arrive_whole_however_they_are_cut(serve: Serve) -> None:
    """A frame of any length, written in any pieces, is recorded once and whole."""
    texts = ["", "短" * 30, "x" * 125, "x" * 126, "x" * 65_535, "x" * 70_000]
    stream = b"".join(_text({"type": "t", "data": text}) for text in texts) + _frame(8, b"")

    def script(peer: socket.socket) -> None:
        for start in range(0, len(stream), 997):
            peer.sendall(stream[start : start + 997])

    client = ChatSocket(serve(script), "token")

    client.wait_closed()
    assert [frame.data["data"] for frame in client.frames] == texts
    assert client.error is None


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        (_frame(8, struct.pack("!H", 4409) + b"replaced"), 4409),
        (_frame(8, b""), 1005),
        (b"", None),
        (_text(_WELCOME)[:-3], None),
    ],
    ids=["code", "no code", "dropped", "dropped within a frame"],
)
def test_the_end_of_a_connection_is_told_exactly(serve: Serve, ending: bytes, code: int | None) -> None:
    """A close frame with a code, one without, and a connection dropped without one are three different ends."""
    client = ChatSocket(serve(lambda peer: peer.sendall(ending)), "token")

    assert client.wait_closed() == code
    assert client.frames == []


def test_a_close_frame_is_answered(serve: Serve) -> None:
    """The server's close frame is answered with its code, and ours is sent with one."""
    answers: list[tuple[int, bytes]] = []

    def close_first(peer: socket.socket) -> None:
        peer.sendall(_frame(8, struct.pack("!H", 1012)))
        answers.append(_read_frame(peer))

    def close_second(peer: socket.socket) -> None:
        answers.append(_read_frame(peer))
        peer.sendall(_frame(8, answers[-1][1]))

    base = serve(close_first, close_second)

    ChatSocket(base, "token").wait_closed()
    second = ChatSocket(base, "token")
    second.close()

    assert answers == [(8, struct.pack("!H", 1012)), (8, struct.pack("!H", 1000))]
    assert second.close_code == 1000


@pytest.mark.parametrize("answers", [True, False])
def test_pings_are_answered_only_where_wanted(serve: Serve, answers: bool) -> None:
    """A ping gets a pong with its payload, or is only recorded."""
    got: list[tuple[int, bytes]] = []

    def script(peer: socket.socket) -> None:
        peer.sendall(_frame(9, b"nonce:7"))
        got.append(_read_frame(peer))

    client = ChatSocket(serve(script), "token", answer_pings=answers)

    assert client.wait_for_ping().payload == b"nonce:7"
    if not answers:
        client.ack(3)  # comes first where no pong was sent
    client.wait_closed()
    assert got == [(10, b"nonce:7") if answers else (1, b'{"type": "ack", "cursor": 3}')]


def test_a_reader_that_does_not_read_stalls_the_server(serve: Serve) -> None:
    """With `read=False` the server's writes block, until reading starts."""
    stalled = threading.Event()

    def script(peer: socket.socket) -> None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
        peer.settimeout(0.5)
        pending = _text({"type": "t", "data": "x" * 60_000}) * 20
        while pending:
            try:
                pending = pending[peer.send(pending) :]
            except TimeoutError:
                stalled.set()
                peer.settimeout(5.0)

    client = ChatSocket(serve(script), "token", read=False)

    assert stalled.wait(5.0)
    client.start_reading()
    client.wait_closed()
    assert len(client.frames) == 20


@pytest.mark.parametrize(
    "wrong", [b"\x01\x00", b"\xc1\x00", b"\x81\x80\x00\x00\x00\x00", b"\x83\x00", _frame(1, b"no")]
)
def test_forbidden_bytes_are_named(serve: Serve, wrong: bytes) -> None:
    """A fragmented, compressed, masked, unknown or undecodable frame is an error of the server, not an end."""
    client = ChatSocket(serve(lambda peer: peer.sendall(wrong)), "token")

    client.wait_closed()

    assert client.error is not None


def test_negotiated_compression_is_refused(serve: Serve) -> None:
    """A server that takes the offered compression is at fault."""
    base = serve(lambda peer: None, extra_header="Sec-WebSocket-Extensions: permessage-deflate\r\n")

    with pytest.raises(StreamCorrupt, match="permessage-deflate"):
        ChatSocket(base, "token")


def test_a_refused_upgrade_says_why() -> None:
    """An ordinary HTTP answer to the upgrade is told with its status."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4_096)
                peer.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")

        threading.Thread(target=run, daemon=True).start()

        with pytest.raises(HandshakeRefused) as refused:
            ChatSocket(f"http://127.0.0.1:{listener.getsockname()[1]}", "token")

    assert refused.value.status == 403


def test_waiting_ends_with_the_connection(serve: Serve) -> None:
    """Waiting for a frame that cannot come any more fails at once and says how the connection ended."""
    client = ChatSocket(serve(lambda peer: peer.sendall(_text(_WELCOME) + _frame(8, struct.pack("!H", 4401)))), "token")

    assert client.wait_for(lambda frame: frame.data["type"] == "system").data == _WELCOME
    with pytest.raises(TimeoutError, match="close code 4401"):
        client.wait_for(lambda frame: frame.data["type"] == "never", timeout=60.0)


def test_a_persistent_receiver_returns_with_its_cursor(serve: Serve) -> None:
    """After its connection was dropped a protocol-2 receiver comes back with cursor and epoch, and keeps all it saw."""
    hello = {"type": "hello", "v": 2, "epoch": "e1", "cursor": 2}
    acks: list[int] = []

    def talk(*frames: object) -> Script:
        def script(peer: socket.socket) -> None:
            peer.sendall(b"".join(_text(frame) for frame in (_WELCOME, hello, *frames)))
            wanted = frames[-1]
            assert isinstance(wanted, dict)
            while not acks or acks[-1] != wanted["cursor"]:
                acks.append(json.loads(_read_frame(peer)[1])["cursor"])

        return script

    targets: list[str] = []
    base = serve(
        talk(_message("a", 1, 1), _message("b", 2, 2)), talk(_message("b", 2, 2), _message("c", 3, 3)), targets=targets
    )

    with PersistentReceiver(SimpleNamespace(base=base), 2, "token", 2) as receiver:
        assert wait_until(lambda: acks[-1:] == [3], 5.0)

    assert targets == ["/ws?token=token&v=2", "/ws?token=token&cursor=2&epoch=e1&v=2"]
    assert [received.message_id for received in receiver.received] == ["a", "b", "b", "c"]
    assert [received.message_id for received in receiver.received_on(2)] == ["b", "c"]
    assert receiver.received[0].conversation == "single:1:2"
    assert receiver.received[0].text == "text 1"


def test_a_connection_whose_first_frames_were_shown_can_be_dropped(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original's client, told to drop what it holds, drops also a connection that has only just brought something."""
    dropped = threading.Event()

    class SlowlyOpened(ChatSocket):
        """Reads while its constructor is still busy, as on a machine without CPU to spare."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            dropped.wait(0.5)

    class Fetchless(OriginalClient):
        def post(self, *_: Any) -> tuple[int, dict[str, Any]]:
            return 200, {"msg": "ok", "data": "ok"}

    def script(peer: socket.socket) -> None:
        greeting = {
            "id": "a",
            "from_id": "redirect-search-2",
            "from_name": "",
            "from_avatar": "",
            "chatType": "single",
            "type": "text",
            "data": {"data": "", "dataType": False, "otherData": None},
            "create_time": 1,
            "isremove": 0,
        }
        peer.sendall(_text({"type": "singleChat", "data": greeting, "timestamp": 1}))
        while _read_frame(peer)[0] != -1:  # it stays open until the client drops it
            pass

    monkeypatch.setattr(original_client, "ChatSocket", SlowlyOpened)
    client = Fetchless(serve(script, script), 2, "token")
    client.start()
    try:
        client.wait_for(lambda: len(client.shown) == 1)
        client.drop()
        dropped.set()

        client.wait_for(lambda: len(client.shown) == 2, timeout=5.0)
    finally:
        client.stop()
