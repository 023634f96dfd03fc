"""The drain: reads what was accepted, decides it, commits, applies it to Redis and tells the web processes.

One batch is five visible steps: read, gather, decide and commit, apply, publish and pop. Every step may be repeated after
a crash: decisions stand once in SQL, Redis ignores positions it has applied, and only then does the batch leave the
outbox (architecture section 2, decision 0002).
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog

from models import bodies, messages, shards
from models.database import Database
from models.errors import AlreadyDecided, FenceLost, StoreUnavailable
from models.facts import NO_RELATION, Facts, FactsCache
from models.requests import Request, decode
from models.store import bus, inbox, outbox, presence
from models.store.connection import Client, run
from settings import Settings
from tasks import policy
from tasks.rebuild import load_inbox

log = structlog.get_logger()

_APPLY_CHUNK = 400  # appends per round trip: about 5 ms of Redis's time, in which nobody else is served
_MAX_CACHED_SEQS = 100_000


@dataclass(slots=True)
class Decision:
    """One request with what stands for it in SQL. `row` is None only for a reply that must not be applied (conflict)."""

    request: Request
    code: str | None
    row: Mapping[str, Any] | None
    sender_body: bytes = b""
    recipient_body: bytes = b""


@dataclass(slots=True)
class Head:
    """What was read from the head of one shard: raw entries, and the requests in them."""

    raw: list[bytes]
    requests: list[Request]


@dataclass(slots=True)
class _News:
    """Publications under way, one per web process."""

    by_process: dict[str, bus.Publication] = field(default_factory=dict)

    def of(self, process_id: str) -> bus.Publication:
        return self.by_process.setdefault(process_id, bus.Publication())


class Drain:
    """One per worker process. `run` is the body of the Celery task."""

    def __init__(self, settings: Settings, database: Database, client: Client) -> None:
        self._settings = settings
        self._database = database
        self._client = client
        self._facts = FactsCache()
        self._shards = list(range(settings.outbox_shards))
        self._lease_ms = int(settings.drain_lease_seconds * 1000)
        self._token = ""
        self._fences: dict[int, int] = {}  # shard -> our fence, for the shards whose lease is ours
        self._renew_at = 0.0
        self._last_seqs: dict[str, int] = {}  # valid while we hold the fence of the conversation's shard
        self._counts: Counter[str] = Counter()

    def run(self) -> dict[str, int]:
        """Serve the outbox until it stays empty for the linger time, or the longest stay is over.

        Returns {decided, refused, batches}. Raises StoreUnavailable, DatabaseUnavailable: what was not popped stays.
        """
        self._token, self._fences, self._last_seqs, self._counts = uuid.uuid4().hex, {}, {}, Counter()
        leave_at = time.monotonic() + self._settings.drain_max_seconds
        doorbell = outbox.Doorbell(self._client)
        try:
            doorbell.listen()
            outbox.answer_bell(self._client)
            while True:
                batch = self._read()
                if batch:
                    self._settle(batch)
                left = leave_at - time.monotonic()
                if left <= 0:
                    break
                # Having served nobody, a drain leaves at once: it was a bell too many.
                if not batch and not (self._counts and doorbell.wait(min(left, self._settings.drain_linger_seconds))):
                    break
        finally:
            doorbell.close()
            self._release()
        return {name: self._counts[name] for name in ("decided", "refused", "batches")}

    def is_needed(self) -> bool:
        """Return whether something waits and nobody is there. A drain that has left asks: it may have missed a ring."""
        return outbox.needs_bell(self._client, self._shards)

    # Read

    def _read(self) -> dict[int, Head]:
        self._renew_leases()
        self._take_free_shards()
        if not self._fences:
            return {}
        heads = outbox.read_heads(self._client, list(self._fences), self._settings.drain_batch_requests)
        return {shard: Head(raw, [decode(entry) for entry in raw]) for shard, raw in heads.items() if raw}

    def _renew_leases(self) -> None:
        if self._fences and time.monotonic() >= self._renew_at:
            kept = outbox.take_leases(self._client, list(self._fences), self._token, self._lease_ms)
            self._drop_shards(set(self._fences) - set(kept))
            self._renew_at = time.monotonic() + self._settings.drain_lease_seconds / 4

    def _take_free_shards(self) -> None:
        others = [shard for shard in self._shards if shard not in self._fences]
        if not others:
            return
        waiting = [shard for shard, count in outbox.count_waiting(self._client, others).items() if count]
        if not waiting:
            return
        taken = outbox.take_leases(self._client, waiting, self._token, self._lease_ms)
        if taken:
            with self._database.writing() as connection:
                self._fences.update((shard, shards.draw_fence(connection, shard)) for shard in taken)
            self._renew_at = min(self._renew_at, time.monotonic() + self._settings.drain_lease_seconds / 4)

    def _drop_shards(self, lost: Iterable[int]) -> None:
        for shard in lost:
            self._fences.pop(shard, None)
            # Another drain decides there now, so what we remember of its conversations is no longer the newest.
            self._last_seqs.clear()

    def _release(self) -> None:
        if self._fences:
            outbox.release_leases(self._client, list(self._fences), self._token)
        self._fences = {}

    # Settle: gather, decide and commit, apply, publish and pop

    def _settle(self, batch: dict[int, Head]) -> None:
        started = time.monotonic()
        try:
            decisions = self._decide_and_commit(batch)
        except FenceLost as lost:
            self._drop_shards(lost.shards)
            return
        news = _News()
        self._apply(decisions, news)
        self._publish_and_pop(batch, news)
        self._count(decisions, started)

    def _decide_and_commit(self, batch: dict[int, Head]) -> list[Decision]:
        requests = [request for head in batch.values() for request in head.requests]
        standing: dict[str, Any] = {}
        while True:
            facts = self._gather(requests)
            try:
                return self._commit(batch, facts, standing)
            except AlreadyDecided:
                # A redo after a crash, or a client's repeat: what stands in SQL counts, the rest is decided again.
                self._last_seqs.clear()
                with self._database.reading() as connection:
                    standing = messages.load_decisions(connection, [request.id for request in requests])

    def _gather(self, requests: Sequence[Request]) -> Facts:
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
        unknown = list({request.conversation for request in requests} - self._last_seqs.keys())
        with self._database.reading() as connection:
            if len(self._last_seqs) > _MAX_CACHED_SEQS:
                self._last_seqs.clear()
                unknown = list({request.conversation for request in requests})
            if unknown:
                self._last_seqs.update(messages.load_last_seqs(connection, unknown))
            return self._facts.load(connection, users, pairs, groups)

    def _commit(self, batch: dict[int, Head], facts: Facts, standing: dict[str, Any]) -> list[Decision]:
        """Decide what does not stand yet and insert it in one transaction. Raises AlreadyDecided, FenceLost."""
        decisions: list[Decision] = []
        by_id: dict[str, Decision] = {}
        rows: list[dict[str, Any]] = []
        last_seqs: dict[str, int] = {}
        fresh: Counter[int] = Counter()
        now_ms = time.time_ns() // 1_000_000
        for shard, head in batch.items():
            for request in head.requests:
                first = by_id.get(request.id) or _standing_decision(standing.get(request.id), request)
                if first is not None:
                    decisions.append(_repeat(first, request))
                else:
                    decision = self._decide(request, facts, last_seqs, shard, now_ms)
                    decisions.append(decision)
                    rows.append(dict(decision.row or {}))
                    decision.row = rows[-1]
                    fresh[shard] += 1
                    rows[-1]["shard_seq"] = fresh[shard]  # from the reserved range, see below
                by_id.setdefault(request.id, decisions[-1])
        if rows:
            with self._database.writing() as connection:
                taken = {s: shards.take_positions(connection, s, self._fences[s], fresh[s]) for s in batch if fresh[s]}
                for row in rows:
                    row["shard_seq"] += taken[row["shard"]]
                messages.insert_decisions(connection, rows)
            self._last_seqs.update(last_seqs)
        return decisions

    def _decide(self, request: Request, facts: Facts, last_seqs: dict[str, int], shard: int, now_ms: int) -> Decision:
        verdict = policy.decide(request, facts)
        sender = facts.users.get(request.sender_id)
        conversation = request.conversation
        row: dict[str, Any] = {
            "id": request.id,
            "conversation": conversation,
            "seq": None,
            "shard": shard,
            "kind": request.kind,
            "verdict": messages.REFUSED,
            "code": None,
            "sender_id": request.sender_id,
            "device": request.device,
            "recipient_id": None if request.chat_type == "group" else request.to_id,
            "group_id": request.to_id if request.chat_type == "group" else None,
            "audience_version": None,
            "content_hash": request.content_hash(),
            "body": None,
            "from_name_for_recipient": None,
            "to_name_for_sender": None,
            "created_at_ms": request.created_at_ms,
            "decided_at_ms": now_ms,
        }
        if isinstance(verdict, policy.Refused) or sender is None or request.chat_type == "group":
            row["code"] = verdict.code if isinstance(verdict, policy.Refused) else "recipient_unavailable"
            return Decision(request, row["code"], row)
        seq = last_seqs.get(conversation, self._last_seqs.get(conversation, 0)) + 1
        last_seqs[conversation] = seq
        message = bodies.single_message(request, seq, sender, facts.users[request.to_id])
        from_name = facts.relations.get((request.to_id, request.sender_id), NO_RELATION).remark or None
        to_name = facts.relations.get((request.sender_id, request.to_id), NO_RELATION).remark or None
        body = bodies.encode(message)
        row |= {
            "seq": seq,
            "verdict": messages.STORED,
            "body": body.decode(),
            "from_name_for_recipient": from_name,
            "to_name_for_sender": to_name,
        }
        return Decision(
            request,
            None,
            row,
            sender_body=bodies.encode(message, to_name=to_name) if to_name else body,
            recipient_body=bodies.encode(message, from_name=from_name) if from_name else body,
        )

    def _apply(self, decisions: Sequence[Decision], news: _News) -> None:
        """Append to every inbox and log, and note who must be told what."""
        appends: dict[tuple[int, int], inbox.Appends] = {}
        owners: dict[tuple[int, int], list[tuple[Decision, bytes, bool]]] = {}
        applied: set[str] = set()
        for decision in decisions:
            request, row = decision.request, decision.row
            if row is None or decision.code is not None or request.id in applied:
                continue
            applied.add(request.id)
            shard, position = row["shard"], row["shard_seq"]
            for owner_id, peer_id, body, is_own in (
                (request.to_id, request.sender_id, decision.recipient_body, False),
                (request.sender_id, request.to_id, decision.sender_body, True),
            ):
                entry = inbox.Entry(shard, position, request.device if is_own else None, body).encode()
                key = (owner_id, shard)
                appends.setdefault(key, inbox.Appends(owner_id, shard)).entries.append((position, entry, peer_id, body))
                owners.setdefault(key, []).append((decision, body, is_own))
        cursors: dict[str, int] = {}
        todo = list(appends.values())
        for start in range(0, len(todo), _APPLY_CHUNK):
            chunk = todo[start : start + _APPLY_CHUNK]
            for append, answer in zip(chunk, self._append(chunk), strict=True):
                self._note_deliveries(news, append, answer, owners[append.user_id, append.shard], cursors)
            self._renew_leases()
        self._note_verdicts(news, decisions, cursors)

    def _append(self, appends: list[inbox.Appends]) -> list[inbox.Appended]:
        bounds = {"inbox_max": self._settings.inbox_max_entries, "log_max": self._settings.chatlog_max_entries}
        answers = [inbox.Appended.parse(a) for a in run(self._client, [a.command(**bounds) for a in appends])]
        closed = [index for index, answer in enumerate(answers) if answer.epoch is None]
        if closed:
            for user_id in {appends[index].user_id for index in closed}:
                run(self._client, [load_inbox(self._database, user_id, self._settings.inbox_max_entries)])
            again = run(self._client, [appends[index].command(**bounds) for index in closed])
            for index, answer in zip(closed, again, strict=True):
                answers[index] = inbox.Appended.parse(answer)
        return answers

    def _note_deliveries(
        self,
        news: _News,
        append: inbox.Appends,
        answer: inbox.Appended,
        entries: Sequence[tuple[Decision, bytes, bool]],
        cursors: dict[str, int],
    ) -> None:
        if (
            answer.epoch is None
        ):  # lost again within a millisecond: the next batch meets it, its inbox is rebuilt from SQL
            raise StoreUnavailable("an inbox vanished while it was being written")
        processes = {presence.process_of(connection) for connection in answer.online.values()}
        for (decision, body, is_own), cursor in zip(entries, answer.cursors, strict=True):
            request = decision.request
            if is_own:
                cursors[request.id] = cursor
            for process_id in processes:
                publication = news.of(process_id)
                place = publication.place(body) if cursor else -1
                own = (request.device, request.id) if is_own else (None, None)
                publication.deliveries.append(
                    bus.Delivery(append.user_id, answer.epoch, cursor or answer.newest, place, *own)
                )

    def _note_verdicts(self, news: _News, decisions: Sequence[Decision], cursors: Mapping[str, int]) -> None:
        for decision in decisions:
            if decision.request.reply_to is None:
                continue
            process_id, wait = decision.request.reply_to
            publication = news.of(process_id)
            place = publication.place(decision.sender_body) if decision.code is None else -1
            cursor = cursors.get(decision.request.id, 0)
            publication.verdicts.append(bus.Verdict(wait, decision.request.id, decision.code, place, cursor))

    def _publish_and_pop(self, batch: dict[int, Head], news: _News) -> None:
        pops = [outbox.pop_command(shard, self._token, len(head.raw)) for shard, head in batch.items()]
        run(self._client, [*bus.publish_commands(news.by_process.items()), *pops])

    def _count(self, decisions: Sequence[Decision], started: float) -> None:
        self._counts["batches"] += 1
        self._counts["decided"] += len(decisions)
        self._counts["refused"] += sum(decision.code is not None for decision in decisions)
        duration_ms = round((time.monotonic() - started) * 1000, 2)
        log.debug("batch_settled", requests=len(decisions), duration_ms=duration_ms)


def _standing_decision(row: Any, request: Request) -> Decision | None:
    """Rebuild the decision that stands for an id. None where none does."""
    if row is None:
        return None
    sender_body = recipient_body = b""
    if row.body is not None:
        message = orjson.loads(row.body)
        sender_body = bodies.encode(message, to_name=row.to_name_for_sender)
        recipient_body = bodies.encode(message, from_name=row.from_name_for_recipient)
    return Decision(request, row.code, row._mapping, sender_body, recipient_body)


def _repeat(first: Decision, request: Request) -> Decision:
    """Answer a repeat with what stands; the same id with other content is a conflict and changes nothing."""
    if first.row is None or first.row["content_hash"] != request.content_hash():
        return Decision(request, "idempotency_conflict", None)
    return Decision(request, first.code, first.row, first.sender_body, first.recipient_body)
