"""Presence: which connections of which processes hold each device of a user. A lease, renewed by the owning process.

A device has one live connection, the newest; older ones of a protocol 1 client wait behind it, oldest first. Nothing
depends on presence: a wrong entry costs a publication that nobody reads, a missing one a delay of seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.store import keys
from models.store.connection import SCRIPTS, Command

LEASE_MS = 90_000
_MAX_PER_DEVICE = 8  # what a process that died has left behind is pushed out by those that come


@dataclass(frozen=True, slots=True)
class Connected:
    """`epoch` None: the user's inbox must be opened first; nothing was registered."""

    epoch: str | None
    newest: int
    base: int
    acknowledged: int
    former: str | None  # the connection that was live before this one
    is_new_device: bool

    @classmethod
    def parse(cls, answer: Any) -> Connected:
        epoch, newest, base, acknowledged, former, is_new = answer
        return cls(epoch.decode() or None, newest, base, acknowledged, former.decode() or None, bool(is_new))


def connection_name(process_id: str, number: int, protocol: int) -> str:
    return f"{process_id}:{number}:{protocol}"


def process_of(connection: str) -> str:
    return connection.partition(":")[0]


def number_of(connection: str) -> int:
    return int(connection.split(":")[1])


def live_connection(connections: bytes | None) -> str | None:
    """Return the live one of a device's connections, as `find_command` and `append` answer them."""
    return connections.decode().rpartition(" ")[2] if connections else None


def connect_command(user_id: int, device: str, connection: str) -> Command:
    """Make a connection the live one of its device, also where it was known before."""
    keys_of_owner = [keys.cursor(user_id), keys.online(user_id)]
    return SCRIPTS["connect"].call(keys_of_owner, [device, connection, LEASE_MS, _MAX_PER_DEVICE])


def disconnect_command(user_id: int, device: str, connection: str) -> Command:
    """Forget a connection. The answer names the one that is live now, b'' where that has not changed or none is left."""
    return SCRIPTS["disconnect"].call([keys.online(user_id)], [device, connection])


def find_command(user_id: int, device: str) -> Command:
    return ("HGET", keys.online(user_id), device)


def find_all_command(user_id: int) -> Command:
    return ("HVALS", keys.online(user_id))


def find_devices_command(user_id: int) -> Command:
    return ("HKEYS", keys.online(user_id))


def renew_commands(user_ids: Sequence[int]) -> list[Command]:
    return [("PEXPIRE", keys.online(user_id), LEASE_MS) for user_id in user_ids]
