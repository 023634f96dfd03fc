"""The dialect of the socket.io peer: Engine.IO 4 and Socket.IO 5 packets as text, over a plain websocket.

Only what the generator needs of it: the default namespace, no polling, no binary. Source: the "Engine.IO protocol" and
"Socket.IO protocol" pages of socket.io's documentation; the events are those of peers/socketio/server.js.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks.dialect import DIGITS, ChatType, Device, text_of
from benchmarks.load import Load
from benchmarks.wire import Address, request

_PATH = "/socket.io/?EIO=4&transport=websocket"
# The first digit is Engine.IO's: open, ping, pong, and 4 for a message, whose second digit is Socket.IO's.
_OPEN, _PING, _PONG = b"0", b"2", b"3"
_CONNECT, _EVENT, _ACK, _CONNECT_ERROR = b"40", b"42", b"43", b"44"


class SocketIoDevice(Device):
    """A user connected with one socket. Nothing acknowledges what it was shown: that is not in the protocol."""

    def __init__(self, load: Load, user_id: int, on_ready: Callable[[], None]) -> None:
        super().__init__(load, user_id, _PATH, on_ready)

    def take(self, payload: bytes) -> None:
        """Understand a packet; the most frequent kinds come first."""
        kind = payload[:2]
        if kind == _EVENT:
            self._load.seen(self.user_id, payload)
        elif kind == _ACK:
            end = payload.find(b"[")
            self._load.answered(int(payload[2:end]), 200 if payload.find(b'"ok":true', end) > 0 else 400)
        elif kind == _PING:
            self.line.send(_PONG)
        elif kind[:1] == _OPEN:
            self.line.send(_CONNECT + json.dumps({"token": self._load.tokens[self.user_id]}).encode())
        elif kind == _CONNECT:
            self.welcomed()
        elif kind == _CONNECT_ERROR:
            self.refused(payload)


class SocketIo:
    """How the peer is spoken to. Its messages have the same texts as ours."""

    def device(self, load: Load, user_id: int, version: int, on_ready: Callable[[], None], lag: int) -> Device:
        """Begin to connect a user. Our protocol's versions and acknowledgements mean nothing here."""
        return SocketIoDevice(load, user_id, on_ready)

    def http_send(self, address: Address, token: str, target_id: int, chat_type: ChatType, more: str) -> bytes:
        """Spell the whole request that sends a text."""
        return request("POST", "/send", address, token, json.dumps(_message(target_id, chat_type)).encode(), more)

    def socket_send(self, target_id: int, chat_type: ChatType) -> bytes:
        """Spell the event that sends a text. The number is the acknowledgement's id too; it may begin with zeros."""
        event = json.dumps(["send", _message(target_id, chat_type)]).encode()
        return _EVENT + b"0" * DIGITS + event


def _message(target_id: int, chat_type: ChatType) -> dict[str, object]:
    return {"target": target_id, "chatType": chat_type, "type": "text", "data": text_of(0)}
