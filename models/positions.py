"""Positions: how far each device has acknowledged, checkpointed from Redis every few seconds.

Used only when Redis has lost its data: what a device has not acknowledged is then rebuilt from the decision rows. A
cursor means nothing without Redis, so a position says per shard which `shard_seq` the device has seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import BigInteger, Connection, Integer, String, Text, bindparam, delete, select
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_or_update
from models.prepared import Prepared


class DevicePosition(Base):
    __tablename__ = "device_position"

    user_id: Mapped[int] = mapped_column(Integer, primary_key=True)
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    epoch: Mapped[str] = mapped_column(String(16))
    acknowledged: Mapped[int] = mapped_column(BigInteger)  # cursor, for people reading the table
    seen: Mapped[str] = mapped_column(Text)  # JSON {shard: shard_seq}


@dataclass(frozen=True, slots=True)
class Position:
    user_id: int
    device: str
    epoch: str
    acknowledged: int
    seen: Mapping[int, int]  # shard -> newest shard_seq this device has acknowledged


def checkpoint(connection: Connection, positions: Sequence[Position]) -> None:
    """Keep positions. A later checkpoint of a device replaces the earlier one."""
    rows = [
        {
            "user_id": position.user_id,
            "device": position.device,
            "epoch": position.epoch,
            "acknowledged": position.acknowledged,
            "seen": json.dumps({str(shard): seq for shard, seq in position.seen.items()}),
        }
        for position in positions
    ]
    insert_or_update(
        connection, DevicePosition, rows, key=("user_id", "device"), update=("epoch", "acknowledged", "seen")
    )


def load(connection: Connection, user_id: int) -> list[Position]:
    """Return the positions of a user's devices."""
    return [
        Position(user_id, device, epoch, acknowledged, {int(shard): seq for shard, seq in json.loads(seen).items()})
        for device, epoch, acknowledged, seen in _OF_USER.select(connection, {"user_id": user_id})
    ]


_OF_USER = Prepared(
    select(DevicePosition.device, DevicePosition.epoch, DevicePosition.acknowledged, DevicePosition.seen).where(
        DevicePosition.user_id == bindparam("user_id")
    )
)


def forget(connection: Connection, user_id: int, devices: Sequence[str]) -> None:
    """Forget devices of a user."""
    mine = (DevicePosition.user_id == user_id, DevicePosition.device.in_(devices))
    connection.execute(delete(DevicePosition).where(*mine))


def load_page(connection: Connection, after_user_id: int, most: int) -> dict[int, list[str]]:
    """Return the devices of the next `most` users that have any, by user id."""
    users = (
        select(DevicePosition.user_id)
        .where(DevicePosition.user_id > after_user_id)
        .distinct()
        .order_by(DevicePosition.user_id)
        .limit(most)
    )
    user_ids = list(connection.execute(users).scalars())
    found: dict[int, list[str]] = {user_id: [] for user_id in user_ids}
    rows = select(DevicePosition.user_id, DevicePosition.device).where(DevicePosition.user_id.in_(user_ids))
    for user_id, device in connection.execute(rows):
        found[user_id].append(device)
    return found
