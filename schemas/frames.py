"""The JSON of every frame the server sends over a websocket (ORIG 2.2, contract section 5). Times in milliseconds.

A Message arrives here as JSON already, so that it is encoded once however many sockets get it.
"""

from __future__ import annotations

from typing import Any

import orjson

_WELCOME = "欢迎您访问我们的系统！"

HEARTBEAT = b'{"type":"ping"}'


def welcome(now_ms: int) -> bytes:
    return orjson.dumps({"type": "system", "data": _WELCOME, "timestamp": now_ms})


def pong(now_ms: int) -> bytes:
    return b'{"type":"pong","timestamp":%d}' % now_ms


def single_chat(message: bytes, now_ms: int) -> bytes:
    """A message, as protocol 1 sees it."""
    return b'{"type":"singleChat","data":%s,"timestamp":%d}' % (message, now_ms)


def single_chat_at(message: bytes, now_ms: int, cursor: int) -> bytes:
    """A message with its place in the inbox, as protocol 2 sees it."""
    return b'{"type":"singleChat","data":%s,"timestamp":%d,"cursor":%d}' % (message, now_ms, cursor)


def hello(
    *, connection: str, device: str, cursor: int, epoch: str, heartbeat_seconds: int, frame_max_bytes: int
) -> bytes:
    return orjson.dumps(
        {
            "type": "hello",
            "v": 2,
            "connection": connection,
            "device": device,
            "cursor": cursor,
            "heartbeat": heartbeat_seconds,
            "maxFrame": frame_max_bytes,
            "epoch": epoch,
        }
    )


def reset(epoch: str, first: int, last: int) -> bytes:
    """Entries first..last cannot be replayed: the client fetches history. last < first: under a new epoch none is missing."""
    return orjson.dumps({"type": "reset", "epoch": epoch, "from": first, "to": last})


def send_result(ref: Any, message_id: str, message: bytes, cursor: int) -> bytes:
    """A send was stored. `cursor` 0: its entry has been shown before, or is not on this socket."""
    place = b',"cursor":%d' % cursor if cursor else b""
    head = b'{"type":"sendResult","ref":%s,"id":"%s","ok":true' % (orjson.dumps(ref), message_id.encode())
    return head + b',"data":' + message + place + b"}"


def send_failed(ref: Any, message_id: str | None, code: str, text: str) -> bytes:
    return orjson.dumps({"type": "sendResult", "ref": ref, "id": message_id, "ok": False, "code": code, "data": text})


def failure(code: str, text: str) -> bytes:
    """What a refused client reads before the close (ORIG 2.1)."""
    return orjson.dumps({"msg": "fail", "data": text, "code": code})
