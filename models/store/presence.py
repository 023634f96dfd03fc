"""Presence: which connection of which process holds each device of a user. A lease, renewed by the owning process.

Nothing depends on it: a wrong entry costs a publication that nobody reads, a missing one a delay of seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.store import keys
from models.store.connection import SCRIPTS, Command

LEASE_MS = 90_000


@dataclass(frozen=True, slots=True)
class Connected:
    """`epoch` None: the user's inbox must be opened first; nothing was registered."""

    epoch: str | None
    newest: int
    base: int
    acknowledged: int
    former: str | None  # the device's connection before this one

    @classmethod
    def parse(cls, answer: Any) -> Connected:
        epoch, newest, base, acknowledged, former = answer
        return cls(epoch.decode() or None, newest, base, acknowledged, former.decode() or None)


def connection_name(process_id: str, number: int, protocol: int) -> str:
    return f"{process_id}:{number}:{protocol}"


def process_of(connection: str) -> str:
    return connection.partition(":")[0]


def connect_command(user_id: int, device: str, connection: str) -> Command:
    return SCRIPTS["connect"].call([keys.cursor(user_id), keys.online(user_id)], [device, connection, LEASE_MS])


def disconnect_command(user_id: int, device: str, connection: str) -> Command:
    return SCRIPTS["disconnect"].call([keys.online(user_id)], [device, connection])


def renew_commands(user_ids: Sequence[int]) -> list[Command]:
    return [("PEXPIRE", keys.online(user_id), LEASE_MS) for user_id in user_ids]
