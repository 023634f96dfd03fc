"""The way of one message: each hop with its time, per device of its recipients, for its sender, its group's owner and
administrators. Nothing is written for it; it is put together from the decision row, from how far each device has
acknowledged and from presence, so some times are bounds: docs/protocol.md says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from models import groups, messages, users
from models.database import Database
from webapp.delivery_state import DeliveryStates, Found, Standing, has_acknowledged
from webapp.services import offload

Hop = dict[str, Any]
HopName = Literal["accepted", "decided", "stored", "pushed", "acknowledged"]

# In the order in which a message takes them, which is also the order of hops of the same millisecond.
HOPS: tuple[HopName, ...] = ("accepted", "decided", "stored", "pushed", "acknowledged")


class Traces:
    def __init__(self, database: Database, states: DeliveryStates) -> None:
        self._database = database
        self._states = states

    def load(self, viewer_id: int, message_id: str) -> dict[str, Any] | None:
        """Return a message's hops by time, None where there is no such message or the viewer may not see its way.

        Raises StoreUnavailable, DatabaseUnavailable.
        """
        found = self._states.find(message_id)
        if found is None or not self._may_see(viewer_id, found):
            return None
        hops: list[Hop] = [{"at": found.created_at_ms, "hop": "accepted"}]
        if found.row is not None:
            # Another host's clock may be behind; nothing is decided before it is accepted.
            decided_at_ms = max(found.created_at_ms, found.row["decided_at_ms"])
            hops.append({"at": decided_at_ms, "hop": "decided"})
            if found.row["verdict"] == messages.STORED:
                hops += self._recipients_hops(found.row, found.recipient_ids, decided_at_ms)
        hops.sort(key=lambda hop: (hop["at"], HOPS.index(hop["hop"])))
        return {"id": message_id, "hops": hops}

    def _may_see(self, viewer_id: int, found: Found) -> bool:
        return viewer_id == found.sender_id or offload(self._database, self._is_in_charge, viewer_id, found.group_id)

    def _is_in_charge(self, viewer_id: int, group_id: int | None) -> bool:
        with self._database.reading() as connection:
            if group_id is not None and groups.load_owner_id(connection, group_id) == viewer_id:
                return True
            return users.is_administrator(connection, viewer_id)

    def _recipients_hops(self, row: Mapping[str, Any], recipient_ids: Sequence[int], decided_at_ms: int) -> list[Hop]:
        hops = []
        for user_id, standing in self._states.standings(row, recipient_ids).items():
            hops += _recipient_hops(row, user_id, standing, decided_at_ms)
        return hops


def _recipient_hops(row: Mapping[str, Any], user_id: int, standing: Standing, decided_at_ms: int) -> list[Hop]:
    """Return the hops on each device of a recipient; where no device had it to get, that it is stored for him."""
    hops: list[Hop] = []
    for device, state in standing.devices.items():
        if has_acknowledged(row, state):
            # After a loss of Redis's data only the checkpoint is left, which says that and not when.
            at = max(decided_at_ms, state.seen_at_ms.get(row["shard"], 0))
            times: dict[HopName, int] = {"stored": decided_at_ms, "pushed": at, "acknowledged": at}
        elif device in standing.online:
            at = max(decided_at_ms, standing.seen_at_ms.get(device, 0))
            times = {"stored": decided_at_ms, "pushed": at}
        else:
            times = {"stored": decided_at_ms}
        hops += [{"at": at, "hop": hop, "user_id": user_id, "device": device} for hop, at in times.items()]
    return hops or [{"at": decided_at_ms, "hop": "stored", "user_id": user_id}]
