"""Search: the caller's own visible messages that hold a text, newest first, with a bounded amount of work per request.

Rows are read along indexes that end with a position rising with time: what he sent and what he was sent, shard by shard,
and each of his groups. These streams are merged by time, as far as the page needs or the bound allows.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, and_, case, or_, select

from models import audiences, groups, history
from models.groups import ACTIVE, MUTED, GroupMember
from models.messages import STORED, Message

_MAX_ROWS = 20_000  # read per request at most: some 150 ms where nothing is found
_FIRST_ROWS, _MORE_ROWS = 50, 500  # read from a stream at once
_MAX_STREAMS = 600
_SKEW_MS = 5_000  # by so much the clocks of two workers may differ, and with them the order of time and of positions
_WITHOUT_TEXT = ("iconMenus", "image", "audio", "video")  # their `data` is an address

_Key = tuple[int, int, str]  # decided_at_ms, seq, id: in this order messages are shown


@dataclass(slots=True)
class _Stream:
    """Rows on one index. `below`: rows at or above this position have been read; `newest_ms`: no row left is newer."""

    where: tuple[ColumnElement[bool], ...]
    position: Any
    below: int = 0
    newest_ms: int = 0
    read_count: int = 0


def search(
    connection: Connection, user_id: int, text: str, before: Any | None, limit: int, shards: Sequence[int]
) -> tuple[list[str], bool]:
    """Return up to `limit` Messages as JSON, newest first, and whether there are more, or may be beyond the bound.

    before: the row (`load_visible`) of the last Message of the page before; None = the newest page.
    """
    group_ids = _load_group_ids(connection, user_id)
    end = None if before is None else _key(before)
    matches = _matches(text)
    # By the newest time that a stream may still hold, newest first.
    heads = []
    for number, stream in enumerate(_streams(connection, user_id, group_ids, shards)):
        if end is not None and stream.newest_ms > end[0]:
            stream.below = _find_start(connection, stream, end[0] + _SKEW_MS)
            stream.newest_ms = end[0]
        if stream.below > 1:
            heads.append((-stream.newest_ms, number, stream))
    found: list[tuple[_Key, str]] = []
    scanned = 0
    heapq.heapify(heads)
    while heads and scanned < _MAX_ROWS and _count_sure(found, heads[0][2]) <= limit:
        _, number, stream = heapq.heappop(heads)
        rows = _read(connection, stream, matches)
        scanned += len(rows)
        candidates = [row for row in rows if row.body is not None and (end is None or _key(row) < end)]
        hits = [row for row in candidates if _holds(row.body, text)]
        found += [(_key(row), history.body_for(row, user_id)) for row in _heard(connection, hits, user_id)]
        if len(rows) == stream.read_count:
            heapq.heappush(heads, (-stream.newest_ms, number, stream))
    found.sort(reverse=True)
    # Beyond the bound newer ones may have been left out, which the next page would pass over.
    sure = _count_sure(found, heads[0][2]) if heads else len(found)
    return [body for _, body in found[: min(limit, sure or limit)]], len(found) > limit or bool(heads)


def load_visible(connection: Connection, user_id: int, message_id: str) -> Any | None:
    """Return the row of a stored message of a user that this one may see, None where there is no such message."""
    query = select(Message.__table__).where(
        Message.id == message_id, Message.kind == "send", Message.verdict == STORED, Message.seq.is_not(None)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    if row.group_id is None:
        return row if user_id in (row.sender_id, row.recipient_id) else None
    is_visible = groups.is_member(connection, row.group_id, user_id) and _heard(connection, [row], user_id)
    return row if is_visible else None


def _streams(connection: Connection, user_id: int, group_ids: Sequence[int], shards: Sequence[int]) -> list[_Stream]:
    """Return the streams of what a user may see, each at its newest end."""
    streams = []
    for side in (Message.sender_id, Message.recipient_id):
        streams += [_Stream((side == user_id, Message.shard == shard), Message.shard_seq, 0) for shard in shards]
    streams += [_Stream((Message.conversation == f"group:{group_id}",), Message.seq, 0) for group_id in group_ids]
    for stream in streams:
        # One by one: the newest of one place is the end of an index, of many it is found by reading all.
        newest = _newest(connection, stream, stream.position.is_not(None))
        if newest is not None:
            stream.below, stream.newest_ms = newest.position + 1, newest.decided_at_ms
    return streams


def _newest(connection: Connection, stream: _Stream, condition: ColumnElement[bool]) -> Any | None:
    """Return position and time of a stream's newest row of those that fulfil a condition on its position."""
    query = select(stream.position.label("position"), Message.decided_at_ms).where(*stream.where, condition)
    return connection.execute(query.order_by(stream.position.desc()).limit(1)).one_or_none()


def _count_sure(found: Sequence[tuple[_Key, str]], next_read: _Stream) -> int:
    """Return how many of what was found cannot be preceded by what is still to be read."""
    return sum(key[0] >= next_read.newest_ms + _SKEW_MS for key, _ in found)


def _find_start(connection: Connection, stream: _Stream, at_ms: int) -> int:
    """Return a position at or above which every row of the stream is newer than `at_ms`."""
    low, high = 0, stream.below - 1
    while low < high:
        middle = (low + high + 1) // 2
        row = _newest(connection, stream, stream.position <= middle)
        if row is None or row.decided_at_ms <= at_ms:
            low = middle
        else:
            high = row.position - 1
    return max(low, high) + 1


def _read(connection: Connection, stream: _Stream, matches: ColumnElement[bool]) -> Sequence[Any]:
    """Read on in a stream. Rows that cannot hold the text come without a body: only so the number read is bounded."""
    is_group = stream.position is Message.seq
    is_candidate = and_(
        Message.kind == "send",
        Message.verdict == STORED,
        Message.is_recalled.is_(False),
        Message.group_id.is_not(None) if is_group else Message.group_id.is_(None),
        matches,
    )
    size = _MORE_ROWS if stream.read_count else _FIRST_ROWS
    query = select(
        stream.position.label("position"),
        Message.id,
        Message.seq,
        Message.sender_id,
        Message.group_id,
        Message.audience_version,
        Message.decided_at_ms,
        case((is_candidate, Message.body)).label("body"),
        case((is_candidate, Message.body_for_sender)).label("body_for_sender"),
    ).where(*stream.where, stream.position < stream.below)
    rows = connection.execute(query.order_by(stream.position.desc()).limit(size)).all()
    stream.read_count = size
    if rows:
        stream.below, stream.newest_ms = rows[-1].position, rows[-1].decided_at_ms
    return rows


def _matches(text: str) -> ColumnElement[bool]:
    """Give the condition that a body may hold the text in any of the ways in which clients write their JSON."""
    plain = orjson.dumps(text)[1:-1].decode()
    escaped = orjson.dumps(plain)[1:-1].decode()
    ascii_only = orjson.dumps(json.dumps(text)[1:-1])[1:-1].decode()
    return or_(*(Message.body.ilike(f"%{_escape(way)}%", escape="\x01") for way in {plain, escaped, ascii_only}))


def _escape(text: str) -> str:
    for sign in ("\x01", "%", "_"):
        text = text.replace(sign, "\x01" + sign)
    return text


def _holds(body: str, text: str) -> bool:
    """Return whether the text that the user wrote holds it: names, ids and options of a Message do not count."""
    message = orjson.loads(body)
    written: Any = message["data"]
    if message["type"] in _WITHOUT_TEXT or not isinstance(written, str):
        return False
    try:
        inner = orjson.loads(written)
    except orjson.JSONDecodeError:
        inner = None
    if isinstance(inner, dict) and "data" in inner:
        other = inner.get("otherData")
        # A file's `data` is its address.
        written = other.get("name") if message["type"] == "file" and isinstance(other, dict) else inner["data"]
    return isinstance(written, str) and text.casefold() in written.casefold()


def _load_group_ids(connection: Connection, user_id: int) -> list[int]:
    mine = (GroupMember.user_id == user_id, GroupMember.status.in_((ACTIVE, MUTED)))
    query = select(GroupMember.group_id).where(*mine).order_by(GroupMember.id.desc()).limit(_MAX_STREAMS)
    return list(connection.execute(query).scalars())


def _heard(connection: Connection, rows: Sequence[Any], user_id: int) -> list[Any]:
    """Return those rows whose audience the user was in."""
    versions = {(row.group_id, row.audience_version) for row in rows if row.group_id is not None}
    heard = {key: user_id in audiences.load(connection, *key) for key in versions}
    return [row for row in rows if row.group_id is None or heard[row.group_id, row.audience_version]]


def _key(row: Any) -> _Key:
    return row.decided_at_ms, row.seq or 0, row.id
