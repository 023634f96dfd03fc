"""What happened in a run, as clients saw it: one event per send, delivery, acknowledgement, connection, fault and probe.

Recorders append to a `History` from many threads; `chaos.checker` judges it; a file of JSON lines keeps it. All times are
seconds on one monotonic clock.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Outcome = Literal["accepted200", "accepted202", "refused", "unknown"]
Via = Literal["http", "async", "socket"]
Kind = Literal["good", "flooder"]
Ending = Literal["server", "client"]

DEVICE = "default"


@dataclass(frozen=True, slots=True)
class Sent:
    """One try to send, from its start to its answer.

    text: unique in the run; a repeat of a send (same clientMsgId) is another Sent with the same text
    recipients: the users who must receive it, the sender excluded
    outcome: unknown = no answer, or one that says that the outcome is unknown (503); a sendResult counts as accepted200
    message_id: None where the answer named none; seq: None where the answer named none (202)
    via: async = HTTP with `Prefer: respond-async`; code: of a refusal
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
    via: Via = "http"
    device: str = DEVICE
    code: str | None = None

    @property
    def is_accepted(self) -> bool:
        """Whether the server took responsibility for it."""
        return self.outcome in ("accepted200", "accepted202")


@dataclass(frozen=True, slots=True)
class Received:
    """One message frame on one connection of one user.

    connection_no: counts the user's connections from 1, over all receivers of that device
    cursor: protocol 2 only
    is_notice: made by the server and stored in the conversation: it takes a seq, but nobody sent it
    is_own: sent by this very user, from this or another device
    is_result: came as a sendResult, which stands for the entry on the device that sent
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
    device: str = DEVICE
    is_own: bool = False
    is_result: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """A device that takes part from before the first send to after the last.

    kind: to a flooder nothing is promised but that nothing is silent
    """

    user: int
    device: str
    protocol: int
    kind: Kind = "good"
    traits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection that was greeted. asked_*: with what it came back; epoch: what its hello said (protocol 2)."""

    user: int
    device: str
    connection_no: int
    t: float
    asked_cursor: int | None = None
    asked_epoch: str | None = None
    epoch: str | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """A connection's end. code: of the server's close frame, None where none came; by: who ended it."""

    user: int
    device: str
    connection_no: int
    t: float
    code: int | None
    by: Ending


@dataclass(frozen=True, slots=True)
class Acked:
    """An acknowledgement that was written, of everything received on the connection so far: a pong or an ack frame."""

    user: int
    device: str
    connection_no: int
    t: float


@dataclass(frozen=True, slots=True)
class Reset:
    """The server's word that first..last cannot be replayed; last < first: a new epoch under which none is missing."""

    user: int
    device: str
    connection_no: int
    t: float
    epoch: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Fault:
    """One injected fault. slot: faults of one slot were injected together; t_end = t_start for a kill."""

    slot: int
    kind: str
    t_start: float
    t_end: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Emptied:
    """All of Redis's data was removed between the two moments."""

    t_start: float
    t_end: float


@dataclass(frozen=True, slots=True)
class Probe:
    """One message of the prober. t_received: None = never."""

    number: int
    t_sent: float
    t_received: float | None


@dataclass(frozen=True, slots=True)
class State:
    """What `GET messages/<id>` said at the end. status: as answered, or `missing` (404), or `unasked` (no answer)."""

    message_id: str
    t: float
    status: str
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Phase:
    """When something of the run began: `load`, `end` (of the load), `quiet`."""

    name: str
    t: float


Event = Sent | Received | Joined | Opened | Closed | Acked | Reset | Fault | Emptied | Probe | State | Phase
# What carries a message, and so can show a broken promise about one.
MessageEvent = Sent | Received

_KINDS: dict[str, Callable[..., Event]] = {
    kind.__name__.lower(): kind
    for kind in (Sent, Received, Joined, Opened, Closed, Acked, Reset, Fault, Emptied, Probe, State, Phase)
}


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
                kind = type(event).__name__.lower()
                file.write(json.dumps({"event": kind, **asdict(event)}, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> History:
        """Read what `write` wrote. Raises ValueError: a line is no event."""
        with path.open(encoding="utf-8") as file:
            return cls(_event(json.loads(line)) for line in file if line.strip())


def _event(row: dict[str, Any]) -> Event:
    name = row.pop("event", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None or (kind is Sent and row.get("outcome") not in get_args(Outcome)):
        raise ValueError(f"not an event: {name!r}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"not an event: {error}") from error
