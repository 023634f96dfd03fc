"""Bodies: the Message as clients see it (contract section 4, ORIG 2.2), built from facts and encoded per viewer."""

from __future__ import annotations

from typing import Any

import orjson

from models.facts import GroupFacts, MemberFacts, UserFacts
from models.requests import Request

Message = dict[str, Any]

USER_TYPES = ("text", "iconMenus", "image", "audio", "video", "file", "location", "card")


def single_message(request: Request, seq: int, sender: UserFacts, recipient: UserFacts) -> Message:
    """Build a one-to-one Message with public names; `encode` personalises them."""
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
            "member_count": len(group.members),
        },
    }
    return message


def encode(message: Message, *, from_name: str | None = None, to_name: str | None = None) -> bytes:
    """Encode a Message for one viewer: `from_name` and `to_name` are the private remarks he wrote, where he did (C19)."""
    if from_name or to_name:
        message = message | {
            "from_name": from_name or message["from_name"],
            "to_name": to_name or message["to_name"],
        }
    return orjson.dumps(message)


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
