"""Inboxes: what each user's devices have not all acknowledged, in order, with consecutive cursors.

An entry is a header and a body: `<shard>:<position>:<own device>:<group>.<seq>|<Message as JSON>`. The position is the
decision's `shard_seq`. `own device` names, percent-encoded, the device that sent, in the sender's own inbox only. A group
message stands once in its group's log: its entries have an empty body and say which one it is.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

import orjson

from models.store import keys
from models.store.connection import SCRIPTS, Command, pack_arguments


@dataclass(frozen=True, slots=True)
class Entry:
    shard: int
    position: int
    own_device: str | None
    body: bytes  # Message as JSON, as this user may see it; empty where `reference` says which it is
    reference: tuple[int, int] | None = None  # group id, seq

    @property
    def message_id(self) -> str | None:
        """Id of the user's own message; None for everybody else's, where nobody asks."""
        return str(orjson.loads(self.body)["id"]) if self.own_device is not None and self.body else None

    def encode(self) -> bytes:
        return self.head() + self.body

    def head(self) -> bytes:
        """Give what stands before the body."""
        device = _quoted(self.own_device) if self.own_device is not None else b""
        reference = b"%d.%d" % self.reference if self.reference else b""
        return b"%d:%d:%s:%s|" % (self.shard, self.position, device, reference)


@lru_cache(maxsize=10_000)
def _quoted(device: str) -> bytes:
    return quote(device, safe="").encode()


def decode(raw: bytes) -> Entry:
    """Raises ValueError: it is no entry."""
    header, _, body = raw.partition(b"|")
    shard, position, device, reference = header.split(b":")
    group_id, _, seq = reference.partition(b".")
    if not reference and not (body.startswith(b"{") and body.endswith(b"}")):
        raise ValueError("an entry has a Message, or says which it is")
    return Entry(
        int(shard),
        int(position),
        unquote(device.decode()) if device else None,
        body,
        (int(group_id), int(seq)) if reference else None,
    )


@dataclass(frozen=True, slots=True)
class LogEntry:
    """What an append adds for one message: to the inbox, and to the log of a one-to-one conversation where `peer_id` is set."""

    entry: Entry
    peer_id: int | None
    packed: bytes = field(default=b"", compare=False)  # its arguments as Redis reads them, where they name no log

    def __post_init__(self) -> None:
        if self.peer_id is None:
            # Once for all its recipients: of a group's message to a thousand members this is most of what there is to do.
            object.__setattr__(self, "packed", pack_arguments(self.arguments(0)))

    def arguments(self, log: int) -> tuple[int, bytes, bytes, int]:
        """Give its arguments; `log` is the place of its log among the keys, 0 for none."""
        return self.entry.position, self.entry.head(), self.entry.body, log


def append_command(user_id: int, shard: int, entries: Sequence[LogEntry], *, inbox_max: int, log_max: int) -> Command:
    """Append what one shard's batch brings to one user, in order of position. The answer: `Appended.parse`."""
    peers = dict.fromkeys(entry.peer_id for entry in entries if entry.peer_id is not None)
    if not peers:
        head = _append_head(4 * len(entries), shard, inbox_max, log_max)
        return b"".join([head[0], _owner_keys(user_id), head[1], *[entry.packed for entry in entries]])
    places: dict[int | None, int] = {peer_id: place for place, peer_id in enumerate(peers, 4)}
    args: list[Any] = [shard, inbox_max, log_max]
    for entry in entries:
        args += entry.arguments(places.get(entry.peer_id, 0))
    owner = (keys.cursor(user_id), keys.inbox(user_id), keys.online(user_id))
    return SCRIPTS["append"].call([*owner, *(keys.single_log(user_id, peer_id) for peer_id in peers)], args)


@lru_cache(maxsize=1_000)
def _append_head(entry_args: int, shard: int, inbox_max: int, log_max: int) -> tuple[bytes, bytes]:
    """Give an append's packed beginning, up to the keys of its owner, and what follows these up to the first entry."""
    sha = SCRIPTS["append"].sha
    return (
        b"*%d\r\n" % (3 + 3 + 3 + entry_args) + pack_arguments(("EVALSHA", sha, 3)),
        pack_arguments((shard, inbox_max, log_max)),
    )


@lru_cache(maxsize=20_000)
def _owner_keys(user_id: int) -> bytes:
    return pack_arguments((keys.cursor(user_id), keys.inbox(user_id), keys.online(user_id)))


@dataclass(frozen=True, slots=True)
class Appended:
    """`epoch` empty: the user's inbox is lost and must be rebuilt first; nothing was appended."""

    epoch: str
    cursors: Sequence[int] = ()  # one per entry, 0 where an earlier try had appended it
    newest: int = 0
    online: Sequence[str] = ()  # per device that is connected: presence.live_connection reads it

    @classmethod
    def parse(cls, answer: bytes) -> Appended:
        if not answer:
            return cls("")
        epoch, cursors, newest, *online = answer.decode().split("\n")
        return cls(epoch, list(map(int, cursors.split(","))), int(newest), online)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of an inbox. `base` is the cursor of the last entry that is gone; the first entry has `first` as cursor.

    An entry is None where nobody can read what stands there; `unreadable` holds what that is.
    """

    epoch: str | None
    newest: int
    base: int
    first: int
    entries: Sequence[Entry | None]
    unreadable: Sequence[bytes] = ()


def read_command(user_id: int, after_cursor: int, most: int) -> Command:
    return SCRIPTS["read_inbox"].call([keys.cursor(user_id), keys.inbox(user_id)], [after_cursor, most])


def parse_page(answer: Any, after_cursor: int) -> Page:
    epoch, newest, base, raw = answer
    first = max(after_cursor, base) + 1
    entries: list[Entry | None] = []
    unreadable = []
    for entry in raw:
        try:
            entries.append(decode(entry))
        except ValueError:
            entries.append(None)
            unreadable.append(entry)
    return Page(epoch.decode() or None, newest, base, first, entries, unreadable)


def bury_command(user_id: int, unreadable: Sequence[bytes]) -> Command:
    """Keep entries that nobody can read, for people to look at: each once, however often it is met."""
    return ("SADD", keys.dead_entries(user_id), *unreadable)


def tombstone_command(user_id: int, peer_id: int, shard: int, position: int, message_id: str, body: bytes) -> Command:
    """Replace a recalled one-to-one message in the user's inbox, if it is still there, and in his log."""
    keys_of_owner = [keys.inbox(user_id), keys.single_log(user_id, peer_id)]
    return SCRIPTS["tombstone"].call(keys_of_owner, [f"{shard}:{position}:", f'{{"id":"{message_id}"', body])


def acknowledge_command(user_id: int, device: str, epoch: str, cursor: int) -> Command:
    """Record that a device has everything up to `cursor`. Ignored where it is not above what is recorded."""
    now_ms = time.time_ns() // 1_000_000
    return SCRIPTS["acknowledge"].call([keys.cursor(user_id), keys.inbox(user_id)], [epoch, device, cursor, now_ms])


def open_command(
    user_id: int, positions: Mapping[int, int], devices: Mapping[str, DeviceState], entries: Sequence[Entry]
) -> Command:
    """Open an inbox under a new epoch with `entries` as cursors 1, 2, … Ignored where it is open.

    positions: per shard the newest shard_seq that the entries take account of. devices: where each device stands among them.
    """
    args: list[Any] = [secrets.token_hex(4), len(positions)]
    for shard, position in positions.items():
        args += (shard, position)
    fields: list[Any] = []
    for device, state in devices.items():
        fields += (f"d:{device}", state.acknowledged)
        for shard, position in state.seen.items():
            fields += (f"v:{device}:{shard}", position)
    args += (len(fields) // 2, *fields)
    args += [entry.encode() for entry in entries]
    return SCRIPTS["open_inbox"].call([keys.cursor(user_id), keys.inbox(user_id)], args)


def newest_command(user_id: int) -> Command:
    return ("HMGET", keys.cursor(user_id), "epoch", "next")


def position_command(user_id: int, device: str) -> Command:
    """Ask for the epoch of the inbox and the cursor that a device has acknowledged; either may be absent."""
    return ("HMGET", keys.cursor(user_id), "epoch", f"d:{device}")


def register_command(user_id: int, device: str) -> Command:
    """Let a device count. The answer is -1 where the inbox must be opened first, 1 where the device is new, else 0."""
    return SCRIPTS["register_device"].call([keys.cursor(user_id)], [device, time.time_ns() // 1_000_000])


def forget_command(user_id: int, device: str) -> Command:
    """Let a device count no more: it no longer holds the inbox's trim back."""
    return SCRIPTS["forget_device"].call([keys.cursor(user_id), keys.inbox(user_id)], [device])


def seen_at_command(user_id: int, device: str, at_ms: int) -> Command:
    """Say when a device was seen, of which that is not known: after Redis has lost its data."""
    return ("HSETNX", keys.cursor(user_id), f"n:{device}", at_ms)


def parse_seen_at(answer: Any) -> dict[str, int]:
    """Return of a state when each device was seen, in ms; 0 where that is not known."""
    fields = _as_mapping(answer)
    return {name[2:]: int(fields.get(f"n:{name[2:]}", 0)) for name in fields if name.startswith("d:")}


@dataclass(frozen=True, slots=True)
class DeviceState:
    acknowledged: int
    seen: Mapping[int, int]  # shard -> newest shard_seq acknowledged
    seen_at_ms: Mapping[int, int] = field(default_factory=dict)  # shard -> when that was
    begun: Mapping[int, int] = field(default_factory=dict)  # shard -> newest shard_seq when a later device came


def state_command(user_id: int) -> Command:
    return ("HGETALL", keys.cursor(user_id))


def parse_state(answer: Any) -> tuple[str | None, dict[str, DeviceState]]:
    """Return the epoch (None where there is no inbox) and how far each device has acknowledged."""
    fields = _as_mapping(answer)
    per_shard: dict[str, dict[str, dict[int, int]]] = {"v": {}, "t": {}, "f": {}}
    for name, value in fields.items():
        if name[:2] in ("v:", "t:", "f:"):
            device, _, shard = name[2:].rpartition(":")
            per_shard[name[0]].setdefault(device, {})[int(shard)] = int(value)
    devices = {
        name[2:]: DeviceState(int(value), *(per_shard[kind].get(name[2:], {}) for kind in "vtf"))
        for name, value in fields.items()
        if name.startswith("d:")
    }
    return fields.get("epoch"), devices


Ranges = list[tuple[int, int]]  # each: after the first number, up to the second


def parse_gone(answer: Any) -> dict[int, Ranges]:
    """Return of a state, by shard, the shard_seqs that devices had acknowledged which count no more."""
    return {int(name[2:]): _ranges(value) for name, value in _as_mapping(answer).items() if name.startswith("a:")}


def _ranges(text: str) -> Ranges:
    ends = (each.partition("-") for each in text.split())
    return [(int(after), int(upto)) for after, _, upto in ends]


def _as_mapping(answer: Any) -> dict[str, str]:
    if isinstance(answer, dict):
        return {name.decode(): value.decode() for name, value in answer.items()}
    return {name.decode(): value.decode() for name, value in zip(answer[::2], answer[1::2], strict=True)}
