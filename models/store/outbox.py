"""The outbox: accepted requests, one list per shard, and the bells that tell drains about them.

A list holds requests from acceptance until a drain has decided, applied and published them. `accept` is safe to repeat:
a request that stands there twice has one id, and an id is decided once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models.store import keys
from models.store.connection import SCRIPTS, Client, Command, run, translated
from models.store.counters import Rate

_BELL_MS = 1_000
_WORKER_SEEN_MS = 10_000
_LOOKED_AT = 100  # entries of each list in a round trip of a search: 2 ms of Redis's time where there are eight
_MAX_TOLD_BYTES = 65_536  # of entries by the doorbell: a drain that is slow to hear is cut off at some megabytes
APPENDED, NO_SESSION = 0, -1
_NO_RATE = Rate("", 1, 0)


@dataclass(frozen=True, slots=True)
class Offer:
    """What is to be appended, and on which terms.

    session: (user id, device, session id) that must stand in the copy of the sessions (`models/store/sessions.py`)
    counted_as: the user whose send counts against the rate, which must not be exceeded
    """

    entry: bytes
    session: tuple[int, str, str] | None = None
    counted_as: int | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """What an append has brought to light.

    is_heard: whether each shard's drain has heard it; lengths: how many entries each list has now, of those appended to
    refusals: per shard and offer APPENDED, NO_SESSION, or the ms until its sender may send again
    """

    is_heard: bool
    lengths: dict[int, int]
    refusals: dict[int, list[int]]


def accept(client: Client, offers: Mapping[int, Sequence[Offer]], rate: Rate | None = None) -> Appended:
    """Append what may be accepted to its shard's list, in order, and ring at the drains that hold them.

    Where that is not heard, `ring` should be called. Raises StoreUnavailable: appended or not is unknown.
    """
    answers = run(client, [_accept_command(shard, some, rate or _NO_RATE) for shard, some in offers.items()])
    is_heard, lengths, refusals = True, {}, {}
    for shard, answer in zip(offers, answers, strict=True):
        heard, length, *found = map(int, answer.split())
        is_heard = is_heard and heard > 0
        if length:
            lengths[shard] = length
        refusals[shard] = found
    return Appended(is_heard, lengths, refusals)


def _accept_command(shard: int, offers: Sequence[Offer], rate: Rate) -> Command:
    names: list[str] = [keys.outbox(shard), keys.popped(shard)]
    args: list[Any] = [keys.doorbell(shard), shard, _MAX_TOLD_BYTES, rate.window_ms, rate.most, int(rate.is_kept)]
    for offer in offers:
        if offer.session is None:
            args += (offer.entry, 0, "", "")
        else:
            user_id, device, session_id = offer.session
            names.append(keys.sessions(user_id))
            args += (offer.entry, len(names), device, session_id)
        if offer.counted_as is None:
            args.append(0)
        else:
            names.append(rate.key("sends", str(offer.counted_as)))
            args.append(len(names))
    return SCRIPTS["accept"].call(names, args)


def ring(client: Client) -> bool:
    """Ring for shards that no drain holds. True: no drain is at work, so that a task should be sent: one for all who ask."""
    return not run(client, [("PUBLISH", keys.DOORBELL, "")])[0] and (
        run(client, [("SET", keys.BELL, "1", "NX", "PX", _BELL_MS)])[0] is not None
    )


def answer_bell(client: Client) -> None:
    """Say that a drain has come: a bell rung from now on is a new one."""
    run(client, [("DEL", keys.BELL), ("SET", keys.WORKER_SEEN, "1", "PX", _WORKER_SEEN_MS)])


def needs_bell(client: Client, shards: Sequence[int]) -> bool:
    """Return whether something waits and no drain is at work. Those at work hear that they should look again."""
    *counts, heard = run(client, [*(("LLEN", keys.outbox(shard)) for shard in shards), ("PUBLISH", keys.DOORBELL, "")])
    return any(counts) and not heard


@dataclass(frozen=True, slots=True)
class Seen:
    """Entries of a shard, in order, as a look shows them.

    end: the place of the last of them in all that was ever appended there; None: more may stand behind them
    """

    entries: list[bytes]
    end: int | None


def look(
    client: Client, held: Mapping[int, int], others: Sequence[int], most: int, first: Sequence[Command] = ()
) -> tuple[dict[int, Seen], list[int]]:
    """Return the oldest entries of the shards we hold, `most` per shard, and which of the others have any. Removes nothing.

    held: how many at the head of each list to pass over; first: what else Redis is to do, before
    """
    # Only who holds a shard pops of it, so nothing is popped between the two questions.
    counts = [("GET", keys.popped(shard)) for shard in held]
    heads = [("LRANGE", keys.outbox(shard), skip, skip + most - 1) for shard, skip in held.items()]
    lengths = [("LLEN", keys.outbox(shard)) for shard in others]
    answers = run(client, [*first, *counts, *heads, *lengths])[len(first) :]
    popped, heard, waiting = answers[: len(held)], answers[len(held) : 2 * len(held)], answers[2 * len(held) :]
    seen = {}
    for (shard, skip), count, entries in zip(held.items(), popped, heard, strict=True):
        seen[shard] = Seen(entries, int(count or 0) + skip + len(entries) if len(entries) < most else None)
    return seen, [shard for shard, count in zip(others, waiting, strict=True) if count]


def take_leases(client: Client, shards: Sequence[int], token: str, lease_ms: int) -> list[int]:
    """Take leases; return the shards whose lease is ours now."""
    return _lease(client, shards, [token, lease_ms, token])


def renew_leases(client: Client, shards: Sequence[int], token: str, lease_ms: int) -> list[int]:
    """Renew leases that are ours; return the shards whose lease has not run out."""
    return _lease(client, shards, [token, lease_ms, ""])


def _lease(client: Client, shards: Sequence[int], args: Sequence[Any]) -> list[int]:
    kept = run(client, [SCRIPTS["take_lease"].call([keys.lease(shard)], args) for shard in shards])
    return [shard for shard, is_ours in zip(shards, kept, strict=True) if is_ours]


def release_leases(client: Client, shards: Sequence[int], token: str) -> None:
    """Give leases back, and tell the drains at work that these shards are free."""
    released = [SCRIPTS["release_lease"].call([keys.lease(shard)], [token]) for shard in shards]
    run(client, [*released, ("PUBLISH", keys.DOORBELL, "")])


def holds(client: Client, shards: Sequence[int], message_id: str, most: int | None = None) -> bytes | None:
    """Return the entry of a request that waits, None where none does.

    most: so many entries of each list are looked at. None: all, in round trips that each keep Redis busy for a moment only
    """
    places = dict.fromkeys(shards, 0)
    left = most
    while places and left != 0:
        part = _LOOKED_AT if left is None else min(left, _LOOKED_AT)
        asked = [
            SCRIPTS["find_request"].call([keys.outbox(shard), keys.popped(shard)], [message_id, place, part])
            for shard, place in places.items()
        ]
        answers = dict(zip(places, run(client, asked), strict=True))
        found: bytes | None = next((answer for answer in answers.values() if answer.startswith(b"[")), None)
        if found is not None:
            return found
        places = {shard: int(place) for shard, place in answers.items() if place}
        left = None if left is None else left - part
    return None


def lengths(client: Client, shards: Sequence[int]) -> dict[int, int]:
    """Return how many requests wait in each shard. Raises StoreUnavailable."""
    return dict(zip(shards, run(client, [("LLEN", keys.outbox(shard)) for shard in shards]), strict=True))


def backlog(client: Client, shards: Sequence[int]) -> dict[int, tuple[int, bytes | None]]:
    """Return per shard how many requests wait, and the oldest of them. Raises StoreUnavailable."""
    answers = run(
        client,
        [*(("LLEN", keys.outbox(shard)) for shard in shards), *(("LINDEX", keys.outbox(shard), 0) for shard in shards)],
    )
    return dict(zip(shards, zip(answers[: len(shards)], answers[len(shards) :], strict=True), strict=True))


def pop_command(shard: int, token: str, count: int) -> Command:
    """Remove the first `count` entries of a shard, if its lease is still ours."""
    return SCRIPTS["pop"].call([keys.outbox(shard), keys.lease(shard), keys.popped(shard)], [token, count])


def bury_command(shard: int, entry: bytes) -> Command:
    """Keep an entry that cannot be decided, for people to look at."""
    return ("RPUSH", keys.dead(shard), entry)


def has_idle_drain(client: Client, shards: Sequence[int]) -> bool:
    """Return whether some drain listens and holds no shard."""
    asked: list[Command] = [("GET", keys.lease(shard)) for shard in shards]
    *tokens, (_, listening) = run(client, [*asked, ("PUBSUB", "NUMSUB", keys.DOORBELL)])
    return bool(listening > len({token for token in tokens if token}))


def check_writes(client: Client) -> None:
    """Ask whether Redis takes writes, without one. Raises StoreUnavailable: it is a replica, or full, or does not answer."""
    run(client, [("SET", keys.PROBE, "1", "XX")])


def has_worker(client: Client) -> bool:
    """Return whether some drain has run within the last seconds."""
    return bool(run(client, [("EXISTS", keys.WORKER_SEEN)])[0])


@dataclass(frozen=True, slots=True)
class Ring:
    """What the doorbell has told of a shard: the entries, and the place of the last of them, as in `Seen`."""

    shard: int
    end: int
    entries: list[bytes]

    @property
    def start(self) -> int:
        """The place of the entry before them."""
        return self.end - len(self.entries)


class Doorbell:
    """A drain's ears while it is at work: the shards it holds, and whatever nobody holds.

    What rang before an ear was open is not heard: look at the lists after opening it.
    """

    def __init__(self, client: Client) -> None:
        self._ear = client.listen()
        self._rings: list[bytes] = []

    def open(self) -> None:
        """Hear of shards that nobody holds. Raises StoreUnavailable."""
        with translated():
            self._ear.subscribe(keys.DOORBELL)

    def hold(self, shards: Iterable[int]) -> None:
        """Hear of these shards too, from now on: before they are read for the first time. Raises StoreUnavailable."""
        with translated():
            self._ear.subscribe(*map(keys.doorbell, shards))

    def drop(self, shards: Iterable[int]) -> None:
        """Hear of these shards no more. Raises StoreUnavailable."""
        with translated():
            self._ear.unsubscribe(*map(keys.doorbell, shards))

    def wait(self, seconds: float) -> bool:
        """Return whether it has rung since the last `answer`, or does within the time. Raises StoreUnavailable."""
        with translated():
            self._rings += self._ear.wait(0 if self._rings else seconds)
        return bool(self._rings)

    def answer(self) -> list[Ring] | None:
        """Return what was appended, as it rang until now. None: it rang for what only a look can show. Raises StoreUnavailable."""
        self.wait(0)
        heard, self._rings = self._rings, []
        rings = [ring for ring in map(_parse_ring, heard) if ring is not None]
        return rings if len(rings) == len(heard) else None

    def close(self) -> None:
        """Hear nothing any more: whoever rings now finds that nobody is there. Raises StoreUnavailable."""
        self._rings.clear()
        with translated():
            self._ear.unsubscribe_all()


def _parse_ring(payload: bytes) -> Ring | None:
    """Read what `accept` tells. None: it names no entries, or not all."""
    head, _, told = payload.partition(b"\n")
    entries = told.split(b"\n") if told else []
    numbers = head.split()
    if len(numbers) != 3 or len(entries) != int(numbers[2]):
        return None
    return Ring(int(numbers[0]), int(numbers[1]), entries)
