"""The rules of who may write to whom (contract section 4), numbered as there. Pure: facts in, verdict out.

Never raises, never reads a clock or a store. The first rule that decides wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.facts import NO_RELATION, Facts, GroupFacts, MemberFacts, RelationFacts, UserFacts
from models.groups import MUTED, PENDING, UNTIL_LIFTED
from models.requests import Request
from models.users import ACTIVE
from tasks.chat_settings import NONE, ONE, stranger_rule

RECALL_LIMIT_MS = 5 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Allowed:
    rule: str
    is_first_contact: bool = False  # P9, P10: to be recorded with the message, or the message is not allowed


@dataclass(frozen=True, slots=True)
class Refused:
    rule: str
    code: str


Verdict = Allowed | Refused


@dataclass(frozen=True, slots=True)
class SingleFacts:
    """Everything a one-to-one verdict depends on."""

    role: str  # the sender's session role (C8)
    is_self: bool
    recipient: UserFacts | None
    theirs: RelationFacts  # what the recipient holds about the sender
    mine: RelationFacts  # what the sender holds about the recipient
    contact: str | None  # state of the first contact sender -> recipient, None where there was none


@dataclass(frozen=True, slots=True)
class SpeakerFacts:
    """Everything a group verdict depends on."""

    group: GroupFacts | None
    member: MemberFacts | None
    is_owner: bool
    now_ms: int


def decide_single(facts: SingleFacts) -> Verdict:
    if facts.is_self:
        return Refused("P1", "self")
    recipient = facts.recipient
    if recipient is None or recipient.status != ACTIVE:
        return Refused("P2", "recipient_unavailable")
    if facts.theirs.is_blocked:
        return Refused("P3", "blocked_by_recipient")
    if not (facts.theirs.is_enabled and facts.mine.is_enabled):
        return Refused("P4", "relation_disabled")
    if facts.mine.is_blocked:
        return Refused("P5", "blocked_by_sender")
    if facts.theirs.is_friend:
        return Allowed("P6")
    rule = stranger_rule(recipient.userset, facts.role)
    if rule.need_follow and not facts.mine.is_following:
        return Refused("P7", "follow_required")
    if rule.send_count == NONE:
        return Refused("P8", "friends_only")
    if rule.send_count == ONE:
        if facts.contact is None:
            return Allowed("P9", is_first_contact=True)
        return Allowed("P9") if facts.contact == "accepted" else Refused("P9", "stranger_limit")
    # Recorded here too: a limit that is set later counts the messages of before.
    return Allowed("P10", is_first_contact=facts.contact is None)


def decide_group(facts: SpeakerFacts) -> Verdict:
    group, member = facts.group, facts.member
    if group is None or group.status != ACTIVE:
        return Refused("Q1", "group_unavailable")
    if member is None or member.status not in (ACTIVE, MUTED, PENDING):
        return Refused("Q2", "not_member")
    if member.status == PENDING:
        return Refused("Q3", "membership_pending")
    if member.status == MUTED or is_muted(member.muted_until_ms, facts.now_ms):
        return Refused("Q4", "muted")
    if is_muted(group.muted_until_ms, facts.now_ms) and not facts.is_owner:
        return Refused("Q5", "group_muted")
    return Allowed("Q5")


def is_muted(until_ms: int, now_ms: int) -> bool:
    return until_ms == UNTIL_LIFTED or until_ms > now_ms


def single_facts(sender_id: int, role: str, to_id: int, facts: Facts, contact: str | None) -> SingleFacts:
    """Pick the facts of one send from those of its batch."""
    return SingleFacts(
        role=role,
        is_self=to_id == sender_id,
        recipient=facts.users.get(to_id),
        theirs=facts.relations.get((to_id, sender_id), NO_RELATION),
        mine=facts.relations.get((sender_id, to_id), NO_RELATION),
        contact=contact,
    )


def speaker_facts(sender_id: int, group_id: int, facts: Facts, now_ms: int) -> SpeakerFacts:
    """Pick the facts of one group send from those of its batch."""
    group = facts.groups.get(group_id)
    return SpeakerFacts(
        group=group,
        member=group.members.get(sender_id) if group else None,
        is_owner=group is not None and group.owner_id == sender_id,
        now_ms=now_ms,
    )


def decide_recall(request: Request, target: Mapping[str, Any] | None, facts: Facts) -> Refused | None:
    """Decide a recall of the message whose row is `target` (ORIG 6.5 and 9.D). None: allowed."""
    group = facts.groups.get(request.to_id) if request.chat_type == "group" else None
    if request.chat_type == "group":
        if group is None or group.status != ACTIVE:
            return Refused("Q1", "group_not_found")
        if request.sender_id not in group.active_member_ids:
            return Refused("Q2", "not_in_group")
    if target is None or target["kind"] != "send" or target["verdict"] != "stored":
        return Refused("D1", "message_not_found")
    is_mine = target["sender_id"] == request.sender_id or (group is not None and group.owner_id == request.sender_id)
    if target["conversation"] != request.conversation or not is_mine:
        return Refused("D1", "message_not_found")
    if target["is_recalled"]:
        return Refused("D7", "already_recalled")
    if request.created_at_ms - target["created_at_ms"] > RECALL_LIMIT_MS:
        return Refused("D2", "recall_too_late")
    return None
