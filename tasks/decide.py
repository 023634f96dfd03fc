"""Gather, decide, commit: turn the requests of a batch into decision rows in SQL. From the commit on, only they count.

Everything here may be repeated: a request that has a row keeps it, whoever asks and however often.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from models import audiences, bodies, first_contacts, messages, questions, shards
from models.database import Database
from models.errors import AlreadyDecided, DatabaseUnavailable, FactsChanged, ModelError
from models.facts import NO_RELATION, Facts, FactsCache
from models.requests import Request
from tasks import policy

_MAX_CACHED_SEQS = 100_000
_MAX_TRIES = 5
_NO_FACTS = Facts(users={}, relations={}, groups={})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What stands for one request.

    row: the decision row's columns; None where the request is a conflict, which has none, or is given up though it was
    decided before. body, sender_body: the Message as recipients and as the sender see it, empty when refused.
    recipient_ids: whose inboxes get it besides the sender's. target: for a recall, the recalled message's row and what is
    left of it for recipients and for its sender.
    """

    request: Request
    code: str | None
    row: Mapping[str, Any] | None = None
    body: bytes = b""
    sender_body: bytes = b""
    recipient_ids: Sequence[int] = ()
    target: tuple[Mapping[str, Any], bytes, bytes] | None = None


class Decider:
    """Decides for the shards whose fence the drain holds. Keeps what it has read while it is certain to be current."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache = FactsCache()
        self._last_seqs: dict[str, int] = {}  # valid while we hold the fence of the conversation's shard
        self._audiences: set[tuple[int, int]] = set()  # (group, facts version) that stand in SQL
        self.has_questions = False  # whether messages were stored that ask for an automatic answer

    def forget_order(self) -> None:
        """Forget what other drains may have changed: call it when a fence was drawn or lost."""
        self._last_seqs.clear()

    def gather(self, requests: Sequence[Request], *, anew: bool = False) -> Facts:
        """Return all facts the requests' verdicts depend on, as they were read last. Raises DatabaseUnavailable.

        anew: read what has changed since; the commit says where that is needed
        """
        users: set[int] = set()
        pairs: set[tuple[int, int]] = set()
        groups: set[int] = set()
        for request in requests:
            users.add(request.sender_id)
            if request.chat_type == "group":
                groups.add(request.to_id)
            else:
                users.add(request.to_id)
                pairs.add((request.sender_id, request.to_id))
                pairs.add((request.to_id, request.sender_id))
        recalled = None if anew else self._cache.recall(users, pairs, groups)
        if recalled is not None:
            return recalled
        with self._database.reading() as connection:
            return self._cache.load(connection, users, pairs, groups)

    def decide(
        self, batch: Mapping[int, Sequence[Request]], fences: Mapping[int, int], facts: Facts
    ) -> dict[int, list[Outcome]]:
        """Decide and commit. Returns the outcomes per shard, in the order of the requests.

        Raises FenceLost, DatabaseUnavailable.
        """
        requests = [request for shard_requests in batch.values() for request in shard_requests]
        standing: dict[str, Any] = {}
        met: ModelError | None = None
        for _ in range(_MAX_TRIES):
            recalled: Mapping[str, Any] = {}
            contacts: Mapping[tuple[int, int], str] = {}
            unordered = self._unordered(requests)
            targets = [request.data for request in requests if request.kind == "recall"]
            strangers = _strangers(requests, facts)
            if unordered or targets or strangers:
                with self._database.reading() as connection:
                    self._last_seqs.update(messages.load_last_seqs(connection, unordered) if unordered else {})
                    recalled = messages.load_decisions(connection, targets) if targets else {}
                    contacts = first_contacts.load(connection, strangers) if strangers else {}
            try:
                return _Decision(self, batch, fences, facts, standing, recalled, contacts).commit()
            except FactsChanged as changed:
                met = changed
                facts = self.gather(requests, anew=True)
            except AlreadyDecided as stands:
                # A redo after a crash, or a client's repeat: what stands in SQL counts, the rest is decided again.
                met = stands
                self.forget_order()
                with self._database.reading() as connection:
                    standing = messages.load_decisions(connection, [request.id for request in requests])
        # Somebody else is always first. The batch waits, as it does for any other trouble with the database.
        raise DatabaseUnavailable(f"a batch of {len(requests)} was overtaken {_MAX_TRIES} times in a row") from met

    def give_up(self, shard: int, request: Request, fence: int) -> Outcome:
        """Refuse a request that fails whatever is tried, unless it was decided before. Raises FenceLost."""
        try:
            return _Decision(self, {shard: [request]}, {shard: fence}, _NO_FACTS, {}, {}, {}).give_up()
        except AlreadyDecided:
            # It stands, so it has a verdict that the sender gets when he asks; only applying it fails.
            return Outcome(replace(request, reply_to=None), "internal_error")

    def _unordered(self, requests: Sequence[Request]) -> list[str]:
        """Return the conversations whose newest `seq` we do not know."""
        if len(self._last_seqs) > _MAX_CACHED_SEQS:
            self._last_seqs.clear()
        return list({request.conversation for request in requests} - self._last_seqs.keys())


class _Decision:
    """One try to decide a batch: everything it changes is new, so that a failed try leaves nothing behind."""

    def __init__(
        self,
        decider: Decider,
        batch: Mapping[int, Sequence[Request]],
        fences: Mapping[int, int],
        facts: Facts,
        standing: Mapping[str, Any],
        recalled: Mapping[str, Any],
        contacts: Mapping[tuple[int, int], str],
    ) -> None:
        self._decider = decider
        self._batch = batch
        self._fences = fences
        self._facts = facts
        self._standing = standing
        self._recalled = recalled
        self._contacts = contacts
        self._now_ms = time.time_ns() // 1_000_000
        self._rows: list[dict[str, Any]] = []
        self._outcomes: dict[str, Outcome] = {}  # by request id
        self._seqs: dict[str, int] = {}
        self._first_contacts: dict[tuple[int, int], Request] = {}  # made in this batch
        self._left: dict[str, tuple[bytes, bytes]] = {}  # by id of what this batch recalls: what is left of it
        self._questions: list[Request] = []  # stored in this batch, for their recipients' automatic answers

    def commit(self) -> dict[int, list[Outcome]]:
        decided = {shard: [self._outcome(shard, r) for r in requests] for shard, requests in self._batch.items()}
        if self._rows:
            self._insert()
        return {shard: [self._as_left(outcome) for outcome in outcomes] for shard, outcomes in decided.items()}

    def _as_left(self, outcome: Outcome) -> Outcome:
        """Give a message that its own batch recalls as what is left of it: nobody is shown it in full any more."""
        left = self._left.get(outcome.request.id) if outcome.code is None else None
        return replace(outcome, body=left[0], sender_body=left[1]) if left else outcome

    def give_up(self) -> Outcome:
        ((shard, (request,)),) = self._batch.items()
        outcome = self._refused(shard, request, "internal_error")
        self._insert()
        return outcome

    def _insert(self) -> None:
        counts = Counter(row["shard"] for row in self._rows)
        spoken = {(row["group_id"], row["audience_version"]) for row in self._rows if row["audience_version"]}
        new_audiences = spoken - self._decider._audiences
        with self._decider._database.writing(sync=False) as connection:  # whoever applies it syncs
            taken = shards.take_positions(connection, {s: (self._fences[s], n) for s, n in sorted(counts.items())})
            for row in self._rows:
                taken[row["shard"]] += 1
                row["shard_seq"] = taken[row["shard"]]
            if not self._decider._cache.still_hold(connection, self._facts):
                raise FactsChanged
            for group_id, version in new_audiences:
                audiences.record(connection, group_id, version, self._facts.groups[group_id].active_member_ids)
            messages.insert_decisions(connection, self._rows)
            if self._questions:
                questions.note(connection, self._questions)
            if self._first_contacts:
                first_contacts.record(connection, [_contact(r) for r in self._first_contacts.values()])
            for outcome in self._outcomes.values():
                if outcome.target is not None and outcome.code is None:
                    target, body, sender_body = outcome.target
                    own = sender_body.decode() if sender_body != body else None
                    messages.tombstone(connection, target["id"], body.decode(), own)
        self._decider._last_seqs.update(self._seqs)
        self._decider._audiences |= new_audiences
        self._decider.has_questions = self._decider.has_questions or bool(self._questions)

    def _outcome(self, shard: int, request: Request) -> Outcome:
        first = self._outcomes.get(request.id)
        if first is None and request.id in self._standing:
            first = self._standing_outcome(self._standing[request.id], request)
        if first is not None:
            self._outcomes.setdefault(request.id, first)
            return _repeat(first, request)
        outcome = self._decide(shard, request)
        self._outcomes[request.id] = outcome
        return outcome

    def _decide(self, shard: int, request: Request) -> Outcome:
        if request.kind == "recall":
            return self._decide_recall(shard, request)
        if request.kind == "notice":
            return self._tell_notice(shard, request)
        verdict = self._verdict(request)
        sender = self._facts.users.get(request.sender_id)
        if isinstance(verdict, policy.Refused) or sender is None:
            return self._refused(
                shard, request, verdict.code if isinstance(verdict, policy.Refused) else "user_disabled"
            )
        if verdict.is_first_contact:
            self._first_contacts[request.sender_id, request.to_id] = request
        seq = self._next_seq(request.conversation)
        if request.chat_type == "group":
            group = self._facts.groups[request.to_id]
            body = bodies.encode(bodies.group_message(request, seq, sender, group, group.members[request.sender_id]))
            return self._stored(shard, request, seq, body, body)
        if questions.is_asked(request):
            self._questions.append(request)
        message = bodies.single_message(request, seq, sender, self._facts.users[request.to_id])
        remark_of = self._facts.relations
        from_name = remark_of.get((request.to_id, request.sender_id), NO_RELATION).remark
        to_name = remark_of.get((request.sender_id, request.to_id), NO_RELATION).remark
        body = bodies.encode(bodies.personalised(message, from_name=from_name))
        sender_body = bodies.encode(bodies.personalised(message, to_name=to_name)) if from_name or to_name else body
        return self._stored(shard, request, seq, body, sender_body)

    def _verdict(self, request: Request) -> policy.Verdict:
        if request.chat_type == "group":
            return policy.decide_group(
                policy.speaker_facts(request.sender_id, request.to_id, self._facts, self._now_ms)
            )
        pair = (request.sender_id, request.to_id)
        contact = "open" if pair in self._first_contacts else self._contacts.get(pair)
        return policy.decide_single(
            policy.single_facts(request.sender_id, request.role, request.to_id, self._facts, contact)
        )

    def _tell_notice(self, shard: int, request: Request) -> Outcome:
        notice = orjson.loads(request.data)
        seq = self._next_seq(request.conversation)
        body = bodies.encode(bodies.notice_message(request, seq, notice["message"]))
        own = notice["for_sender"]
        sender_body = bodies.encode(bodies.notice_message(request, seq, own)) if own else body
        return self._stored(shard, request, seq, body, sender_body, is_to_sender=notice["is_to_sender"])

    def _decide_recall(self, shard: int, request: Request) -> Outcome:
        target = self._recall_target(request)
        recaller = self._facts.users.get(request.sender_id)
        refusal = policy.decide_recall(request, target, self._facts)
        if refusal is not None or target is None or recaller is None:
            return self._refused(shard, request, refusal.code if refusal else "user_disabled")
        is_group = request.chat_type == "group"
        name = recaller.public_name
        if is_group:
            member = self._facts.groups[request.to_id].members.get(request.sender_id)
            name = (member.nickname if member else "") or name
        views = (target["body"], target["body_for_sender"] or target["body"])
        seen = [orjson.loads(view) for view in views]
        told = [bodies.encode(bodies.recall_message(m, name, self._now_ms, is_group=is_group)) for m in seen]
        left = [bodies.encode(bodies.tombstone_message(m)) for m in seen]
        self._left[request.data] = (left[0], left[1])
        return replace(self._stored(shard, request, None, told[0], told[1]), target=(target, left[0], left[1]))

    def _recall_target(self, request: Request) -> Mapping[str, Any] | None:
        """Return the row of the message to recall, which may stand in this very batch."""
        in_batch, stands = self._outcomes.get(request.data), self._recalled.get(request.data)
        row = in_batch.row if in_batch is not None else stands._mapping if stands is not None else None
        return {**row, "is_recalled": True} if row is not None and request.data in self._left else row

    def _next_seq(self, conversation: str) -> int:
        seq = self._seqs.get(conversation, self._decider._last_seqs.get(conversation, 0)) + 1
        self._seqs[conversation] = seq
        return seq

    def _refused(self, shard: int, request: Request, code: str) -> Outcome:
        return Outcome(request, code, self._row(shard, request, verdict=messages.REFUSED, code=code))

    def _stored(
        self,
        shard: int,
        request: Request,
        seq: int | None,
        body: bytes,
        sender_body: bytes,
        *,
        is_to_sender: bool = True,
    ) -> Outcome:
        group = self._facts.groups[request.to_id] if request.chat_type == "group" else None
        row = self._row(
            shard,
            request,
            verdict=messages.STORED,
            seq=seq,
            body=body.decode(),
            body_for_sender=sender_body.decode() if sender_body is not body and sender_body != body else None,
            audience_version=group.facts_version if group else None,
            is_to_sender=is_to_sender,
        )
        members = group.active_member_ids if group else (request.to_id,)
        recipient_ids = [user_id for user_id in members if user_id != request.sender_id]
        return Outcome(request, None, row, body, sender_body, recipient_ids)

    def _row(self, shard: int, request: Request, **columns: Any) -> dict[str, Any]:
        is_group = request.chat_type == "group"
        row = {
            "id": request.id,
            "conversation": request.conversation,
            "seq": None,
            "shard": shard,
            "shard_seq": 0,  # given under the fence
            "kind": request.kind,
            "code": None,
            "sender_id": request.sender_id,
            "device": request.device,
            "recipient_id": None if is_group else request.to_id,
            "group_id": request.to_id if is_group else None,
            "audience_version": None,
            "target_id": request.data if request.kind == "recall" else None,
            "is_recalled": False,
            "is_to_sender": True,
            "content_hash": request.content_hash(),
            "body": None,
            "body_for_sender": None,
            "created_at_ms": request.created_at_ms,
            "decided_at_ms": self._now_ms,
            **columns,
        }
        self._rows.append(row)
        return row

    def _standing_outcome(self, standing: Any, request: Request) -> Outcome:
        """Rebuild the outcome of a request that was decided before."""
        row = standing._mapping
        if row["verdict"] == messages.REFUSED:
            return Outcome(request, row["code"], row)
        body = row["body"].encode()
        sender_body = row["body_for_sender"].encode() if row["body_for_sender"] else body
        if row["group_id"] is None:
            recipient_ids = [row["recipient_id"]]
        else:
            with self._decider._database.reading() as connection:
                members = audiences.load(connection, row["group_id"], row["audience_version"])
            recipient_ids = [user_id for user_id in members if user_id != row["sender_id"]]
        target = None
        if row["kind"] == "recall":
            original = self._recalled[row["target_id"]]._mapping
            left = original["body"].encode()
            own = original["body_for_sender"].encode() if original["body_for_sender"] else left
            target = (original, left, own)
        return Outcome(request, None, row, body, sender_body, recipient_ids, target)


def _strangers(requests: Sequence[Request], facts: Facts) -> list[tuple[int, int]]:
    """Return the (sender, recipient) pairs of those sends whose verdict may depend on a first contact."""
    pairs = {(r.sender_id, r.to_id) for r in requests if r.kind == "send" and r.chat_type == "single"}
    return [pair for pair in pairs if not facts.relations.get(pair[::-1], NO_RELATION).is_friend]


def _contact(request: Request) -> dict[str, Any]:
    return {
        "sender_id": request.sender_id,
        "recipient_id": request.to_id,
        "message_id": request.id,
        "state": "open",
        "created_at_ms": request.created_at_ms,
    }


def _repeat(first: Outcome, request: Request) -> Outcome:
    """Answer a repeat with what stands; the same id with other content is a conflict and changes nothing."""
    if first.row is None or first.row["content_hash"] != request.content_hash():
        return Outcome(request, "idempotency_conflict")
    return Outcome(request, first.code, first.row, first.body, first.sender_body, first.recipient_ids, first.target)
