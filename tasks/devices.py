"""Devices that count no more: those unseen for 30 days, and those whose session is gone from SQL.

A device that counts keeps what it lacks in its user's inbox, so one that never comes back must be forgotten some day. It
may come back all the same: it then counts anew, from the newest entry on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from models import positions, sessions
from models.database import Database
from models.store import inbox, presence
from models.store.connection import Client, Command, run

log = structlog.get_logger()

UNSEEN_MS = 30 * 24 * 3_600_000
_USERS_PER_PAGE = 500


def forget_unseen(database: Database, client: Client, now_ms: int) -> int:
    """Forget devices in Redis and SQL; return how many. Raises StoreUnavailable, DatabaseUnavailable: repeat it later."""
    last_user_id, count = 0, 0
    while True:
        with database.reading() as connection:
            page = positions.load_page(connection, last_user_id, _USERS_PER_PAGE)
        if not page:
            return count
        count += _forget_page(database, client, page, now_ms)
        last_user_id = max(page)


def _forget_page(database: Database, client: Client, page: Mapping[int, Sequence[str]], now_ms: int) -> int:
    states = run(client, [inbox.state_command(user_id) for user_id in page])
    connected = run(client, [presence.find_devices_command(user_id) for user_id in page])
    # Read after Redis: a login writes its session before its device counts.
    with database.reading() as connection:
        standing = sessions.load_devices(connection, list(page))
    commands: list[Command] = []
    gone: dict[int, list[str]] = {}
    for (user_id, kept), state, names in zip(page.items(), states, connected, strict=True):
        if inbox.parse_state(state)[0] is None:
            continue  # Redis has lost the inbox: what SQL keeps is what it will be opened from
        online = {name.decode() for name in names}
        over = set()
        known = inbox.parse_seen_at(state)
        for device, seen_at_ms in known.items():
            if not seen_at_ms:
                # Rebuilt after Redis had lost its data, and not seen since: its time runs from now.
                commands.append(inbox.seen_at_command(user_id, device, now_ms))
            is_unseen = 0 < seen_at_ms < now_ms - UNSEEN_MS
            if device not in online and (is_unseen or device not in standing[user_id]):
                over.add(device)
                commands.append(inbox.forget_command(user_id, device))
        gone[user_id] = [device for device in kept if device in over or device not in known]
    run(client, commands)
    with database.writing() as connection:
        for user_id, devices in gone.items():
            if devices:
                positions.forget(connection, user_id, devices)
                log.info("devices_forgotten", user_id=user_id, count=len(devices))
    return sum(map(len, gone.values()))
