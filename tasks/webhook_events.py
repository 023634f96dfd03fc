"""What webhooks are told: decision rows as events, and how many of them go into one POST. No I/O.

An event is the same for every webhook and at every try: its id is that of the decision. What a recall has removed meanwhile is
gone from the event too.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from models.messages import REFUSED

MAX_BODY_BYTES = 262_144  # of a POST; one event may have more

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a webhook has asked for. chat_type: single, group, all"""

    types: frozenset[str]
    chat_type: str


@dataclass(frozen=True, slots=True)
class Batch:
    """What one POST carries, and the positions that it confirms. Without events there is only something to pass over."""

    events: list[bytes]
    ids: list[str]
    positions: dict[int, int]

    @property
    def message_id(self) -> str:
        """Name the POST: as its only event, or by a digest of its events, so that the same events have the same name."""
        if len(self.ids) == 1:
            return self.ids[0]
        return "batch_" + hashlib.sha256(" ".join(self.ids).encode()).hexdigest()[:32]

    def body(self, webhook_id: int) -> bytes:
        return b'{"webhook_id":%d,"events":[%s]}' % (webhook_id, b",".join(self.events))


def take(rows: Mapping[int, Sequence[Any]], wanted: Wanted, most: int) -> Batch:
    """Take events off the decisions that lie behind, `most` at most, oldest first and in order within each shard.

    rows: per shard its next decisions
    """
    batch = Batch([], [], {})
    size = 0
    for row in _by_time(rows):
        event = event_of(row)
        if event is not None and event["type"] in wanted.types and wanted.chat_type in ("all", _chat_type(row)):
            encoded = orjson.dumps(event)
            size += len(encoded)
            if batch.events and (len(batch.events) == most or size > MAX_BODY_BYTES):
                break
            batch.events.append(encoded)
            batch.ids.append(row.id)
        batch.positions[row.shard] = row.shard_seq
    return batch


def event_of(row: Any) -> Event | None:
    """Return what a decision is to webhooks; None for notices of the system and refused recalls, which they are not told."""
    if row.verdict == REFUSED:
        if row.kind != "send":
            return None
        to_id = row.recipient_id if row.group_id is None else row.group_id
        refused = {"code": row.code, "chatType": _chat_type(row), "from_id": row.sender_id, "to_id": to_id}
        return _event(row.id, "message.refused", row.decided_at_ms, refused)
    if row.kind == "send":
        return _event(row.id, "message.stored", row.decided_at_ms, {"message": _public(row)})
    if row.kind == "recall":
        recalled = {"message": _public(row), "recalled_by": row.sender_id}
        return _event(row.id, "message.recalled", row.decided_at_ms, recalled)
    return None


def trial_event(event_id: str, webhook_id: int, now_ms: int) -> Batch:
    """Return the one event by which an administrator tries a target."""
    event = _event(event_id, "webhook.test", now_ms, {"webhook_id": webhook_id})
    return Batch([orjson.dumps(event)], [event_id], {})


def _event(event_id: str, event_type: str, at_ms: int, data: Event) -> Event:
    moment = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return {"id": event_id, "type": event_type, "timestamp": f"{moment[:-6]}Z", "data": data}


def _public(row: Any) -> Event:
    """Return a Message with the names that everybody sees: those that one side has given the other stay between them (C19)."""
    message: Event = orjson.loads(row.body)
    if row.body_for_sender:
        message["from_name"] = orjson.loads(row.body_for_sender)["from_name"]
    return message


def _chat_type(row: Any) -> str:
    return "single" if row.group_id is None else "group"


def _by_time(rows: Mapping[int, Sequence[Any]]) -> Iterator[Any]:
    """Merge shards by time. Each keeps its order, though clocks of two workers may disagree: a merge does not sort."""
    return heapq.merge(*rows.values(), key=lambda row: (row.decided_at_ms, row.shard))
