"""What became of a message, as its sender may see it: per recipient and device, from what is stored anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore

from models import audiences, messages, positions, sessions
from models.database import Database
from models.errors import DatabaseUnavailable, StoreUnavailable
from models.requests import Request, decode, recall_id
from models.store import inbox, outbox, presence
from webapp.services import Redis, offload

State = dict[str, Any]

_VERDICT_SECONDS = 0.5  # a database that does not answer must not keep a send from being accepted
# Of each shard what waits is searched up to so many: a few normally, 1 ms of Redis's time where eight shards hold all of these.
# Without the bound each send to workers that are behind would cost up to 200 ms of it, and put them further behind.
_MAX_COMPARED = 100
_SEARCH_SECONDS = 2.0  # that a question waits for its turn to search all that waits
# What refuses a recall now and may not later; that it is too late, or done already, stays so.
_PASSING_REFUSALS = ("message_not_found", "group_not_found", "not_in_group", "user_disabled", "internal_error")
_RECALL_ATTEMPTS = 16  # of one message by one user, within the five minutes that he has


@dataclass(frozen=True, slots=True)
class Found:
    """A send that was accepted. `row` is None until it is decided; nobody receives what was refused."""

    id: str
    sender_id: int
    group_id: int | None
    created_at_ms: int
    row: Mapping[str, Any] | None = None
    recipient_ids: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the devices of a recipient are: how far each has acknowledged, when it was seen, which are connected.

    gone: by shard, what devices had acknowledged that have logged out since
    """

    devices: Mapping[str, inbox.DeviceState]
    seen_at_ms: Mapping[str, int]  # of those devices of which it is known
    online: frozenset[str]
    gone: Mapping[int, inbox.Ranges] = field(default_factory=dict)


class DeliveryStates:
    def __init__(self, database: Database, store: Redis, shards: Sequence[int]) -> None:
        self._database = database
        self._store = store
        self._shards = shards
        self._search_turn = BoundedSemaphore(1)  # a full outbox takes some hundred round trips

    def load(self, sender_id: int, message_id: str) -> State | None:
        """Return the state of the sender's message, None where he has sent no such message.

        Raises StoreUnavailable, DatabaseUnavailable.
        """
        found = self.find(message_id)
        if found is None or found.sender_id != sender_id:
            return None
        row = found.row
        if row is None:
            return {"id": message_id, "status": "accepted", "recipients": []}
        if row["verdict"] == messages.REFUSED:
            return {"id": message_id, "status": "refused", "code": row["code"], "recipients": []}
        standings = self.standings(row, found.recipient_ids)
        recipients = [_states_of(row, user_id, standing) for user_id, standing in standings.items()]
        has_all = all(any(device["state"] == "acknowledged" for device in devices) for devices in recipients)
        return {
            "id": message_id,
            "status": "delivered" if recipients and has_all else "stored",
            "seq": row["seq"],
            "recipients": [device for devices in recipients for device in devices],
        }

    def verdict_of(self, request: Request) -> tuple[str | None, bytes | None] | None:
        """Return the code and the sender's Message of an earlier try of a send; None where it is undecided, or nobody knows.

        An undecided one has a verdict where it is something else under the same clientMsgId.
        """
        # Looked for in the order in which it moves on, so that it is missed nowhere.
        if request.client_msg_id is not None and self._waits_with_other_content(request):
            return "idempotency_conflict", None
        asked = gevent.spawn(self._load_verdict, request)
        try:
            return asked.get(timeout=_VERDICT_SECONDS)
        except gevent.Timeout:
            return None

    def _waits_with_other_content(self, request: Request) -> bool:
        try:
            entry = outbox.holds(self._store.client, self._shards, request.id, _MAX_COMPARED)
        except StoreUnavailable:
            return False  # the acceptance, which comes next, has more patience
        return entry is not None and decode(entry).content_hash() != request.content_hash()

    def _load_verdict(self, request: Request) -> tuple[str | None, bytes | None] | None:
        try:
            found = offload(self._database, self._load_decided, request.id)
        except DatabaseUnavailable:
            return None
        if found is None or found.row is None:
            return None
        row = found.row
        if row["content_hash"] != request.content_hash():
            return "idempotency_conflict", None
        body = row["body_for_sender"] or row["body"]
        return row["code"], body.encode() if body is not None else None

    def recall_id(self, sender_id: int, conversation: str, message_id: str) -> str:
        """Give the id of a recall: that of an earlier one, unless it was refused for what may be otherwise by now.

        A member who was put out and came back, and the new owner of a group, are not held to what they were told before.
        """
        ids = [recall_id(sender_id, conversation, message_id, attempt) for attempt in range(_RECALL_ATTEMPTS)]
        asked = gevent.spawn(self._load_refused, ids)
        try:
            refused = asked.get(timeout=_VERDICT_SECONDS)
        except gevent.Timeout:
            return ids[0]
        return next((each for each in ids if each not in refused), ids[-1])

    def _load_refused(self, recall_ids: Sequence[str]) -> set[str]:
        try:
            rows = offload(self._database, self._load_rows, recall_ids)
        except DatabaseUnavailable:
            return set()
        return {row_id for row_id, row in rows.items() if row.code in _PASSING_REFUSALS}

    def _load_rows(self, message_ids: Sequence[str]) -> dict[str, Any]:
        with self._database.reading() as connection:
            return messages.load_decisions(connection, message_ids)

    def find(self, message_id: str) -> Found | None:
        """Return what is known of a send, decided or not; None where there is no such send.

        Raises StoreUnavailable, DatabaseUnavailable.
        """
        if "\0" in message_id:
            return None  # no id has one, and PostgreSQL refuses the question
        decided = offload(self._database, self._load_decided, message_id)
        if decided is None:
            entry = self._search(message_id)
            if entry is not None:
                waits = decode(entry)
                group_id = waits.to_id if waits.chat_type == "group" else None
                found = Found(message_id, waits.sender_id, group_id, waits.created_at_ms)
                return found if waits.kind == "send" else None
            # It may have been decided between the two questions.
            decided = offload(self._database, self._load_decided, message_id)
        is_send = decided is not None and decided.row is not None and decided.row["kind"] == "send"
        return decided if is_send else None

    def _search(self, message_id: str) -> bytes | None:
        """Return the entry of a request that waits, wherever it stands. One search at a time: they must not slow the drains."""
        if not self._search_turn.acquire(timeout=_SEARCH_SECONDS):
            raise StoreUnavailable("too many ask for what waits")
        try:
            return outbox.holds(self._store.client, self._shards, message_id)
        finally:
            self._search_turn.release()

    def standings(self, row: Mapping[str, Any], user_ids: Sequence[int]) -> dict[int, Standing]:
        """Return where the devices of a message's recipients are, in one round trip. Where Redis has lost it, SQL's
        checkpoints say it. Devices that logged in after the message are left out: they had nothing to get.

        Raises StoreUnavailable, DatabaseUnavailable.
        """
        if not user_ids:
            return {}
        commands = [inbox.state_command(user_id) for user_id in user_ids]
        answers = self._store.call_all([*commands, *(presence.find_devices_command(user_id) for user_id in user_ids)])
        found, lost = {}, []
        for user_id, state, connected in zip(user_ids, answers, answers[len(user_ids) :], strict=False):
            epoch, devices = inbox.parse_state(state)
            if epoch is None:
                lost.append(user_id)
            online = frozenset(device.decode() for device in connected)
            found[user_id] = Standing(devices, inbox.parse_seen_at(state), online, inbox.parse_gone(state))
        if lost:
            checkpoints = offload(self._database, self._load_positions, lost)
            for user_id, devices in checkpoints.items():
                found[user_id] = Standing(devices, {}, found[user_id].online)
        return self._without_later(row, found)

    def _without_later(self, row: Mapping[str, Any], found: dict[int, Standing]) -> dict[int, Standing]:
        found = {
            user_id: replace(standing, devices={n: s for n, s in standing.devices.items() if not _is_later(row, s)})
            for user_id, standing in found.items()
        }
        # After a loss of Redis's data it is not known with what a device began. It counted as having seen all there was, and only
        # what it acknowledges itself has a time, so SQL is asked about none that has acknowledged something of the shard.
        unsure = {
            user_id: devices
            for user_id, standing in found.items()
            if (devices := [name for name, state in standing.devices.items() if _may_be_later(row, state)])
        }
        if not unsure:
            return found
        begun_at_ms = offload(self._database, self._load_session_starts, list(unsure))
        for user_id, devices in unsure.items():
            later = {name for name in devices if begun_at_ms[user_id].get(name, 0) > row["decided_at_ms"]}
            kept = {name: state for name, state in found[user_id].devices.items() if name not in later}
            found[user_id] = replace(found[user_id], devices=kept)
        return found

    def _load_session_starts(self, user_ids: Sequence[int]) -> dict[int, dict[str, int]]:
        with self._database.reading() as connection:
            return sessions.load_starts(connection, user_ids)

    def _load_decided(self, message_id: str) -> Found | None:
        with self._database.reading() as connection:
            row = messages.load_decision(connection, message_id)
            if row is None:
                return None
            if row.group_id is None:
                recipient_ids = [row.recipient_id]
            elif row.audience_version is not None:
                members = audiences.load(connection, row.group_id, row.audience_version)
                recipient_ids = [user_id for user_id in members if user_id != row.sender_id]
            else:
                recipient_ids = []
            if row.verdict == messages.REFUSED:
                recipient_ids = []
            return Found(row.id, row.sender_id, row.group_id, row.created_at_ms, row._mapping, recipient_ids)

    def _load_positions(self, user_ids: Sequence[int]) -> dict[int, dict[str, inbox.DeviceState]]:
        with self._database.reading() as connection:
            loaded = {user_id: positions.load(connection, user_id) for user_id in user_ids}
        return {
            user_id: {each.device: inbox.DeviceState(each.acknowledged, each.seen) for each in found}
            for user_id, found in loaded.items()
        }


def has_acknowledged(row: Mapping[str, Any], state: inbox.DeviceState) -> bool:
    """Return whether a device has acknowledged a stored message."""
    return bool(state.seen.get(row["shard"], 0) >= row["shard_seq"])


def _is_later(row: Mapping[str, Any], state: inbox.DeviceState) -> bool:
    """Return whether a device began after a message, and had nothing of it to get."""
    return bool(state.begun.get(row["shard"], 0) >= row["shard_seq"])


def _may_be_later(row: Mapping[str, Any], state: inbox.DeviceState) -> bool:
    return has_acknowledged(row, state) and row["shard"] not in state.seen_at_ms


def _states_of(row: Mapping[str, Any], user_id: int, standing: Standing) -> list[State]:
    """Return the state on each device of a recipient; one entry without a device where he has none yet, and for those that
    had it when they logged out: it stays delivered.
    """
    had_it = any(after < row["shard_seq"] <= upto for after, upto in standing.gone.get(row["shard"], ()))
    states: list[State] = []
    if had_it or not standing.devices:
        name = "acknowledged" if had_it else "stored"
        states.append({"user_id": user_id, "device": None, "state": name, "at": row["decided_at_ms"]})
    for device, state in standing.devices.items():
        has_it = has_acknowledged(row, state)
        at = state.seen_at_ms.get(row["shard"], row["decided_at_ms"]) if has_it else row["decided_at_ms"]
        name = "acknowledged" if has_it else "pushed" if device in standing.online else "stored"
        states.append({"user_id": user_id, "device": device, "state": name, "at": at})
    return states
