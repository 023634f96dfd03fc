"""What happened in a run, as clients saw it: one event per send and per delivery.

Recorders append to a `History` from many threads; `tests.support.checker` judges it; a file of JSON lines keeps it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Outcome = Literal["accepted200", "accepted202", "refused", "unknown"]


@dataclass(frozen=True, slots=True)
class Sent:
    """One try to send, from its start to its answer.

    text: unique in the run; a repeat of a send (same clientMsgId) is another Sent with the same text
    recipients: the users who must receive it, the sender excluded
    t_start, t_end: seconds on one monotonic clock
    outcome: unknown = no answer, or one that says that the outcome is unknown (503)
    message_id: None where the answer named none; seq: None where the answer named none (202)
    """

    sender: int
    conversation: str
    text: str
    recipients: tuple[int, ...]
    t_start: float
    t_end: float
    outcome: Outcome
    message_id: str | None = None
    seq: int | None = None
    client_id: str | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the server took responsibility for it."""
        return self.outcome in ("accepted200", "accepted202")


@dataclass(frozen=True, slots=True)
class Received:
    """One message frame on one connection of one user.

    connection_no: counts the user's connections from 1, over all receivers of that user
    cursor: protocol 2 only
    is_notice: made by the server and stored in the conversation: it takes a seq, but nobody sent it
    """

    user: int
    connection_no: int
    message_id: str
    seq: int | None
    conversation: str
    text: str
    t: float
    cursor: int | None = None
    is_notice: bool = False


Event = Sent | Received


def single_conversation(user_id: int, peer_id: int) -> str:
    """Name the one-to-one conversation of two users, whoever asks."""
    return f"single:{min(user_id, peer_id)}:{max(user_id, peer_id)}"


def group_conversation(group_id: int) -> str:
    """Name a group's conversation."""
    return f"group:{group_id}"


def outcome_of(status: int) -> Outcome:
    """Say what an HTTP status of the send route promises (contract section 2). 503 and 5xx leave the outcome open."""
    if status == 200:
        return "accepted200"
    if status == 202:
        return "accepted202"
    return "refused" if 400 <= status < 500 else "unknown"


class History:
    """The events of one run in the order they were recorded. Thread-safe to append to."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._events = list(events)
        self._lock = threading.Lock()

    def append(self, event: Event) -> None:
        """Record one event."""
        with self._lock:
            self._events.append(event)

    def __iter__(self) -> Iterator[Event]:
        with self._lock:
            return iter(list(self._events))

    def __len__(self) -> int:
        return len(self._events)

    def write(self, path: Path) -> None:
        """Write one JSON object a line."""
        with path.open("w", encoding="utf-8") as file:
            for event in self:
                kind = "sent" if isinstance(event, Sent) else "received"
                file.write(json.dumps({"event": kind, **asdict(event)}, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> History:
        """Read what `write` wrote. Raises ValueError: a line is no event."""
        with path.open(encoding="utf-8") as file:
            return cls(_event(json.loads(line)) for line in file if line.strip())


def _event(row: dict[str, Any]) -> Event:
    kind = row.pop("event", None)
    if kind == "received":
        return Received(**row)
    if kind == "sent" and row["outcome"] in get_args(Outcome):
        row["recipients"] = tuple(row["recipients"])
        return Sent(**row)
    raise ValueError(f"not an event: {kind!r}")
