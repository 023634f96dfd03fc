"""What routes answer, as marshmallow schemas: the source of the answers in OpenAPI and of the Message in AsyncAPI.

They describe and do not serialise: names, types and what may be null are exactly those that clients get. A test calls the
routes with made-up parameters and holds every answer against them.
"""

from __future__ import annotations

from typing import Any

from marshmallow import INCLUDE, RAISE, Schema, fields, validate

from models.bodies import USER_TYPES

SERVER_TYPES = ("systemNotice",)


def text(*, null: bool = False, **metadata: Any) -> fields.String:
    return fields.String(required=True, allow_none=null, metadata=metadata)


def number(*, null: bool = False, **metadata: Any) -> fields.Integer:
    return fields.Integer(required=True, allow_none=null, metadata=metadata)


def truth(**metadata: Any) -> fields.Boolean:
    return fields.Boolean(required=True, metadata=metadata)


def one_of(*choices: str, **metadata: Any) -> fields.String:
    return fields.String(required=True, validate=validate.OneOf(choices), metadata=metadata)


def many(schema: type[Schema], **metadata: Any) -> fields.List[Any]:
    return fields.List(fields.Nested(schema), required=True, metadata=metadata)


class Exact(Schema):
    """An object that has no members but those that are declared."""

    class Meta:
        unknown = RAISE


class Accepted(Exact):
    """A request that is durable and not decided yet."""

    id = text(description="the message's id")
    status = one_of("accepted")


class Message(Schema):
    """A message as one viewer sees it. Notices carry members of their own on top, such as `redirect` and `actionType`."""

    class Meta:
        unknown = INCLUDE

    id = text()
    from_avatar = text(null=True)
    from_name = text(null=True)
    from_id = fields.Raw(
        required=True,
        metadata={
            "oneOf": [{"type": "integer"}, {"type": "string"}],
            "description": "a user's id; for notices that open a page, `redirect-…`",
        },
    )
    to_id = fields.Raw(
        required=True,
        metadata={
            "oneOf": [{"type": "integer"}, {"type": "string"}],
            "description": "a user's or group's id",
        },
    )
    to_name = text(null=True)
    to_avatar = text(null=True)
    chatType = one_of("single", "group")
    type = one_of(*USER_TYPES, *SERVER_TYPES)
    data = fields.Raw(
        required=True,
        metadata={
            "oneOf": [{"type": "string"}, {"type": "object"}],
            "description": "what users send: the JSON text they gave; notices: an object {data, dataType, otherData}",
        },
    )
    options = fields.Raw(required=True, allow_none=True, metadata={"description": "decoded; any JSON value"})
    create_time = number(description="milliseconds, UTC")
    isremove = number(description="1: recalled")
    sendUUid = fields.String(metadata={"description": "uuid of the user who sent it"})
    seq = fields.Integer(metadata={"description": "place in the conversation, from 1; greetings have none"})
    clientMsgId = fields.String(metadata={"description": "where the sender gave one"})
    group = fields.Raw(
        allow_none=True,
        metadata={
            "type": "object",
            "description": "slim summary of the group: id, uuid, user_id, name, avatar, remark, invite_confirm, member_count",
        },
    )


class DeliveryState(Exact):
    """How far a message has come on one device of a recipient; `device` is null where he has none yet."""

    user_id = number()
    device = text(null=True)
    state = one_of("stored", "pushed", "acknowledged")
    at = number(description="milliseconds, UTC")


class MessageState(Exact):
    """What became of a message, for its sender."""

    id = text()
    status = one_of("accepted", "stored", "delivered", "refused")
    code = fields.String(metadata={"description": "why, where it was refused"})
    seq = fields.Integer(allow_none=True, metadata={"description": "place in the conversation, once it is stored"})
    recipients = many(DeliveryState)


class Hop(Exact):
    """One step of a message. Those on the way to a recipient name him, and the device where it is about one."""

    at = number(description="milliseconds, UTC; docs/protocol.md says where it is a bound")
    hop = one_of("accepted", "decided", "stored", "pushed", "acknowledged")
    user_id = fields.Integer(metadata={"description": "a recipient"})
    device = fields.String(metadata={"description": "a device of his"})


class Trace(Exact):
    """The way of a message, by time."""

    id = text()
    hops = many(Hop)


class Messages(Exact):
    """A page of messages."""

    messages = many(Message)
    more = truth(description="whether there are further ones in the direction of the page")


class ConversationEntry(Exact):
    """One conversation of the caller."""

    chatType = one_of("single", "group")
    peer_id = number()
    name = text()
    avatar = text()
    last = fields.Nested(Message, required=True, allow_none=True)
    seq = number()
    read_seq = number(description="0 before anything was read")
    unread = number()


class Conversations(Exact):
    """The caller's conversations, newest first."""

    conversations = many(ConversationEntry)


class ForwardResult(Exact):
    """What became of a forwarded message at one target: `id` where it was accepted, `code` where it was refused."""

    chatType = one_of("single", "group")
    sendto_id = number()
    ok = truth()
    id = fields.String(metadata={"description": "id of the new message"})
    code = fields.String(metadata={"description": "as a send is refused"})


class Forwarded(Exact):
    """One result per target, in the order asked."""

    results = many(ForwardResult)


class MessageRequest(Exact):
    """A stranger's first message that the caller has not answered."""

    user_id = number()
    name = text()
    avatar = text()
    message = fields.Nested(Message, required=True)
    at = number(description="milliseconds, UTC")


class MessageRequests(Exact):
    """Message requests that wait for an answer."""

    requests = many(MessageRequest)


class Explanation(Exact):
    """What the policy would say to a send."""

    allowed = truth()
    rule = text(description="the deciding rule, such as P9")
    code = text(null=True)
    text = text(null=True)
    would_allow = fields.List(fields.String(), required=True, metadata={"description": "what would make it allowed"})


class Health(Exact):
    """The web process that answered."""

    process = text()


class Readiness(Exact):
    """Whether each part that a send needs answers."""

    database = truth()
    redis = truth()
    listener = truth()
    worker = truth()
