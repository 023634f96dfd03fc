"""What tests of one instance do again and again: open sockets where they want them, start sessions, empty inboxes."""

from __future__ import annotations

import os
import secrets
import signal
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import Literal

from models import friendships, sessions
from models.database import Database, insert_missing, open_database
from models.store import keys
from models.users import User
from tests.support.client import ChatSocket, Frame, HttpClient
from tests.support.instance import Instance, wait_until
from webapp.tokens import Tokens

DEVICE = "default"  # the device of the tokens that `Instance.seed` gives

Version = Literal[1, 2]


class CannotPlace(Exception):
    """The web process that is wanted accepts no connections."""


def open_socket(
    instance: Instance,
    user_id: int,
    v: Version = 1,
    *,
    token: str | None = None,
    cursor: int | None = None,
    epoch: str | None = None,
    answer_pings: bool = True,
) -> ChatSocket:
    """Connect a user and wait for the first frame after which messages come: the welcome, in protocol 2 the hello."""
    token = instance.tokens[user_id] if token is None else token
    socket = ChatSocket(instance.base, token, v, cursor, epoch, answer_pings=answer_pings)
    socket.wait_for(lambda frame: frame.data.get("type") == ("system" if v == 1 else "hello"))
    return socket


def hello_of(socket: ChatSocket) -> dict[str, object]:
    """Return the hello of a protocol 2 connection."""
    return socket.wait_for(lambda frame: frame.data.get("type") == "hello").data


def show_marker(instance: Instance, sender_id: int, recipient_id: int, socket: ChatSocket) -> Frame:
    """Send a message and wait for the recipient's socket to show it: what was written before it has been read by now."""
    text = f"marker {uuid.uuid4().hex}"
    status, body = HttpClient(instance.base, instance.tokens[sender_id]).send(recipient_id, text)
    assert status == 200, body
    return socket.wait_for_text(text)


def live_place(instance: Instance, user_id: int, device: str = DEVICE) -> str:
    """Return `process:number:protocol` of the device's live connection, empty where it has none."""
    with instance.redis() as client:
        return str(client.hget(keys.online(user_id), device) or "").rpartition(" ")[2]


def open_placed(
    instance: Instance,
    user_id: int,
    v: Version,
    *,
    is_on: bool,
    process_id: str,
    device: str = DEVICE,
    token: str | None = None,
) -> ChatSocket:
    """Connect a user on that web process, or where `is_on` is False on another. Raises CannotPlace.

    One web process after the other has the connection to itself: left to themselves the same one may accept every time.
    """
    for pid in instance.processes("web"):
        before = live_place(instance, user_id, device)
        with stopped(set(instance.processes("web")) - {pid}):
            socket = open_socket(instance, user_id, v, token=token)
        assert wait_until(lambda before=before: live_place(instance, user_id, device) != before, 5.0, 0.005)  # type: ignore[misc]
        place = live_place(instance, user_id, device)
        if (place.partition(":")[0] == process_id) is is_on:
            return socket
        socket.close()
        assert wait_until(lambda place=place: live_place(instance, user_id, device) != place, 5.0, 0.005)  # type: ignore[misc]
    raise CannotPlace("no web process is the one wanted")


@contextmanager
def stopped(pids: Iterable[int]) -> Iterator[None]:
    """Let processes stand still for the block (SIGSTOP)."""
    pids = list(pids)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def device_state(instance: Instance, user_id: int, device: str = DEVICE) -> tuple[int, int | None]:
    """Return the newest cursor of the user's inbox, and how far a device has acknowledged; None where it is unknown."""
    with instance.redis() as client:
        newest, acknowledged = client.hmget(keys.cursor(user_id), ["next", f"d:{device}"])
    return int(newest or 0), None if acknowledged is None else int(acknowledged)


def has_acknowledged_all(instance: Instance, user_id: int, device: str = DEVICE) -> bool:
    """Return whether Redis knows that a device has everything."""
    newest, acknowledged = device_state(instance, user_id, device)
    return newest == acknowledged


def empty_inbox(instance: Instance, user_id: int, device: str = DEVICE, token: str | None = None) -> None:
    """Let a device acknowledge everything that earlier tests have left for it. It is a known device from then on."""
    if has_acknowledged_all(instance, user_id, device):
        return
    with open_socket(instance, user_id, 2, token=token) as socket:

        def is_empty() -> bool:
            socket.ack(device_state(instance, user_id, device)[0])
            return has_acknowledged_all(instance, user_id, device)

        assert wait_until(is_empty, 10.0), f"the inbox of {user_id} does not become empty"
    assert wait_until(lambda: not live_place(instance, user_id, device), 5.0)


def database_of(instance: Instance) -> Database:
    """Open the instance's database beside it."""
    return open_database(instance.environment["DATABASE_URL"] or f"sqlite:///{instance.data_dir / 'hongyan.db'}")


def start_session(instance: Instance, user_id: int, device: str) -> str:
    """Log a user in on a device, ending the session it had there, and return the token."""
    now_ms = time.time_ns() // 1_000_000
    session_id = secrets.token_hex(8)
    row = {
        "user_id": user_id,
        "device": device,
        "session_id": session_id,
        "created_at_ms": now_ms,
        "expires_at_ms": now_ms + 3_600_000,
    }
    database = database_of(instance)
    with database.writing() as connection:
        sessions.start_sessions(connection, [row])
    database.engine.dispose()
    with closing(instance.redis()) as client:
        client.hset(keys.sessions(user_id), device, session_id)
    return sign(instance, user_id, device, session_id)


def add_friends(instance: Instance) -> tuple[int, int]:
    """Make two users who are friends and of whom nobody has heard, and remember their tokens."""
    first_id = max(instance.tokens) + 1
    pair = (first_id, first_id + 1)
    database = database_of(instance)
    with database.writing() as connection:
        rows = [
            {"id": user_id, "uuid": _uuid_of(user_id), "username": f"added{user_id}", "password": "", "nickname": ""}
            for user_id in pair
        ]
        insert_missing(connection, User, rows, key=("id",))
        friendships.befriend(connection, [pair])
    database.engine.dispose()
    for user_id in pair:
        instance.tokens[user_id] = start_session(instance, user_id, DEVICE)
    return pair


def sign(instance: Instance, user_id: int, device: str, session_id: str, *, ttl_seconds: int = 3_600) -> str:
    """Sign a token with the instance's secret."""
    secret = (instance.data_dir / "jwt_secret").read_text().strip()
    tokens = Tokens(secret, ttl_seconds)
    return tokens.sign(user_id=user_id, uuid=_uuid_of(user_id), role="user", session_id=session_id, device=device)


def _uuid_of(user_id: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"hongyan-seed-{user_id}"))
