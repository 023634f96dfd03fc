"""How the system that is measured is spoken to: how a user connects, what a send looks like, what its frames mean.

A text carries its number behind a mark, so that it is found in any frame without reading JSON. What the numbers count for is
load.py's affair. Ours is the only dialect here; socketio.py has that of the peer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from benchmarks.wire import Address, SocketLine, request

if TYPE_CHECKING:
    from benchmarks.load import Load

MARK = b"@@"
DIGITS = 10
_CURSOR = b'"cursor":'
_TEXT_BYTES = 100
_SEND_PATH = "/api/chat/socket/sendmessage"
_ACK_EVERY_FRAMES = 32

ChatType = Literal["single", "group"]


def text_of(number: int) -> str:
    """Return a text of 100 bytes that carries the number."""
    return f"{MARK.decode()}{number:0{DIGITS}}@".ljust(_TEXT_BYTES, "x")


def number_in(payload: bytes) -> int | None:
    """Return the number of the first marked text in a frame."""
    start = payload.find(MARK)
    if start < 0:
        return None
    digits = payload[start + len(MARK) : start + len(MARK) + DIGITS]
    return int(digits) if digits.isdigit() else None


def cursor_in(payload: bytes) -> int | None:
    """Return the cursor of a protocol 2 frame, where it has one."""
    start = payload.rfind(_CURSOR)
    if start < 0:
        return None
    start += len(_CURSOR)
    digits = payload[start:-1]
    if not digits.isdigit():  # `hello` goes on behind it
        digits = digits.partition(b",")[0]
    return int(digits)


class Device:
    """A connected user. Subclasses understand its frames and call `welcomed`, `Load.seen` and `Load.answered`.

    on_ready: called once, when the server has welcomed it, or has refused it
    """

    def __init__(self, load: Load, user_id: int, path: str, on_ready: Callable[[], None]) -> None:
        self._load = load
        self.user_id = user_id
        self._on_ready: Callable[[], None] | None = on_ready
        self.line = SocketLine(load.loop, load.address, path, self.take, self._ended)

    @property
    def is_ready(self) -> bool:
        """Whether the server has welcomed it."""
        return self._on_ready is None and self.line.is_open

    def take(self, payload: bytes) -> None:
        """Understand a frame."""
        raise NotImplementedError

    def welcomed(self) -> None:
        """Tell once who waits that the connection stands."""
        on_ready, self._on_ready = self._on_ready, None
        if on_ready is not None:
            on_ready()

    def acknowledge(self) -> None:
        """Tell the server what is safe, where the dialect has a way to. Called from time to time."""

    def refused(self, reason: bytes) -> None:
        """Count the connection as lost, where the server says no and leaves it open."""
        self.line.drop(is_wanted=True)
        self._ended(reason)

    def _ended(self, reason: bytes) -> None:
        self._load.lost_connection(self, was_ready=self._on_ready is None, reason=reason)
        self.welcomed()


class Dialect(Protocol):
    """A way to speak to a system. What is to be sent holds 0 in ten digits wherever the number of its text belongs."""

    def device(self, load: Load, user_id: int, version: int, on_ready: Callable[[], None], lag: int) -> Device:
        """Begin to connect a user. version: of our protocol; lag: how many entries stay unacknowledged"""
        raise NotImplementedError

    def http_send(self, address: Address, token: str, target_id: int, chat_type: ChatType, more: str) -> bytes:
        """Spell the whole request that sends a text. more: further header lines"""
        raise NotImplementedError

    def socket_send(self, target_id: int, chat_type: ChatType) -> bytes:
        """Spell the frame that sends a text over the sender's own connection."""
        raise NotImplementedError


# Ours


class _Device1(Device):
    """Speaks protocol 1, whose acknowledgements are the pongs that the line returns."""

    def __init__(self, load: Load, user_id: int, on_ready: Callable[[], None]) -> None:
        super().__init__(load, user_id, f"/ws?token={load.tokens[user_id]}", on_ready)

    def take(self, payload: bytes) -> None:
        """Whatever comes first welcomes."""
        if self._on_ready is not None:
            self.welcomed()
        self._load.seen(self.user_id, payload)


class _Device2(Device):
    """Speaks protocol 2 and acknowledges by cursor."""

    def __init__(self, load: Load, user_id: int, on_ready: Callable[[], None], lag: int) -> None:
        self._lag = lag
        self._cursor = 0
        self._unacknowledged = 0
        super().__init__(load, user_id, f"/ws?v=2&token={load.tokens[user_id]}", on_ready)

    def take(self, payload: bytes) -> None:
        """Tell messages, results of sends and the welcome apart by how they begin."""
        if payload.startswith(b'{"type":"singleChat"'):
            self._note(payload)
            self._load.seen(self.user_id, payload)
        elif payload.startswith(b'{"type":"sendResult"'):
            self._note(payload)  # an own message's cursor stands in its result
            start = payload.find(b'"ref":"') + 7
            is_ok = payload.find(b'"ok":true') > 0
            self._load.answered(int(payload[start : start + DIGITS]), 200 if is_ok else 400)
        elif self._on_ready is not None and payload.startswith(b'{"type":"hello"'):
            self.welcomed()

    def _note(self, payload: bytes) -> None:
        cursor = cursor_in(payload)
        if cursor is None:
            return
        self._cursor = max(self._cursor, cursor)
        self._unacknowledged += 1
        if self._unacknowledged >= _ACK_EVERY_FRAMES:
            self.acknowledge()

    def acknowledge(self) -> None:
        """Tell the server what is safe."""
        if self._unacknowledged and self.line.is_open:
            self._unacknowledged = 0
            if self._cursor > self._lag:
                self.line.send(b'{"type":"ack","cursor":%d}' % (self._cursor - self._lag))


class Hongyan:
    """Our own dialect: docs/protocol.md."""

    def device(self, load: Load, user_id: int, version: int, on_ready: Callable[[], None], lag: int) -> Device:
        """Begin to connect a user."""
        if version == 2:
            return _Device2(load, user_id, on_ready, lag)
        return _Device1(load, user_id, on_ready)

    def http_send(self, address: Address, token: str, target_id: int, chat_type: ChatType, more: str) -> bytes:
        """Spell the whole request that sends a text."""
        message = {"sendto_id": target_id, "chatType": chat_type, "type": "text", "data": text_of(0), "options": ""}
        return request("POST", _SEND_PATH, address, token, json.dumps(message).encode(), more)

    def socket_send(self, target_id: int, chat_type: ChatType) -> bytes:
        """Spell the frame that sends a text; its reference and the client's id of the message carry the number too."""
        message = {
            "sendto_id": target_id,
            "chatType": chat_type,
            "type": "text",
            "data": text_of(0),
            "options": "",
            "clientMsgId": f"b{0:0{DIGITS}}",
        }
        return json.dumps({"type": "send", "ref": f"{0:0{DIGITS}}", "message": message}).encode()


HONGYAN = Hongyan()
