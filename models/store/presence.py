"""Presence: which connections of which processes hold each device of a user. A lease, renewed by the owning process.

A device has one live connection, the newest; older ones of a protocol 1 client wait behind it, oldest first. Nothing
depends on presence: a wrong entry costs a publication that nobody reads, a missing one a delay of seconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from models.store import keys
from models.store.connection import SCRIPTS, Command

LEASE_MS = 90_000
NO_LIMIT = 1_000_000  # connections of a user: for one that is open already and only renews its entry

# live: registered. session: not the session that Redis holds. new: the inbox must be opened and the device registered.
Outcome = Literal["live", "session", "new", "full"]


@dataclass(frozen=True, slots=True)
class Connected:
    """What became of a connect. Where `outcome` is not "live", nothing was registered and the rest is empty."""

    outcome: Outcome
    epoch: str = ""
    newest: int = 0
    base: int = 0
    acknowledged: int = 0
    former: str | None = None  # the connection that was live before this one

    @classmethod
    def parse(cls, answer: Any) -> Connected:
        outcome = answer[0].decode()
        if outcome != "live":
            return cls(outcome)
        _, epoch, newest, base, acknowledged, former = answer
        return cls(outcome, epoch.decode(), newest, base, acknowledged, former.decode() or None)


def connection_name(process_id: str, number: int, protocol: int) -> str:
    return f"{process_id}:{number}:{protocol}"


def process_of(connection: str) -> str:
    return connection.partition(":")[0]


def number_of(connection: str) -> int:
    return int(connection.split(":")[1])


def protocol_of(connection: str) -> int:
    return int(connection.rpartition(":")[2])


def live_connection(connections: bytes | None) -> str | None:
    """Return the live one of a device's connections, as `find_command` answers them."""
    return connections.decode().rpartition(" ")[2] if connections else None


def live_processes(online: Sequence[str]) -> set[str]:
    """Return the processes that hold the live connection of a device, from the connections of each, as `append` answers them."""
    return {connections[connections.rfind(" ") + 1 :].partition(":")[0] for connections in online}


def connect_command(user_id: int, device: str, connection: str, session_id: str, *, most: int = NO_LIMIT) -> Command:
    """Make a connection the live one of its device, also where it was known before. most: connections of the user."""
    keys_of_owner = [keys.cursor(user_id), keys.online(user_id), keys.sessions(user_id)]
    now_ms = time.time_ns() // 1_000_000
    return SCRIPTS["connect"].call(keys_of_owner, [device, connection, LEASE_MS, most, session_id, now_ms])


def disconnect_command(user_id: int, device: str, connection: str) -> Command:
    """Forget a connection. The answer names the one that is live now, b'' where that has not changed or none is left."""
    return SCRIPTS["disconnect"].call([keys.online(user_id)], [device, connection])


def find_command(user_id: int, device: str) -> Command:
    return ("HGET", keys.online(user_id), device)


def find_all_command(user_id: int) -> Command:
    return ("HVALS", keys.online(user_id))


def find_connections_command(user_id: int) -> Command:
    """Ask for all connections of a user with their devices: `parse_connections`."""
    return ("HGETALL", keys.online(user_id))


def parse_connections(answer: Any) -> list[tuple[str, str]]:
    """Return device and name of each connection."""
    return [(device.decode(), name) for device, names in answer.items() for name in names.decode().split()]


def find_devices_command(user_id: int) -> Command:
    return ("HKEYS", keys.online(user_id))


def renew_commands(user_ids: Sequence[int]) -> list[Command]:
    return [("PEXPIRE", keys.online(user_id), LEASE_MS) for user_id in user_ids]
