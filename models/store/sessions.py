"""The copy of sessions that every request checks: a hash per user, device to session id. SQL is the truth.

What is not here is asked in SQL and put here. Each ending changes the user's generation, and a copy is only put here
under the generation that stood before SQL was asked, so that an ended session cannot come back.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from models.store import keys
from models.store.connection import SCRIPTS, Command

_GENERATION = ""  # no device has an empty name


def read_command(user_id: int, device: str) -> Command:
    """Ask for the device's session id and the user's generation: `parse_held`."""
    return ("HMGET", keys.sessions(user_id), device, _GENERATION)


def parse_held(answer: Any) -> tuple[str, str]:
    """Return session id and generation, each empty where there is none."""
    session_id, generation = answer
    return (session_id or b"").decode(), (generation or b"").decode()


def remember_command(user_id: int, device: str, generation: str, session_id: str) -> Command:
    """Copy a session from SQL, unless one of the user's sessions has ended since the generation was read."""
    return SCRIPTS["remember_session"].call([keys.sessions(user_id)], [device, generation, session_id])


def replace_command(user_id: int, device: str, session_id: str) -> Command:
    """Put a session in place of whatever stood there, for tests and tools: a login that overlaps another may not."""
    return ("HSET", keys.sessions(user_id), device, session_id)


def end_command(user_id: int, device: str) -> Command:
    """Forget the device's session; the answer tells its connections: `parse_ended`."""
    return _end_command(user_id, "one", device)


def end_all_command(user_id: int, but_device: str | None) -> Command:
    """Forget the sessions of all the user's devices but one."""
    return _end_command(user_id, "others", but_device or "")


def _end_command(user_id: int, which: str, device: str) -> Command:
    keys_of_owner = [keys.sessions(user_id), keys.online(user_id)]
    return SCRIPTS["end_session"].call(keys_of_owner, [secrets.token_hex(8), which, device])


def parse_ended(answer: Sequence[bytes]) -> list[tuple[str, str]]:
    """Return device and name of each connection whose session is over."""
    pairs = zip(answer[::2], answer[1::2], strict=True)
    return [(device.decode(), name) for device, names in pairs for name in names.decode().split()]
