"""Sessions: one per (user, device). SQL is the truth; Redis (`store/sessions.py`) holds the copy that requests check.

A new login on the same device replaces the row, so the former token is dead (contract section 3, ORIG E5). What ends here
must be told to Redis and to live sockets after the commit; operations return the devices that this is about.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, ForeignKey, String, bindparam, delete, select, update
from sqlalchemy.orm import Mapped, mapped_column

from models.database import Base, insert_or_update
from models.errors import ModelError
from models.prepared import Prepared


class ChatSession(Base):
    __tablename__ = "chat_session"

    user_id: Mapped[int] = mapped_column(ForeignKey("user.id", ondelete="CASCADE"), primary_key=True)
    device: Mapped[str] = mapped_column(String(64), primary_key=True)
    session_id: Mapped[str] = mapped_column(String(32))
    created_at_ms: Mapped[int] = mapped_column(BigInteger)
    expires_at_ms: Mapped[int] = mapped_column(BigInteger)
    role: Mapped[str] = mapped_column(String(20), default="user")


class TooManyDevices(ModelError):
    """Another device may come in only if one of these goes. devices: the one that logged in longest ago first."""

    def __init__(self, user_id: int, devices: Sequence[str]) -> None:
        super().__init__(f"{len(devices)} devices of user {user_id}")
        self.user_id = user_id
        self.devices = devices


def start_sessions(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Start sessions, ending those the same devices had. Each row holds the columns of ChatSession."""
    columns = ("session_id", "created_at_ms", "expires_at_ms", "role")
    insert_or_update(connection, ChatSession, rows, key=("user_id", "device"), update=columns)


def start_session(connection: Connection, row: dict[str, Any], *, most: int, leaving: Collection[str]) -> list[str]:
    """Start a session of one user; return the devices whose sessions end with it, the same device's former one among them.

    The caller holds the user's row, so that his logins come one after the other. most: devices that he may have.
    leaving: devices that go where there are too many. Raises TooManyDevices: these are not enough.
    """
    mine = ChatSession.user_id == row["user_id"]
    query = select(ChatSession.device, ChatSession.expires_at_ms).where(mine)
    found = connection.execute(query.order_by(ChatSession.created_at_ms, ChatSession.device)).all()
    over = {device for device, expires_at_ms in found if expires_at_ms <= row["created_at_ms"]}
    ended = over | {device for device, _ in found if device == row["device"]}
    staying = [device for device, _ in found if device not in ended]
    for device in leaving:
        if len(staying) >= most and device in staying:
            staying.remove(device)
            ended.add(device)
    if len(staying) >= most:
        raise TooManyDevices(row["user_id"], staying)
    if ended:
        connection.execute(delete(ChatSession).where(mine, ChatSession.device.in_(ended)))
    start_sessions(connection, [row])
    return sorted(ended)


def load_session_id(connection: Connection, user_id: int, device: str) -> str | None:
    """Return the id of the device's session, None where it has none."""
    found = _SESSION_ID.select(connection, {"user_id": user_id, "device": device})
    return found[0][0] if found else None


_SESSION_ID = Prepared(
    select(ChatSession.session_id).where(
        ChatSession.user_id == bindparam("user_id"), ChatSession.device == bindparam("device")
    )
)


def load_expires_at_ms(connection: Connection, user_id: int, device: str, session_id: str) -> int:
    """Return when a session ends by itself; 0 where it is over."""
    mine = (ChatSession.user_id == user_id, ChatSession.device == device, ChatSession.session_id == session_id)
    return connection.execute(select(ChatSession.expires_at_ms).where(*mine)).scalar() or 0


def load_devices(connection: Connection, user_ids: Sequence[int]) -> dict[int, set[str]]:
    """Return the devices with a session of each of the users."""
    found: dict[int, set[str]] = {user_id: set() for user_id in user_ids}
    query = select(ChatSession.user_id, ChatSession.device).where(ChatSession.user_id.in_(user_ids))
    for user_id, device in connection.execute(query):
        found[user_id].add(device)
    return found


def load_starts(connection: Connection, user_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """Return when the session of each device of each of the users began, in ms."""
    found: dict[int, dict[str, int]] = {user_id: {} for user_id in user_ids}
    columns = (ChatSession.user_id, ChatSession.device, ChatSession.created_at_ms)
    for user_id, device, created_at_ms in connection.execute(select(*columns).where(ChatSession.user_id.in_(user_ids))):
        found[user_id][device] = created_at_ms
    return found


def renew_session(connection: Connection, user_id: int, device: str, session_id: str, expires_at_ms: int) -> bool:
    """Let a session last longer. False: it is over."""
    query = update(ChatSession).where(*_is(user_id, device, session_id))
    return connection.execute(query.values(expires_at_ms=expires_at_ms)).rowcount == 1


def end_session(connection: Connection, user_id: int, device: str, session_id: str) -> bool:
    """End a session. False: it was over, or a newer one of the device has taken its place."""
    return connection.execute(delete(ChatSession).where(*_is(user_id, device, session_id))).rowcount == 1


def end_other_sessions(connection: Connection, user_id: int, device: str) -> None:
    """End the sessions of all the user's devices but one."""
    connection.execute(delete(ChatSession).where(ChatSession.user_id == user_id, ChatSession.device != device))


def _is(user_id: int, device: str, session_id: str) -> tuple[Any, ...]:
    return (
        ChatSession.user_id == user_id,
        ChatSession.device == device,
        ChatSession.session_id == session_id,
    )
