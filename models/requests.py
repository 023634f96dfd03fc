"""Requests: what is accepted and a drain decides, as it stands in an outbox list: sends, recalls, system notices.

A request is complete when it is accepted: its id and its time are minted once, so that every later try is the same
message. All three kinds take their place in the order of one conversation. A request never holds a token.
"""

from __future__ import annotations

import hashlib
import os
import time
import uuid
import zlib
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from typing import Any, Literal

import orjson

Kind = Literal["send", "recall", "notice"]
ChatType = Literal["single", "group"]

# Ids given for a (sender, clientMsgId) pair are uuid5 of this namespace, so that a repeat is the same message.
_CLIENT_MESSAGE_NAMESPACE = uuid.UUID("6f1d3c52-6f0f-4a9e-9a0b-0c7b1f5f7a11")


@dataclass(frozen=True, slots=True)
class Request:
    """One accepted request. What the fields hold depends on the kind:

    send: what the sender chose. recall: `data` is the id of the message to recall. notice: `data` is the notice's fields
    as JSON (models/notices.py), `sender_id` the user it is about or from, `to_id` the user or group that gets it.
    `reply_to` is where the verdict is waited for: (process id, number of the wait).
    """

    id: str
    kind: Kind
    chat_type: ChatType
    sender_id: int
    role: str  # session role: "user" or "visitor" (C8)
    device: str
    to_id: int  # recipient, or group
    type: str
    data: str
    options: Any  # decoded JSON, None where absent or undecodable
    created_at_ms: int
    client_msg_id: str | None
    reply_to: tuple[str, int] | None
    conversation: str

    def encode(self) -> bytes:
        return orjson.dumps(
            (
                self.id,
                self.kind,
                self.chat_type,
                self.sender_id,
                self.role,
                self.device,
                self.to_id,
                self.type,
                self.data,
                self.options,
                self.created_at_ms,
                self.client_msg_id,
                self.reply_to,
                self.conversation,
            )
        )

    def content_hash(self) -> str:
        """Return 32 hex digits that differ when anything differs that the sender chose."""
        chosen = (self.kind, self.chat_type, self.to_id, self.type, self.data, self.options)
        return hashlib.blake2b(orjson.dumps(chosen, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


_FIELD_COUNT = len(dataclass_fields(Request))


def decode(entry: bytes) -> Request:
    """Raises ValueError: the entry is not a request."""
    fields = orjson.loads(entry)
    if not isinstance(fields, list) or len(fields) != _FIELD_COUNT or not isinstance(fields[-1], str):
        raise ValueError("an entry is an array of a request's fields")
    fields[-2] = tuple(fields[-2]) if fields[-2] else None
    return Request(*fields)


def mint_id(sender_id: int, client_msg_id: str | None) -> str:
    """Give the id of a new message: derived where the client named it (UUID version 5), otherwise of its time (version 7).

    Ids of about the same time stand side by side in the database's index: a commit writes fewer of its pages.
    """
    if client_msg_id is None:
        return _uuid_text((time.time_ns() // 1_000_000).to_bytes(6) + os.urandom(10), 7)
    return _uuid_text(
        hashlib.sha1(_CLIENT_MESSAGE_NAMESPACE.bytes + f"{sender_id}:{client_msg_id}".encode()).digest(), 5
    )


def _uuid_text(data: bytes, version: int) -> str:
    """Give a UUID of the first 16 bytes (RFC 9562 section 4), at a third of what an object of it costs each send."""
    number = int.from_bytes(data[:16]) & ~(0xF000_C000 << 48) | version << 76 | 0x8000 << 48
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def recall_id(sender_id: int, conversation: str, message_id: str, attempt: int = 0) -> str:
    """Give the id of a user's request to recall a message: asking twice is one request, but not in another conversation.

    attempt: one more where what refused him may have changed since
    """
    again = f":{attempt}" if attempt else ""
    return str(uuid.uuid5(_CLIENT_MESSAGE_NAMESPACE, f"recall:{sender_id}:{conversation}:{message_id}{again}"))


def conversation_key(chat_type: ChatType, sender_id: int, to_id: int) -> str:
    """Name a conversation: both sides of a one-to-one chat give the same name."""
    if chat_type == "group":
        return f"group:{to_id}"
    low, high = sorted((sender_id, to_id))
    return f"single:{low}:{high}"


def shard_of(conversation: str, shards: int) -> int:
    """Return the shard a conversation lives in. It must never change while a deployment holds messages."""
    return zlib.crc32(conversation.encode()) % shards
