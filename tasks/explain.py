"""Why a send would be allowed or refused, without sending: the drain's own rules on the facts as they are now."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from models import first_contacts
from models.database import Database
from models.facts import FactsCache
from models.requests import ChatType
from tasks import policy

# What would have to change, in the words of the answer's `would_allow`, for the rule that refuses.
WOULD_ALLOW = {
    "P3": ("recipient_unblocks",),
    "P4": ("administrator_enables",),
    "P5": ("unblock",),
    "P7": ("follow", "become_friends"),
    "P8": ("become_friends",),
    "P9": ("become_friends", "request_accepted"),
    "Q2": ("join_group",),
    "Q3": ("owner_approves",),
    "Q4": ("owner_unmutes",),
    "Q5": ("owner_unmutes_group",),
}


@dataclass(frozen=True, slots=True)
class Explanation:
    rule: str
    code: str | None  # None: allowed
    would_allow: Sequence[str]


def explain(database: Database, sender_id: int, role: str, chat_type: ChatType, to_id: int) -> Explanation:
    """Decide as a drain would now. Raises DatabaseUnavailable."""
    is_group = chat_type == "group"
    users, groups = ({sender_id}, {to_id}) if is_group else ({sender_id, to_id}, set())
    pairs = [] if is_group else [(sender_id, to_id), (to_id, sender_id)]
    with database.reading() as connection:
        facts = FactsCache().load(connection, users, pairs, groups)
        contacts = {} if is_group else first_contacts.load(connection, [(sender_id, to_id)])
    if is_group:
        verdict = policy.decide_group(policy.speaker_facts(sender_id, to_id, facts, time.time_ns() // 1_000_000))
    else:
        contact = contacts.get((sender_id, to_id))
        verdict = policy.decide_single(policy.single_facts(sender_id, role, to_id, facts, contact))
    if isinstance(verdict, policy.Refused):
        return Explanation(verdict.rule, verdict.code, WOULD_ALLOW.get(verdict.rule, ()))
    return Explanation(verdict.rule, None, ())
