"""Waiting messages: the items of the scratch file made decision rows, and committed as a drain commits its own.

A row holds what its readers see, and who they are: the first login of each opens his inbox from these rows, in this order, as
after a loss of Redis. A group's message has as audience those in whose queues it stood.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection

from models import audiences, bodies, messages, shards
from models.database import insert_missing
from models.first_contacts import FirstContact
from models.requests import Request, shard_of
from tasks.original.queues import Item
from tasks.original.report import Report
from tasks.original.scratch import Scratch

_DEVICE = "default"  # what the original's client is here
_BATCH = 200


@dataclass(frozen=True, slots=True)
class Draft:
    """A message but for its places. audience: of a group's. is_contact: a stranger's one message may be this one."""

    id: str
    item: Item
    decided_at_ms: int
    is_recalled: bool
    audience: Sequence[int]
    is_contact: bool

    @property
    def audience_version(self) -> int | None:
        """Number the audience: below zero, where no facts version is; the same for the same people."""
        if not self.audience:
            return None
        hashed = hashlib.blake2b(orjson.dumps(self.audience), digest_size=8).digest()
        return -1 - (int.from_bytes(hashed) >> 1)


def drafts(scratch: Scratch, report: Report) -> Iterator[list[Draft]]:
    """Give what is to be written, in batches, in the order in which it is to be shown."""
    batch: list[Draft] = []
    for row in scratch.select("SELECT id, at_ms, item FROM message ORDER BY at_ms, place, id"):
        draft = _draft(scratch, report, row["id"], row["at_ms"], Item(**orjson.loads(row["item"])))
        if draft is not None:
            batch.append(draft)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _draft(scratch: Scratch, report: Report, message_id: str, at_ms: int, item: Item) -> Draft | None:
    if item.kind == "recall":
        query = "SELECT json_extract(item, '$.sender_id') FROM message WHERE id = ?"
        if scratch.first(query, item.target_id) not in (None, item.sender_id):
            report.note("recall_of_another", f"user {item.sender_id}")
            return None
    query = "SELECT 1 FROM recalled WHERE target_id = ? AND sender_id = ?"
    is_recalled = item.kind != "recall" and scratch.first(query, item.id, item.sender_id) is not None
    if is_recalled:
        report.note("recall_applied", f"user {item.sender_id}")
    audience: list[int] = []
    if item.chat_type == "group":
        heard = scratch.select("SELECT user_id FROM hearer WHERE message_id = ? ORDER BY 1", message_id)
        # Who sent it has it, and may read it again.
        audience = sorted({*(row["user_id"] for row in heard), *([item.sender_id] if item.kind == "send" else [])})
    is_friend = scratch.first("SELECT 1 FROM friend WHERE owner_id = ? AND friend_id = ?", item.to_id, item.sender_id)
    is_contact = item.kind == "send" and item.chat_type == "single" and is_friend is None
    return Draft(message_id, item, at_ms, is_recalled, audience, is_contact)


def write(connection: Connection, batch: Sequence[Draft], shard_count: int) -> None:
    """Commit a batch under new fences, so that a drain at work knows that its order has changed. What stands is left."""
    known = messages.load_decisions(connection, [draft.id for draft in batch])
    new = [draft for draft in batch if draft.id not in known]
    if not new:
        return
    shard_by_id = {draft.id: shard_of(draft.item.conversation, shard_count) for draft in new}
    counts = sorted(Counter(shard_by_id.values()).items())
    wanted = {shard: (shards.draw_fence(connection, shard), count) for shard, count in counts}
    taken = shards.take_positions(connection, wanted)
    seqs = messages.load_last_seqs(connection, list({draft.item.conversation for draft in new}))
    rows = []
    for draft in new:
        shard = shard_by_id[draft.id]
        taken[shard] += 1
        if draft.item.kind != "recall":
            seqs[draft.item.conversation] += 1
        rows.append(_row(draft, shard, taken[shard], seqs[draft.item.conversation]))
        if draft.audience_version is not None:
            audiences.record(connection, draft.item.to_id, draft.audience_version, draft.audience)
    messages.insert_decisions(connection, rows)
    insert_missing(connection, FirstContact, _contacts(new), key=("sender_id", "recipient_id"))


def _contacts(drafts: Sequence[Draft]) -> list[dict[str, Any]]:
    contacts: dict[tuple[int, int], dict[str, Any]] = {}
    for draft in drafts:
        if draft.is_contact:
            item, state = draft.item, "open"
            row = {"message_id": draft.id, "state": state, "created_at_ms": item.created_at_ms}
            contacts.setdefault(
                (item.sender_id, item.to_id), {"sender_id": item.sender_id, "recipient_id": item.to_id, **row}
            )
    return list(contacts.values())


def _row(draft: Draft, shard: int, position: int, seq: int) -> dict[str, Any]:
    item = draft.item
    is_group, is_recall = item.chat_type == "group", item.kind == "recall"
    body = _body(draft, None if is_recall or item.body["chatType"] != item.chat_type else seq)
    own = body | item.own
    if draft.is_recalled:
        body, own = bodies.tombstone_message(body), bodies.tombstone_message(own)
    return {
        "id": draft.id,
        "conversation": item.conversation,
        "seq": None if is_recall else seq,
        "shard": shard,
        "shard_seq": position,
        "kind": item.kind,
        "verdict": messages.STORED,
        "code": None,
        "sender_id": item.sender_id,
        "device": _DEVICE if item.kind == "send" else "",
        "recipient_id": None if is_group else item.to_id,
        "group_id": item.to_id if is_group else None,
        "audience_version": draft.audience_version,
        "target_id": item.target_id,
        "is_recalled": draft.is_recalled,
        # In a group the audience says it.
        "is_to_sender": item.kind == "send",
        "content_hash": _request(draft).content_hash(),
        "body": bodies.encode(body).decode(),
        "body_for_sender": bodies.encode(own).decode() if own != body else None,
        "created_at_ms": item.created_at_ms,
        "decided_at_ms": draft.decided_at_ms,
    }


def _body(draft: Draft, seq: int | None) -> dict[str, Any]:
    """Put id, time and place into a Message, where `models/bodies.py` has them."""
    item = draft.item
    body = {**item.body, "id": item.target_id or draft.id, "create_time": item.created_at_ms}
    group = body.pop("group", None)
    if seq is not None:
        body["seq"] = seq
    return body | ({"group": group} if "group" in item.body else {})


def _request(draft: Draft) -> Request:
    item = draft.item
    data = item.body["data"]
    return Request(
        id=draft.id,
        kind=item.kind,
        chat_type=item.chat_type,
        sender_id=item.sender_id,
        role="user",
        device=_DEVICE,
        to_id=item.to_id,
        type=item.type,
        data=data if isinstance(data, str) else orjson.dumps(data).decode(),
        options=item.body["options"],
        created_at_ms=item.created_at_ms,
        client_msg_id=None,
        reply_to=None,
        conversation=item.conversation,
    )
