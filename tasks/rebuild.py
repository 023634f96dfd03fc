"""Open a user's inbox from SQL: for a new user, and after Redis has lost its data.

What the decision rows hold and no checkpointed position covers is put into a new inbox under a new epoch. The newest
position of every shard is read first and nothing above it is taken, so that what a drain appends meanwhile is neither
missed nor doubled: it lies above, and appending above is what drains do.
"""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy import Connection, and_, or_, select

from models import positions, shards
from models.database import Database
from models.messages import STORED, Message
from models.store import inbox
from models.store.connection import Command


def load_inbox(database: Database, user_id: int, inbox_max: int) -> Command:
    """Give the command that opens the user's inbox; it does nothing where one stands. Raises DatabaseUnavailable.

    Reads SQL only: a web process calls it in a native thread, where its connections to Redis must not be used.
    """
    with database.reading() as connection:
        last_positions = shards.load_last_positions(connection)
        devices = positions.load(connection, user_id)
        rows = _load_tail(connection, user_id, last_positions, devices, inbox_max)
    entries = [_entry(row, user_id) for row in rows]
    acknowledged = {device.device: _count_seen(entries, device) for device in devices}
    return inbox.open_command(user_id, last_positions, acknowledged, entries)


def _load_tail(
    connection: Connection, user_id: int, last: dict[int, int], devices: list[positions.Position], most: int
) -> list[Any]:
    """Return the newest `most` rows to or from the user that some device lacks, oldest first."""
    parts = []
    for shard, newest in last.items():
        seen = min((device.seen.get(shard, 0) for device in devices), default=0)
        if newest > seen:
            parts.append(and_(Message.shard == shard, Message.shard_seq > seen, Message.shard_seq <= newest))
    if not parts:
        return []
    mine = or_(Message.recipient_id == user_id, and_(Message.sender_id == user_id, Message.group_id.is_(None)))
    query = (
        select(Message.__table__)
        .where(mine, Message.verdict == STORED, or_(*parts))
        .order_by(Message.decided_at_ms.desc(), Message.shard_seq.desc())
        .limit(most)
    )
    return list(connection.execute(query))[::-1]


def _entry(row: Any, user_id: int) -> inbox.Entry:
    is_own = row.sender_id == user_id
    body = row.body.encode()
    remark = {"to_name": row.to_name_for_sender} if is_own else {"from_name": row.from_name_for_recipient}
    if any(remark.values()):
        body = orjson.dumps(orjson.loads(body) | remark)
    return inbox.Entry(row.shard, row.shard_seq, row.device if is_own else None, body)


def _count_seen(entries: list[inbox.Entry], device: positions.Position) -> int:
    """Return the cursor up to which a device has seen everything: its first gap ends it."""
    count = 0
    for entry in entries:
        if entry.position > device.seen.get(entry.shard, 0):
            break
        count += 1
    return count
