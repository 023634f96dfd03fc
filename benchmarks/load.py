"""The load: who is connected, what was sent and has not come yet, and the two ways to send, closed and open.

A text is known by its number and counts where it was expected, once; how it is spelled and found is dialect.py's affair.
Closed loop: each slot waits for acknowledgement and delivery before it sends again. Open loop: sends happen when they are
due, whatever has become of those before.
"""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from benchmarks.dialect import DIGITS, HONGYAN, ChatType, Device, Dialect, number_in
from benchmarks.wire import Address, HttpLines, Loop

_NUMBER = b"0" * DIGITS  # as it stands in what a dialect spells
_ACK_EVERY_SECONDS = 0.2
_RETRY_SECONDS = 0.02
# The poll counts milliseconds: a send that is less late than this was not held up, and its clock starts when it is sent.
_TIMER_SECONDS = 0.002
_MAX_OUTSTANDING = 5_000


class Route:
    """A way from a sender into a conversation. recipients: whose sockets must show the message"""

    recipients: frozenset[int]

    def send(self, number: int) -> None:
        """Send the text of that number."""
        raise NotImplementedError


class HttpRoute(Route):
    """Sends by the API. is_async: asks for a 202 as soon as the request is durable"""

    def __init__(
        self,
        load: Load,
        sender_id: int,
        target_id: int,
        recipients: Iterable[int],
        chat_type: ChatType = "single",
        *,
        is_async: bool = False,
    ) -> None:
        self._load = load
        self.recipients = frozenset(recipients)
        more = "Prefer: respond-async\r\n" if is_async else ""
        whole = load.dialect.http_send(load.address, load.tokens[sender_id], target_id, chat_type, more)
        self._parts = whole.split(_NUMBER)

    def send(self, number: int) -> None:
        """Send it; any free connection will do."""
        load = self._load
        load.http.ask(
            (b"%0*d" % (DIGITS, number)).join(self._parts),
            lambda status, body: load.answered(number, status),
        )


class SocketRoute(Route):
    """Sends by the sender's own socket."""

    def __init__(
        self,
        load: Load,
        sender_id: int,
        target_id: int,
        recipients: Iterable[int],
        chat_type: ChatType = "single",
    ) -> None:
        self._device = load.devices[sender_id]
        self.recipients = frozenset(recipients)
        self._parts = load.dialect.socket_send(target_id, chat_type).split(_NUMBER)

    def send(self, number: int) -> None:
        """Send it."""
        self._device.line.send((b"%0*d" % (DIGITS, number)).join(self._parts))


class Sent:
    """A message under way. waiting: recipients that have not shown it"""

    __slots__ = ("at", "is_acknowledged", "on_done", "recipients", "waiting")

    def __init__(self, at: float, recipients: frozenset[int], on_done: Callable[[], None] | None) -> None:
        self.at = at
        self.recipients = recipients
        self.waiting = set(recipients)
        self.is_acknowledged = False
        self.on_done = on_done


class Load:
    """Everything of one scenario: connections, messages, counts. Close it at the end.

    numbers: gives each message a number that no other on this system had
    dialect: ours, or that of a peer
    """

    def __init__(
        self,
        loop: Loop,
        address: Address,
        tokens: dict[int, str],
        numbers: Iterator[int],
        dialect: Dialect = HONGYAN,
    ) -> None:
        self.loop = loop
        self.address = address
        self.tokens = tokens
        self.dialect = dialect
        self._numbers = numbers
        self.http = HttpLines(loop, address)
        self.devices: dict[int, Device] = {}
        self._sent: dict[int, Sent] = {}
        self.delivered = 0
        self.outstanding = 0
        self.latencies: list[float] = []
        self.connect_latencies: list[float] = []
        self.problems: collections.Counter[str] = collections.Counter()
        self.refusal = ""  # the last reason a connection ended with
        self.answers = 0
        self._is_stopping = False
        self._is_async = False  # 202 is what was asked for
        self._acknowledge()

    # Connections

    def connect(
        self,
        user_ids: Iterable[int],
        version: int,
        *,
        parallel: int = 32,
        lag: int = 0,
        seconds: float = 120.0,
    ) -> None:
        """Connect all, so many at a time, and wait until each was welcomed."""
        waiting = collections.deque(user_ids)
        left = len(waiting)

        def next_one() -> None:
            if not waiting:
                return

            def ready() -> None:
                nonlocal left
                left -= 1
                # Not from within: a chain of refusals would nest as deep as there are users.
                self.loop.later(0.0, next_one)

            self.begin_connecting(waiting.popleft(), version, ready, lag=lag)

        for _ in range(min(parallel, left)):
            next_one()
        if not self.loop.run(seconds, lambda: left == 0):
            self.problems["not connected"] += left

    def begin_connecting(self, user_id: int, version: int, on_ready: Callable[[], None], *, lag: int = 0) -> None:
        """Connect one and go on. on_ready: called when it was welcomed, or refused"""
        started = time.perf_counter()

        def ready() -> None:
            self.connect_latencies.append(time.perf_counter() - started)
            on_ready()

        self.devices[user_id] = self.dialect.device(self, user_id, version, ready, lag)

    def lost_connection(self, device: Device, *, was_ready: bool, reason: bytes) -> None:
        """Count a connection that the server refused or ended."""
        self.problems["disconnected" if was_ready else "not connected"] += 1
        self.refusal = reason.decode(errors="replace")
        self.devices.pop(device.user_id, None)

    def _acknowledge(self) -> None:
        for device in self.devices.values():
            device.acknowledge()
        self.loop.later(_ACK_EVERY_SECONDS, self._acknowledge)

    def close(self) -> None:
        """End all connections at once, as a client does whose network goes."""
        for device in self.devices.values():
            device.line.drop(is_wanted=True)
        self.devices.clear()
        self.http.close()
        self.loop.forget_timers()

    # Messages

    def launch(self, route: Route, on_done: Callable[[], None] | None = None, at: float | None = None) -> None:
        """Send a message. on_done: called when it is acknowledged and every recipient has it. at: when it was due"""
        number = next(self._numbers)
        self._sent[number] = Sent(at or time.perf_counter(), route.recipients, on_done)
        self.outstanding += 1
        route.send(number)

    def seen(self, user_id: int, payload: bytes) -> None:
        """Count what a recipient was shown."""
        number = number_in(payload)
        if number is None:
            return
        sent = self._sent.get(number)
        if sent is None:  # of an earlier scenario: a connection that was cut sees its unacknowledged tail again
            return
        if user_id in sent.waiting:
            self.delivered += 1
            self.latencies.append(time.perf_counter() - sent.at)
            sent.waiting.remove(user_id)
            if not sent.waiting and sent.is_acknowledged:
                self._done(sent)
        elif user_id in sent.recipients:
            self.problems["doubled"] += 1

    def answered(self, number: int, status: int) -> None:
        """Count what the sender was told. status: of HTTP; a result on a socket is 200 or 400"""
        sent = self._sent.get(number)
        if sent is None or sent.is_acknowledged:
            return
        sent.is_acknowledged = True
        self.answers += 1
        if status in (200, 202):
            if status == 202 and not self._is_async:
                self.problems["without verdict"] += 1
            if not sent.waiting:
                self._done(sent)
            return
        self.problems["refused" if status else "without answer"] += 1
        del self._sent[number]
        self.loop.later(_RETRY_SECONDS, lambda: self._done(sent))

    def _done(self, sent: Sent) -> None:
        self.outstanding -= 1
        if sent.on_done is not None:
            sent.on_done()

    def finish(self, seconds: float = 10.0) -> None:
        """Stop the slots and wait for what is under way; what does not come is lost."""
        self._is_stopping = True
        if not self.loop.run(seconds, lambda: self.outstanding == 0):
            self.problems["lost"] += self.outstanding

    def expect_again(self, recipient_id: int) -> None:
        """Have everything that was sent so far wait for a recipient who was away until now."""
        for sent in self._sent.values():
            sent.recipients = frozenset((recipient_id,))
            sent.waiting = {recipient_id}
            sent.on_done = None
        self.outstanding = len(self._sent)

    # Closed loop

    def keep_sending(self, slots: Sequence[Sequence[Route]], *, limit: float = math.inf) -> None:
        """Start the slots: each sends along its routes in turn, one message at a time. limit: messages of all together"""
        self._is_stopping = False
        left = limit

        def start(routes: Sequence[Route]) -> None:
            place = 0

            def go() -> None:
                nonlocal left, place
                if self._is_stopping or left <= 0:
                    return
                left -= 1
                route = routes[place]
                place = (place + 1) % len(routes)
                self.launch(route, go)

            go()

        for routes in slots:
            start(routes)

    def send_all(self, slots: Sequence[Sequence[Route]], count: int, seconds: float = 120.0) -> None:
        """Send so many messages, and wait for them. What did not come in time is lost."""
        self.keep_sending(slots, limit=count)
        if not self.loop.run(seconds, lambda: self.outstanding == 0):
            self.problems["lost"] += self.outstanding

    def accept_all(self, routes: Sequence[HttpRoute], count: int, seconds: float = 120.0) -> None:
        """Send so many messages along async routes, one at a time on each, and wait until they are accepted, not delivered."""
        self._is_async = True
        launched, before = 0, self.answers

        def pump() -> bool:
            nonlocal launched
            while launched < count and launched - (self.answers - before) < len(routes):
                self.launch(routes[launched % len(routes)])
                launched += 1
            return self.answers - before >= count

        if not self.loop.run(seconds, pump):
            self.problems["without answer"] += count - (self.answers - before)

    # Open loop

    def offer(self, rate: float, seconds: float, fire: Callable[[int, float], None]) -> None:
        """Call `fire` with a count and the time from which its wait counts, so many times a second, without waiting."""
        start = time.perf_counter()
        for place in range(round(rate * seconds)):
            due = start + place / rate
            wait = due - time.perf_counter()
            self.loop.run(max(0.0, wait))
            now = time.perf_counter()
            fire(place, due if now - due > _TIMER_SECONDS else now)
            if self.outstanding > _MAX_OUTSTANDING:
                self.problems["overrun"] += 1
                return
