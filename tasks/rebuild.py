"""Open a user's inbox from SQL: for a new user, and after Redis has lost its data.

What the decision rows hold and no checkpointed position covers is put into a new inbox under a new epoch. The newest
position of every shard is read first and nothing above it is taken, so that what a drain appends meanwhile is neither
missed nor doubled: it lies above, and appending above is what drains do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, false, or_, select

from models import audiences, positions, shards
from models.database import Database
from models.groups import GroupMember
from models.messages import STORED, Message
from models.store import inbox
from models.store.connection import Command

_GROUP_SLACK = 2  # rows read per row wanted, since some of a group's were decided before the user was a member


def load_inbox(database: Database, user_id: int, inbox_max: int) -> Command:
    """Give the command that opens the user's inbox; it does nothing where one stands. Raises DatabaseUnavailable.

    Reads SQL only: a web process calls it in a native thread, where its connections to Redis must not be used.
    """
    with database.reading() as connection:
        last_positions = shards.load_last_positions(connection)
        devices = positions.load(connection, user_id)
        rows = _load_tail(connection, user_id, last_positions, devices, inbox_max)
    entries = [_entry(row, user_id) for row in rows]
    states = {d.device: inbox.DeviceState(_count_seen(entries, d), d.seen) for d in devices}
    return inbox.open_command(user_id, last_positions, states, entries)


def _load_tail(
    connection: Connection,
    user_id: int,
    last: Mapping[int, int],
    devices: list[positions.Position],
    most: int,
) -> list[Any]:
    """Return the newest `most` rows that the user's inbox held and some device lacks, oldest first."""
    ranges: list[ColumnElement[bool]] = []
    for shard, newest in last.items():
        seen = min((device.seen.get(shard, 0) for device in devices), default=0)
        if newest > seen:
            ranges.append(and_(Message.shard == shard, Message.shard_seq > seen, Message.shard_seq <= newest))
    if not ranges:
        return []
    group_ids = list(connection.execute(select(GroupMember.group_id).where(GroupMember.user_id == user_id)).scalars())
    mine = or_(
        Message.recipient_id == user_id,
        and_(Message.sender_id == user_id, Message.is_to_sender.is_(True)),
        Message.group_id.in_(group_ids) if group_ids else false(),
    )
    query = (
        select(Message.__table__)
        .where(mine, Message.verdict == STORED, or_(*ranges))
        .order_by(Message.decided_at_ms.desc(), Message.shard_seq.desc())
        .limit(most * _GROUP_SLACK if group_ids else most)
    )
    rows = list(connection.execute(query))
    heard = {
        (group_id, version): user_id in audiences.load(connection, group_id, version)
        for group_id, version in {(row.group_id, row.audience_version) for row in rows if row.group_id is not None}
    }
    mine_only = [row for row in rows if row.group_id is None or heard[row.group_id, row.audience_version]][:most]
    return _in_order(mine_only)


def _in_order(rows: Sequence[Any]) -> list[Any]:
    """Sort rows by time, but never against the order of their shard: the clocks of two workers may disagree."""
    times: dict[int, int] = {}
    keyed = []
    for row in sorted(rows, key=lambda row: (row.shard, row.shard_seq)):
        times[row.shard] = max(times.get(row.shard, 0), row.decided_at_ms)
        keyed.append((times[row.shard], row.shard, row.shard_seq, row))
    return [row for *_, row in sorted(keyed, key=lambda key: key[:3])]


def _entry(row: Any, user_id: int) -> inbox.Entry:
    """Build the entry a row had in the user's inbox."""
    is_own = row.sender_id == user_id and (row.kind == "send" or (row.kind == "recall" and row.group_id is None))
    device = row.device if is_own else None
    if row.group_id is not None and row.seq is not None:
        return inbox.Entry(row.shard, row.shard_seq, device, b"", (row.group_id, row.seq))
    is_sender = row.sender_id == user_id
    body = row.body_for_sender if is_sender and row.body_for_sender else row.body
    return inbox.Entry(row.shard, row.shard_seq, device, body.encode())


def _count_seen(entries: list[inbox.Entry], device: positions.Position) -> int:
    """Return the cursor up to which a device has seen everything: its first gap ends it."""
    count = 0
    for entry in entries:
        if entry.position > device.seen.get(entry.shard, 0):
            break
        count += 1
    return count
