"""Bodies: the Message as clients see it (contract section 4, ORIG 2.2), built from facts and encoded per viewer."""

from __future__ import annotations

from typing import Any

import orjson

from models.facts import GroupFacts, MemberFacts, UserFacts
from models.requests import Request

Message = dict[str, Any]

# The legacy client parses `data` of a user's message as JSON.
_NOTHING = '{"data":"","dataType":false,"otherData":null}'
_QUOTE = ord('"')
_GROUP_RECALL_END = b'"actionType":"revoke"}'

USER_TYPES = ("text", "iconMenus", "image", "audio", "video", "file", "location", "card")


def single_message(request: Request, seq: int, sender: UserFacts, recipient: UserFacts) -> Message:
    """Build a one-to-one Message with public names."""
    message = _common(request, seq, sender)
    message |= {
        "from_avatar": sender.avatar,
        "from_name": sender.public_name,
        "to_name": recipient.public_name,
        "to_avatar": recipient.avatar,
    }
    return message


def group_message(request: Request, seq: int, sender: UserFacts, group: GroupFacts, member: MemberFacts) -> Message:
    """Build a group Message: the sender as he appears in the group, the group as its slim summary (B20)."""
    message = _common(request, seq, sender)
    message |= {
        "from_avatar": member.avatar or sender.avatar,
        "from_name": member.nickname or sender.public_name,
        "to_name": group.name,
        "to_avatar": group.avatar,
        "group": {
            "id": group.id,
            "uuid": group.uuid,
            "user_id": group.owner_id,
            "name": group.name,
            "avatar": group.avatar,
            "remark": group.remark,
            "invite_confirm": group.invite_confirm,
            "member_count": len(group.active_member_ids),
        },
    }
    return message


def notice_message(request: Request, seq: int, fields: Message) -> Message:
    """Build a system notice from the fields it was queued with.

    What one person alone is told as if somebody said it stands nowhere in the order of their conversation, or of the group
    it is about, so it shows no `seq`.
    """
    fixed = {"id": request.id, "create_time": request.created_at_ms, "isremove": 0}
    is_aside = request.conversation.startswith("system:") and isinstance(fields.get("from_id"), int)
    return {"id": None, **fields, **fixed, **({} if is_aside else {"seq": seq})}


def recall_message(target: Message, recaller_name: str, now_ms: int, *, is_group: bool) -> Message:
    """Build what tells a recall: the recalled message's id and seq, type `systemNotice` (ORIG 7.3)."""
    text = f"{recaller_name}{' ' if is_group else ''}撤回了一条消息"
    return target | {
        "type": "systemNotice",
        "actionType": "revoke",
        "data": {"data": text, "dataType": False, "otherData": None},
        "options": {},
        "create_time": now_ms,
        "isremove": 0,
        "group": None,
    }


def tombstone_message(target: Message) -> Message:
    """Build what is left of a recalled message: who, when and where, without what it said."""
    return target | {"data": _NOTHING, "options": None, "isremove": 1}


def personalised(message: Message, *, from_name: str = "", to_name: str = "") -> Message:
    """Show a Message to one viewer under the private remarks he wrote, where he did (C19)."""
    if not from_name and not to_name:
        return message
    names = {"from_name": from_name or message["from_name"], "to_name": to_name or message["to_name"]}
    return message | names


def encode(message: Message) -> bytes:
    return orjson.dumps(message)


def sender_and_seq(body: bytes) -> tuple[int, int] | None:
    """Return who sent an encoded one-to-one message of a user, and its seq; None for every other Message.

    Not parsed, since every entry that a socket is written is asked: that would take 2 to 20 µs where this takes one.
    """
    # `_common` builds them in this order, and nothing follows the number of the client. A group's Message goes on with its
    # group, a recall with what it does, and of a notice `seq` follows no text. Quotes inside of texts are escaped, so no name
    # can stand in one.
    last = body[-2:-1]
    if last != b'"' and not last.isdigit():
        return None
    tail = body.find(b',"seq":', body.rfind(b'"sendUUid":"')) + 7
    if tail < 8 or body[tail - 8] != _QUOTE:
        return None
    if last == b'"':
        seq, _, rest = body[tail : tail + 32].partition(b",")
        # A recall in a group ends in a text as well: its `seq` is the group's.
        if not rest.startswith(b'"clientMsgId":') or body.endswith(_GROUP_RECALL_END):
            return None
    else:
        seq = body[tail:-1]
    sender = body.find(b'"from_id":') + 10
    sender_id = body[sender : body.find(b",", sender)]
    return (int(sender_id), int(seq)) if sender > 9 and sender_id.isdigit() and seq.isdigit() else None


def _common(request: Request, seq: int, sender: UserFacts) -> Message:
    # Keys in ORIG's order; those set by the callers are placed here so that they keep their position.
    message: Message = {
        "id": request.id,
        "from_avatar": None,
        "from_name": None,
        "from_id": request.sender_id,
        "to_id": request.to_id,
        "to_name": None,
        "to_avatar": None,
        "chatType": request.chat_type,
        "type": request.type,
        "data": request.data,
        "options": request.options,
        "create_time": request.created_at_ms,
        "isremove": 0,
        "sendUUid": sender.uuid,
        "seq": seq,
    }
    if request.client_msg_id is not None:
        message["clientMsgId"] = request.client_msg_id
    return message
