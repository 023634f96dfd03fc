"""What became of a message, as its sender may see it: per recipient and device, from what is stored anyway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from models import audiences, messages, positions
from models.database import Database
from models.requests import decode
from models.store import inbox, outbox, presence
from webapp.services import Redis, offload

State = dict[str, Any]


class DeliveryStates:
    def __init__(self, database: Database, store: Redis, shards: Sequence[int]) -> None:
        self._database = database
        self._store = store
        self._shards = shards

    def load(self, sender_id: int, message_id: str) -> State | None:
        """Return the state of the sender's message, None where he has sent no such message.

        Raises StoreUnavailable, DatabaseUnavailable.
        """
        if "\0" in message_id:
            return None  # no id has one, and PostgreSQL refuses the question
        found = offload(self._database, self._load_row, message_id)
        if found is None:
            entry = outbox.holds(self._store.client, self._shards, message_id)
            if entry is not None:
                waits = decode(entry)
                is_mine = waits.sender_id == sender_id and waits.kind == "send"
                return {"id": message_id, "status": "accepted", "recipients": []} if is_mine else None
            # It may have been decided between the two questions.
            found = offload(self._database, self._load_row, message_id)
        if found is None or found[0]["sender_id"] != sender_id or found[0]["kind"] != "send":
            return None
        row, recipient_ids = found
        if row["verdict"] == messages.REFUSED:
            return {"id": message_id, "status": "refused", "code": row["code"], "recipients": []}
        recipients = [self._recipient(row, user_id) for user_id in recipient_ids]
        has_all = all(any(device["state"] == "acknowledged" for device in devices) for devices in recipients)
        return {
            "id": message_id,
            "status": "delivered" if recipients and has_all else "stored",
            "seq": row["seq"],
            "recipients": [device for devices in recipients for device in devices],
        }

    def _load_row(self, message_id: str) -> tuple[Mapping[str, Any], list[int]] | None:
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
            return row._mapping, recipient_ids

    def _recipient(self, row: Mapping[str, Any], user_id: int) -> list[State]:
        """Return the state on each device of a recipient; one entry without a device where he has none yet."""
        commands = [inbox.state_command(user_id), presence.find_devices_command(user_id)]
        answer, connected = self._store.call_all(commands)
        epoch, devices = inbox.parse_state(answer)
        if epoch is None:
            devices = offload(self._database, self._load_positions, user_id)
        online = {device.decode() for device in connected}
        if not devices:
            return [{"user_id": user_id, "device": None, "state": "stored", "at": row["decided_at_ms"]}]
        states = []
        for device, state in devices.items():
            has_it = state.seen.get(row["shard"], 0) >= row["shard_seq"]
            at = state.seen_at_ms.get(row["shard"], row["decided_at_ms"]) if has_it else row["decided_at_ms"]
            name = "acknowledged" if has_it else "pushed" if device in online else "stored"
            states.append({"user_id": user_id, "device": device, "state": name, "at": at})
        return states

    def _load_positions(self, user_id: int) -> dict[str, inbox.DeviceState]:
        with self._database.reading() as connection:
            found = positions.load(connection, user_id)
        return {position.device: inbox.DeviceState(position.acknowledged, position.seen) for position in found}
