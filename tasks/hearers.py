"""Hearers: who would get a message if a user sent one now, by the drain's own rules, for what is told without sending."""

from __future__ import annotations

import time
from collections.abc import Sequence

from models import first_contacts
from models.database import Database
from models.facts import FactsCache
from models.requests import ChatType
from tasks import policy

_MAX_ID = 2**31 - 1  # PostgreSQL's integer


class Hearers:
    """Answers with rows that it keeps while their facts version holds. Not thread-safe: one question at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._facts = FactsCache()

    def load(self, sender_id: int, role: str, chat_type: ChatType, to_id: int) -> Sequence[int]:
        """Return the users who would get it, the sender excluded; none where he may not send.

        Raises DatabaseUnavailable.
        """
        if not 0 < to_id <= _MAX_ID:
            return ()
        return self._of_group(sender_id, to_id) if chat_type == "group" else self._of_single(sender_id, role, to_id)

    def _of_single(self, sender_id: int, role: str, to_id: int) -> Sequence[int]:
        pairs = [(sender_id, to_id), (to_id, sender_id)]
        with self._database.reading() as connection:
            facts = self._facts.load(connection, {sender_id, to_id}, pairs, set())
            single = policy.single_facts(sender_id, role, to_id, facts, None)
            if not single.theirs.is_friend:
                contact = first_contacts.load(connection, pairs[:1]).get(pairs[0])
                single = policy.single_facts(sender_id, role, to_id, facts, contact)
        return (to_id,) if isinstance(policy.decide_single(single), policy.Allowed) else ()

    def _of_group(self, sender_id: int, group_id: int) -> Sequence[int]:
        with self._database.reading() as connection:
            facts = self._facts.load(connection, {sender_id}, [], {group_id})
        speaker = policy.speaker_facts(sender_id, group_id, facts, time.time_ns() // 1_000_000)
        group = speaker.group
        if group is None or not isinstance(policy.decide_group(speaker), policy.Allowed):
            return ()
        return [user_id for user_id in group.active_member_ids if user_id != sender_id]
