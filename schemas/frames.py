"""The JSON of every frame the server sends over a websocket (ORIG 2.2, contract section 5). Times in milliseconds.

A Message arrives here as JSON already, so that it is encoded once however many sockets get it.
"""

from __future__ import annotations

from typing import Any, Literal

import orjson

_WELCOME = "欢迎您访问我们的系统！"

ReceiptState = Literal["delivered", "read"]

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


def typing(chat_type: str, to_id: int, from_id: int) -> bytes:
    """Somebody is typing to `to_id`, which is the reader, or a group of his."""
    return orjson.dumps({"type": "typing", "chatType": chat_type, "to_id": to_id, "from_id": from_id})


def read(chat_type: str, peer_id: int, seq: int) -> bytes:
    """Another device of the user has read a conversation up to `seq`."""
    return orjson.dumps({"type": "read", "chatType": chat_type, "peer_id": peer_id, "seq": seq})


def receipt(state: ReceiptState, reader_id: int, seq: int, now_ms: int) -> bytes:
    """A watermark of a one-to-one conversation: the reader has, or has read, everything up to `seq`."""
    return orjson.dumps(
        {
            "type": "receipt",
            "state": state,
            "chatType": "single",
            "peer_id": reader_id,
            "seq": seq,
            "user_id": reader_id,
            "at": now_ms,
        }
    )


def presence(user_id: int, now_ms: int, *, is_online: bool) -> bytes:
    """A friend has come, or has been gone for some seconds."""
    return orjson.dumps({"type": "presence", "user_id": user_id, "online": is_online, "at": now_ms})


def failure(code: str, text: str, protocol: int) -> bytes:
    """What a refused client reads before the close. Clients of protocol 1 get ORIG 2.1's frame and nothing else."""
    plain = {"msg": "fail", "data": text}
    return orjson.dumps(plain if protocol == 1 else plain | {"code": code})
