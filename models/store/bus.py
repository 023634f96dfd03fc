"""The bus: news from drains to web processes, one publication per process and batch.

A publication is only news. A process that misses one reads the inboxes of its users a few seconds later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from models.store import keys
from models.store.connection import Client, Command, translated


class Delivery(NamedTuple):
    """An inbox got an entry. `body` is a place in the publication's bodies, -1: read the inbox instead."""

    user_id: int
    epoch: str
    cursor: int
    body: int
    own_device: str | None  # the sender's own entry: the device that sent
    message_id: str | None  # likewise


class Verdict(NamedTuple):
    """What became of a request. `code` None: stored, and `body` is the Message as its sender sees it."""

    wait: int  # number of the wait in its process
    message_id: str
    code: str | None
    body: int
    cursor: int  # of the sender's own inbox entry, 0 where unknown
    epoch: str = ""  # of the inbox that the cursor is of


class Refusal(NamedTuple):
    """A send was refused: told to the device that sent, whichever process holds it."""

    user_id: int
    device: str
    message_id: str
    code: str


class Order(NamedTuple):
    """What a process is to do with one of its connections, by its number."""

    user_id: int
    number: int
    # "replace": a newer one of its device has come; "revive": the newer one has gone; a Cause: its session is over
    what: str


class Signal(NamedTuple):
    """What protocol 2 tells besides messages, to all live protocol 2 sockets of a user. Nothing stores or repeats it."""

    kind: str  # the frame's type: "typing", "read", "receipt", "presence"
    user_id: int
    body: int  # place of the frame among the bodies
    but_device: str | None  # the device that caused it
    mark: str | None  # names what `level` is a level of: a socket that was told as much or more is not told again
    level: int


@dataclass(slots=True)
class Publication:
    """Everything a batch has to tell one process. Bodies stand once, however many entries refer to them."""

    deliveries: list[Delivery] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    orders: list[Order] = field(default_factory=list)
    signals: list[Signal] = field(default_factory=list)
    bodies: list[str] = field(default_factory=list)
    _places: dict[bytes, int] = field(default_factory=dict)

    def place(self, body: bytes) -> int:
        """Give the place of a body among the bodies, adding it where it is new."""
        place = self._places.get(body)
        if place is None:
            place = self._places[body] = len(self.bodies)
            self.bodies.append(body.decode())
        return place

    def encode(self) -> bytes:
        # orjson refuses named tuples on purpose.
        lists = (self.deliveries, self.verdicts, self.refusals, self.orders)
        news = [*(list(map(tuple, rows)) for rows in lists), self.bodies]
        if self.signals:  # drains never have any
            news.append(list(map(tuple, self.signals)))
        return orjson.dumps(news)


def decode(payload: bytes) -> Publication:
    deliveries, verdicts, refusals, orders, bodies, *signals = orjson.loads(payload)
    return Publication(
        [Delivery(*row) for row in deliveries],
        [Verdict(*row) for row in verdicts],
        [Refusal(*row) for row in refusals],
        [Order(*row) for row in orders],
        [Signal(*row) for rows in signals for row in rows],
        bodies,
    )


def publish_commands(publications: Iterable[tuple[str, Publication]]) -> list[Command]:
    return [publish_command(process_id, news) for process_id, news in publications]


def publish_command(process_id: str, news: Publication) -> Command:
    """Give the command that tells a process; its answer is 0 where that process does not listen."""
    return ("PUBLISH", keys.process_channel(process_id), news.encode())


def listening_command(process_ids: Iterable[str]) -> Command:
    """Ask which of these processes listen: `parse_listening`."""
    return ("PUBSUB", "NUMSUB", *map(keys.process_channel, process_ids))


def parse_listening(answer: Any, process_ids: Sequence[str]) -> set[str]:
    """Return those that listen."""
    return {process_id for process_id, count in zip(process_ids, answer[1::2], strict=True) if count}


class Subscription:
    """A process's ear on its own channel. One greenlet owns it."""

    def __init__(self, client: Client, process_id: str) -> None:
        self._ear = client.listen()
        self._channel = keys.process_channel(process_id)

    def open(self) -> None:
        """Subscribe anew; Redis has confirmed it on return. Raises StoreUnavailable."""
        self._ear.close()
        with translated():
            self._ear.subscribe(self._channel)

    def messages(self, silence_seconds: float) -> Iterator[bytes | None]:
        """Give what arrives; None whenever nothing did for that long. Raises StoreUnavailable."""
        while True:
            with translated():
                heard = self._ear.wait(silence_seconds)
            yield from heard or (None,)

    def close(self) -> None:
        self._ear.close()
