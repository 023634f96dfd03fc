"""The rules of who may write to whom (contract section 4), numbered as there. Pure: facts in, verdict out.

Never raises, never reads a clock or a store. The first rule that decides wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.facts import NO_RELATION, Facts
from models.requests import Request
from models.users import ACTIVE

RECALL_LIMIT_MS = 5 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Allowed:
    rule: str


@dataclass(frozen=True, slots=True)
class Refused:
    rule: str
    code: str


Verdict = Allowed | Refused


def decide(request: Request, facts: Facts) -> Verdict:
    """Decide one send on the facts of its batch."""
    if request.chat_type == "group":
        return decide_group(request, facts)
    return decide_single(request, facts)


def decide_recall(request: Request, target: Mapping[str, Any] | None, facts: Facts) -> Refused | None:
    """Decide a recall of the message whose row is `target` (ORIG 9.D). None: allowed."""
    if target is None or target["kind"] != "send" or target["verdict"] != "stored":
        return Refused("D1", "message_not_found")
    is_mine = target["sender_id"] == request.sender_id
    if target["conversation"] != request.conversation:
        return Refused("D1", "message_not_found")
    if request.chat_type == "group":
        group = facts.groups.get(request.to_id)
        if group is None or group.status != ACTIVE:
            return Refused("Q1", "group_unavailable")
        if request.sender_id not in group.active_member_ids:
            return Refused("Q2", "not_member")
        is_mine = is_mine or group.owner_id == request.sender_id
    if not is_mine:
        return Refused("D1", "message_not_found")
    if target["is_recalled"]:
        return Refused("D7", "already_recalled")
    if request.created_at_ms - target["created_at_ms"] > RECALL_LIMIT_MS:
        return Refused("D2", "recall_too_late")
    return None


def decide_single(request: Request, facts: Facts) -> Verdict:
    recipient = facts.users.get(request.to_id)
    if recipient is None or recipient.status != ACTIVE:
        return Refused("P2", "recipient_unavailable")
    if facts.relations.get((request.to_id, request.sender_id), NO_RELATION).is_friend:
        return Allowed("P6")
    return Refused("P8", "friends_only")


def decide_group(request: Request, facts: Facts) -> Verdict:
    group = facts.groups.get(request.to_id)
    if group is None or group.status != ACTIVE:
        return Refused("Q1", "group_unavailable")
    member = group.members.get(request.sender_id)
    if member is None or member.status != ACTIVE:
        return Refused("Q2", "not_member")
    return Allowed("Q")
