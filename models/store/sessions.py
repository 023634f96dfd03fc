"""The copy of sessions that every request checks: a hash per user, device to session id.

An ended session leaves an empty id behind, so that a request that read SQL just before cannot put it back.
"""

from __future__ import annotations

from models.store import keys
from models.store.connection import SCRIPTS, Command


def read_command(user_id: int, device: str) -> Command:
    return ("HGET", keys.sessions(user_id), device)


def remember_command(user_id: int, device: str, held: str, session_id: str) -> Command:
    """Copy a session from SQL, unless Redis holds something else than `held` by now."""
    return SCRIPTS["remember_session"].call([keys.sessions(user_id)], [device, held, session_id])


def replace_command(user_id: int, device: str, session_id: str) -> Command:
    """Put a new login's session in place of whatever stood there; '' for an ended one."""
    return ("HSET", keys.sessions(user_id), device, session_id)
