"""The shape of every frame of the websocket (contract section 5, ORIG section 2): the source of AsyncAPI.

They describe and do not serialise: `schemas/frames.py` writes what the server sends. A test holds frames of live sockets
against these. Times are milliseconds, UTC.
"""

from __future__ import annotations

from marshmallow import INCLUDE, Schema, fields, validate

from schemas.answers import Exact, Message, number, one_of, text, truth
from schemas.params import TextParam
from schemas.sending import SendParams


def _kind(name: str) -> fields.String:
    return fields.String(required=True, validate=validate.Equal(name), metadata={"enum": [name]})


def _ref() -> fields.Raw:
    return fields.Raw(
        required=True,
        allow_none=True,
        metadata={"type": ["string", "number"], "description": "the client's own name for the send"},
    )


# What the server sends


class Welcome(Exact):
    """The first frame of a socket that was let in."""

    type = _kind("system")
    data = text()
    timestamp = number()


class Hello(Exact):
    """Right after the welcome: where the user's inbox stands."""

    type = _kind("hello")
    v = number(enum=[2])
    connection = text(description="this connection's name")
    device = text()
    cursor = number(description="newest entry of the user's inbox")
    heartbeat = number(description="seconds between the server's pings")
    maxFrame = number(description="bytes of the largest frame the server takes")
    epoch = text(description="changes only if the inbox's history was lost")


class Ping(Exact):
    """The server's heartbeat. No answer is needed: every websocket client answers the protocol's own ping."""

    type = _kind("ping")


class Pong(Exact):
    """Answers a client's ping."""

    type = _kind("pong")
    timestamp = number()


class Chat(Exact):
    """A message or notice, as protocol 1 gets it; in protocol 2 greetings, which have no cursor."""

    type = _kind("singleChat")
    data = fields.Nested(Message, required=True)
    timestamp = number()


class ChatEntry(Exact):
    """A message or notice with its place in the user's inbox. Cursors are consecutive."""

    type = _kind("singleChat")
    data = fields.Nested(Message, required=True)
    timestamp = number()
    cursor = number()


class Reset(Exact):
    """Entries from..to cannot be replayed: fetch history. `to` below `from`: under the new epoch none is missing."""

    type = _kind("reset")
    epoch = text()
    first = fields.Integer(required=True, data_key="from")
    to = number()


class SendStored(Exact):
    """A send was stored. It stands for the inbox's entry on the device that sent, whose cursor it carries."""

    type = _kind("sendResult")
    ref = _ref()
    id = text(description="the message's id")
    ok = truth(enum=[True])
    data = fields.Nested(Message, required=True)
    cursor = fields.Integer(metadata={"description": "absent where the entry was shown before"})


class SendRefused(Exact):
    """A send was refused; `id` is null where none was made."""

    type = _kind("sendResult")
    ref = _ref()
    id = text(null=True)
    ok = truth(enum=[False])
    code = text()
    data = text(description="for people")


class Typing(Exact):
    """Somebody types to the user, or in a group of his."""

    type = _kind("typing")
    chatType = one_of("single", "group")
    to_id = number()
    from_id = number()


class ReadMoved(Exact):
    """The user read on another device."""

    type = _kind("read")
    chatType = one_of("single", "group")
    peer_id = number()
    seq = number()


class Receipt(Exact):
    """Everything up to `seq` of the conversation with `peer_id` was delivered to, or read by, `user_id`."""

    type = _kind("receipt")
    state = one_of("delivered", "read")
    chatType = one_of("single")
    peer_id = number()
    seq = number()
    user_id = number()
    at = number()


class Presence(Exact):
    """A friend came or went."""

    type = _kind("presence")
    user_id = number()
    online = truth()
    at = number()


class PlainFailed(Exact):
    """Why a socket is refused or ended; the close follows."""

    msg = _kind("fail")
    data = text(description="for people")


class Failed(PlainFailed):
    """Why a socket is refused or ended, with its code; the close follows."""

    code = text()


# What clients send


class ClientPing(Schema):
    """Answered by pong; with a token that is no longer valid, by the failure and a close. The bare text `ping` does too."""

    class Meta:
        unknown = INCLUDE

    type = _kind("ping")
    token = fields.String(allow_none=True)


class Ack(Schema):
    """Everything up to `cursor` is safe on this device."""

    class Meta:
        unknown = INCLUDE

    type = _kind("ack")
    cursor = number()


class SendMessage(SendParams):
    """What a send carries, as over HTTP."""

    clientMsgId = TextParam("客户端消息编号", min=1, max=64)


class Send(Schema):
    """Send a message; the answer is a `sendResult` with the same `ref`."""

    class Meta:
        unknown = INCLUDE

    type = _kind("send")
    ref = fields.Raw(allow_none=True, metadata={"type": ["string", "number"], "description": "up to 64 characters"})
    message = fields.Nested(SendMessage, required=True)


class ClientTyping(Schema):
    """The user types."""

    class Meta:
        unknown = INCLUDE

    type = _kind("typing")
    chatType = one_of("single", "group")
    to_id = number()


class ClientRead(Schema):
    """The user read everything up to `seq`."""

    class Meta:
        unknown = INCLUDE

    type = _kind("read")
    chatType = one_of("single", "group")
    peer_id = number()
    seq = number()


FROM_SERVER_1: tuple[type[Schema], ...] = (Welcome, Chat, Ping, Pong, PlainFailed)
FROM_SERVER_2: tuple[type[Schema], ...] = (
    Welcome,
    Hello,
    ChatEntry,
    Chat,
    Reset,
    SendStored,
    SendRefused,
    Typing,
    ReadMoved,
    Receipt,
    Presence,
    Ping,
    Pong,
    Failed,
)
FROM_CLIENT_1: tuple[type[Schema], ...] = (ClientPing,)
FROM_CLIENT_2: tuple[type[Schema], ...] = (ClientPing, Ack, Send, ClientTyping, ClientRead)
