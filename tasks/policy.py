"""The rules of who may write to whom (contract section 4), numbered as there. Pure: facts in, verdict out.

Never raises, never reads a clock or a store. The first rule that decides wins.
"""

from __future__ import annotations

from dataclasses import dataclass

from models.facts import NO_RELATION, Facts
from models.requests import Request
from models.users import ACTIVE


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
