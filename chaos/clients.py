"""The clients of a run: devices that always come back, senders that repeat until they know, a prober, and two who flood.

All live in one asyncio loop and record what they see in the `World`'s history. What they do is drawn from the seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from chaos.history import (
    DEVICE,
    Acked,
    Closed,
    History,
    Joined,
    Kind,
    Opened,
    Outcome,
    Probe,
    Received,
    Reset,
    Sent,
    Via,
    group_conversation,
    outcome_of,
    single_conversation,
)
from chaos.wire import CLOSE, PING, PONG, TEXT, Address, Http, Refused, Socket, ticks

_ACK_SECONDS = 0.2  # five a second, as a client should: an ack for every message would cost more and say no more
_NO_STATUS = 1005  # RFC 6455 section 7.1.5: a close frame without a code
_ANSWER_SECONDS = 8.0  # above SEND_WAIT_SECONDS
_REPEAT_SECONDS = (0.2, 1.0)
_BACKLOG_SECONDS = 2.0  # what an outage delayed is caught up, but not more
_TRY_AGAIN = {"rate_limited", "too_many_sends", "overloaded"}
_UNKNOWN = {"outcome_unknown", "unavailable"}
_PROBE_SECONDS = 0.1
PROBE_GOOD_SECONDS = 1.0


@dataclass(slots=True)
class World:
    """What all clients share: the history, and what is still to come."""

    history: History
    seed: int
    heartbeat_seconds: float
    devices: dict[int, list[Device]] = field(default_factory=lambda: defaultdict(list))
    sent: int = 0
    accepted: int = 0
    delivered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    delays: list[tuple[float, float]] = field(default_factory=list)  # when received, seconds since the first try
    is_loaded: asyncio.Event = field(default_factory=asyncio.Event)  # senders, flooders and the prober write until then
    is_ending: bool = False  # everybody stays online from now on
    is_over: bool = False
    give_up: float = float("inf")  # when senders leave what they do not know
    _pending: dict[str, set[tuple[int, str]]] = field(default_factory=dict)
    _seen: dict[str, set[tuple[int, str]]] = field(default_factory=lambda: defaultdict(set))
    _first_try: dict[str, float] = field(default_factory=dict)

    @property
    def outstanding(self) -> int:
        """How many deliveries of accepted sends are still to come."""
        return sum(map(len, self._pending.values()))

    def tried(self, sent: Sent) -> None:
        """Record a try to send; an accepted one is expected everywhere from now on."""
        self.history.append(sent)
        self.sent += 1
        self._first_try.setdefault(sent.text, sent.t_start)
        if sent.code is not None:
            self.refused[sent.code] += 1
        if not sent.is_accepted:
            return
        self.accepted += 1
        places = {
            (device.user, device.name)
            for user in (*sent.recipients, sent.sender)
            for device in self.devices[user]
            if device.kind == "good" and (user, device.name) != (sent.sender, sent.device)
        } - self._seen[sent.text]
        if places:
            self._pending[sent.text] = places

    def took(self, received: Received) -> None:
        """Record a sighting."""
        self.history.append(received)
        place = (received.user, received.device)
        if place in self._seen[received.text]:
            return
        self._seen[received.text].add(place)
        if not received.is_own:
            self.delivered += 1
            first = self._first_try.get(received.text)
            if first is not None:
                self.delays.append((received.t, received.t - first))
        pending = self._pending.get(received.text)
        if pending is not None:
            pending.discard(place)
            if not pending:
                del self._pending[received.text]

    def excuse(self, text: str) -> None:
        """Expect a send no longer."""
        self._pending.pop(text, None)

    @property
    def pending_texts(self) -> set[str]:
        """The sends of which something is still to come."""
        return set(self._pending)


class Device:
    """One device of one user: a receiver that comes back however its connection ended, and a socket to send over."""

    def __init__(
        self,
        world: World,
        user: int,
        name: str,
        token: str,
        protocol: int,
        address: Address,
        *,
        kind: Kind = "good",
        traits: frozenset[str] = frozenset(),
        on_text: Callable[[str, float], None] | None = None,
    ) -> None:
        self.user = user
        self.name = name
        self.token = token
        self.protocol = protocol
        self.address = address
        self.kind: Kind = kind
        self.traits = traits
        self.socket: Socket | None = None
        self.is_greeted = asyncio.Event()
        self.failures: Counter[str] = Counter()
        self._world = world
        self._on_text = on_text  # instead of recording
        self._chance = random.Random(f"{world.seed}:{user}:{name}")
        self._number = 0
        self._cursor: int | None = None
        self._epoch: str | None = None
        self._asked: tuple[int | None, str | None] = (None, None)
        self._acked: int | None = None
        self._unacked = 0  # received on this connection since the last acknowledgement
        self._ack_timer: asyncio.TimerHandle | None = None
        self._results: dict[str, asyncio.Future[dict[str, Any] | None]] = {}
        if on_text is None:
            world.history.append(Joined(user, name, protocol, kind, tuple(sorted(traits))))
        world.devices[user].append(self)

    async def run(self) -> None:
        """Be online, but for spells, until the run is over."""
        while not self._world.is_over:
            try:
                await self._live()
            except (OSError, Refused) as error:
                self.failures[type(error).__name__] += 1  # nobody there yet: comes back
            if self._on_text is not None:
                await asyncio.sleep(0.05)
            elif "absent" in self.traits and not self._world.is_ending:
                await asyncio.sleep(self._chance.uniform(0.3, 8.0))
            else:
                await asyncio.sleep(self._chance.uniform(0.1, 0.6))

    async def _live(self) -> None:
        """Hold one connection until it ends."""
        self._number += 1  # also for a try that fails: numbers only tell connections apart
        query: dict[str, str | int] = {"token": self.token}
        if self.protocol == 2:
            query["v"] = 2
        if self._cursor is not None and self._epoch is not None and self.protocol == 2:
            query |= {"cursor": self._cursor, "epoch": self._epoch}
            self._asked = (self._cursor, self._epoch)
        else:
            self._asked = (None, None)
        connection = await Socket.connect(self.address, f"/ws?{urlencode(query)}", is_slow="slow" in self.traits)
        self._unacked, self._acked = 0, None
        self.socket = connection
        if self.protocol == 1:
            _background(self._ask_offline())
        spell = self._chance.uniform(4.0, 20.0) if "absent" in self.traits else float("inf")
        leave_at = time.monotonic() + spell
        code: int | None = None
        by: Any = "server"
        try:
            while code is None:
                if self._world.is_over or (time.monotonic() > leave_at and not self._world.is_ending):
                    by = "client"
                    break
                if "slow" in self.traits and self._chance.random() < 0.05 and not self._world.is_ending:
                    await asyncio.sleep(self._chance.uniform(0.5, 3.0))
                frames = await connection.read(self._world.heartbeat_seconds * 2.5)
                now = time.monotonic()
                for opcode, payload in frames:
                    if opcode == TEXT:
                        self._take(json.loads(payload), now)
                    elif opcode == PING:
                        self._take_ping(connection, payload, now)
                    elif opcode == CLOSE:
                        code = int.from_bytes(payload[:2], "big") if payload else _NO_STATUS
                        connection.write(CLOSE, payload[:2])
        except EOFError:
            pass
        except TimeoutError:
            by = "client"  # not even a heartbeat: nobody there
        except asyncio.CancelledError:
            by = "client"
            raise
        finally:
            connection.drop()
            self.socket = None
            was_greeted = self.is_greeted.is_set()
            self.is_greeted.clear()
            for waiting in self._results.values():
                if not waiting.done():
                    waiting.set_result(None)
            self._results.clear()
            if self._on_text is None and (was_greeted or code is not None):
                self._world.history.append(Closed(self.user, self.name, self._number, time.monotonic(), code, by))

    async def _ask_offline(self) -> None:
        http = Http(self.address, self.token)
        try:
            await http.call("POST", "/api/chat/chatGetmessageOffLine", {}, timeout=5.0)
        except OSError:
            pass  # it changes nothing: connecting has asked already
        finally:
            http.close()

    def _take_ping(self, connection: Socket, payload: bytes, now: float) -> None:
        if "mute" in self.traits:
            return
        connection.write(PONG, payload)
        if self.protocol == 1 and self._unacked:
            self._unacked = 0
            self._world.history.append(Acked(self.user, self.name, self._number, now))

    def _take(self, frame: dict[str, Any], now: float) -> None:
        kind = frame.get("type")
        if (kind == "system" and self.protocol == 1) or kind == "hello":
            self._epoch = frame.get("epoch")
            self.is_greeted.set()
            if self._on_text is None:
                opened = Opened(self.user, self.name, self._number, now, *self._asked, self._epoch)
                self._world.history.append(opened)
        elif kind == "reset":
            self._epoch, self._cursor = frame["epoch"], frame["to"]
            reset = Reset(self.user, self.name, self._number, now, frame["epoch"], frame["from"], frame["to"])
            self._world.history.append(reset)
        elif kind == "singleChat" and isinstance(frame.get("data"), dict):
            self._take_message(frame["data"], frame.get("cursor"), now, is_result=False)
        elif kind == "sendResult":
            waiting = self._results.pop(str(frame.get("ref")), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(frame)
            if frame.get("ok") and frame.get("cursor") is not None:
                self._take_message(frame["data"], frame["cursor"], now, is_result=True)

    def _take_message(self, message: dict[str, Any], cursor: int | None, now: float, *, is_result: bool) -> None:
        sender = message.get("from_id")
        if not isinstance(sender, int) or sender <= 0:
            return  # greetings come from `redirect-…` or 0 (ORIG section 4) and stand in no conversation
        if cursor is not None:
            if not is_result or self._cursor is None or cursor == self._cursor + 1:
                self._cursor = cursor
            if self._ack_timer is None:
                self._ack_timer = asyncio.get_running_loop().call_later(_ACK_SECONDS, self._ack)
        self._unacked += 1
        if message.get("actionType") is not None:
            return
        body = message["data"]
        text = str((json.loads(body) if isinstance(body, str) else body)["data"])
        if self._on_text is not None:
            self._on_text(text, now)
            return
        is_notice = message["type"] == "systemNotice"
        is_own = sender == self.user and not is_notice
        if message["chatType"] == "group":
            conversation = group_conversation(message["to_id"])
        else:
            conversation = single_conversation(self.user, message["to_id"] if sender == self.user else sender)
        self._world.took(
            Received(
                user=self.user,
                connection_no=self._number,
                message_id=message["id"],
                seq=message.get("seq"),
                conversation=conversation,
                text=text,
                t=now,
                cursor=cursor,
                is_notice=is_notice,
                device=self.name,
                is_own=is_own,
                is_result=is_result,
            )
        )

    def _ack(self) -> None:
        self._ack_timer = None
        if self.socket is not None and self._cursor is not None and self._cursor != self._acked:
            self._acked = self._cursor
            self.socket.write_json({"type": "ack", "cursor": self._cursor})
            if self._on_text is None:
                self._world.history.append(Acked(self.user, self.name, self._number, time.monotonic()))

    async def send(self, ref: str, message: dict[str, Any]) -> dict[str, Any] | None:
        """Send over the socket and return its result; None: the connection has ended, or none came."""
        if self.socket is None:
            return None  # it was greeted, and ended before its sender had his turn
        waiting: asyncio.Future[dict[str, Any] | None] = asyncio.get_running_loop().create_future()
        self._results[ref] = waiting
        self.socket.write_json({"type": "send", "ref": ref, "message": message})
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await waiting
        except TimeoutError:
            return None
        finally:
            self._results.pop(ref, None)


def message_of(to: int, text: str, chat_type: str, client_id: str) -> dict[str, Any]:
    """The parameters of a text message, as the legacy client sends them."""
    return {
        "sendto_id": to,
        "chatType": chat_type,
        "type": "text",
        "data": json.dumps({"data": text, "dataType": False, "otherData": None}, ensure_ascii=False),
        "options": "%7B%7D",
        "clientMsgId": client_id,
    }


class Sender:
    """A user who writes at his share of the rate, one message after the other, and repeats until he knows."""

    def __init__(
        self, world: World, device: Device, friend: int, members: tuple[int, ...], *, rate: float, group_share: float
    ) -> None:
        self._world = world
        self._device = device
        self._friend = friend
        self._members = members  # of group 1, empty where he is none
        self._interval = 1 / rate
        self._group_share = group_share if members else 0.0
        self._chance = random.Random(f"{world.seed}:{device.user}:sender")
        self._http = Http(device.address, device.token)

    async def run(self) -> None:
        """Write until the load ends; repeat what is undecided for some time longer."""
        due = time.monotonic() + self._chance.uniform(0, self._interval)
        number = 0
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._world.is_loaded.is_set():
                break
            number += 1
            await self._deliver(f"{self._device.user} writes {number}")
            due = max(due + self._interval, time.monotonic() - _BACKLOG_SECONDS)
        self._http.close()

    async def _deliver(self, text: str) -> None:
        is_group = self._chance.random() < self._group_share
        device, chance = self._device, self._chance.random()
        via: Via = "async" if chance < 0.15 else "http"
        if device.protocol == 2 and chance > 0.4:
            via = "socket"
        while True:
            sent = await self._try(text, is_group, via)
            self._world.tried(sent)
            is_known = sent.is_accepted or (sent.outcome == "refused" and sent.code not in _TRY_AGAIN)
            if is_known or time.monotonic() > self._world.give_up:
                return
            await asyncio.sleep(self._chance.uniform(*_REPEAT_SECONDS))

    async def _try(self, text: str, is_group: bool, via: Via) -> Sent:
        user, device = self._device.user, self._device
        to = 1 if is_group else self._friend
        client_id = f"{self._world.seed}-{text}".replace(" ", "-")
        message = message_of(to, text, "group" if is_group else "single", client_id)
        outcome: Outcome = "unknown"
        data: dict[str, Any] = {}
        code: str | None = None
        if via == "socket":
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    await device.is_greeted.wait()
            except TimeoutError:
                via = "http"  # offline: he writes all the same
        t_start = time.monotonic()
        if via == "socket":
            result = await device.send(f"{text} {t_start}", message)
            if result is not None:
                outcome, data, code = _outcome_of_result(result)
        else:
            try:
                status, body = await self._http.call(
                    "POST", "/api/chat/socket/sendmessage", message, is_async=via == "async", timeout=_ANSWER_SECONDS
                )
                outcome = outcome_of(status)
                data = body["data"] if status in (200, 202) else {}
                code = None if status in (200, 202) else str(body.get("code") or f"http {status}")
            except OSError:
                pass
        recipients = tuple(member for member in self._members if member != user) if is_group else (self._friend,)
        return Sent(
            sender=user,
            conversation=group_conversation(to) if is_group else single_conversation(user, to),
            text=text,
            recipients=recipients,
            t_start=t_start,
            t_end=time.monotonic(),
            outcome=outcome,
            message_id=data.get("id"),
            seq=data.get("seq"),
            client_id=client_id,
            via=via,
            device=device.name,
            code=code,
        )


def _outcome_of_result(result: dict[str, Any]) -> tuple[Outcome, dict[str, Any], str | None]:
    if result["ok"]:
        return "accepted200", result["data"], None
    code = str(result["code"])
    return ("unknown" if code in _UNKNOWN else "refused"), {"id": result.get("id")}, code


class Prober:
    """Sends a message of its own each tenth of a second, and knows which arrived when."""

    def __init__(self, world: World, sender_token: str, recipient: int, recipient_token: str, address: Address) -> None:
        self._world = world
        self._token = sender_token
        self._recipient = recipient
        self._address = address
        self._sent: list[float] = []
        self._received: dict[int, float] = {}
        self.device = Device(world, recipient, DEVICE, recipient_token, 2, address, on_text=self._take)

    def _take(self, text: str, now: float) -> None:
        _, _, number = text.partition(" ")
        self._received.setdefault(int(number), now)

    async def run(self) -> None:
        """Probe until the load ends."""
        async for _ in ticks(_PROBE_SECONDS):
            if self._world.is_loaded.is_set():
                return
            self._sent.append(time.monotonic())
            _background(self._probe(len(self._sent) - 1))

    async def _probe(self, number: int) -> None:
        http = Http(self._address, self._token)
        message = message_of(self._recipient, f"probe {number}", "single", f"probe-{number}")
        try:
            await http.call("POST", "/api/chat/socket/sendmessage", message, is_async=True, timeout=4.0)
        except OSError:
            pass  # not delivered within a second, then
        finally:
            http.close()

    @property
    def probes(self) -> list[Probe]:
        """Every probe so far."""
        return [Probe(number, sent, self._received.get(number)) for number, sent in enumerate(list(self._sent))]

    def is_recovered(self, since: float) -> bool:
        """Say whether probes sent since a moment were delivered within a second, the last ones at least."""
        newest = len(self._sent)
        recent = [number for number in range(max(0, newest - 25), newest) if self._sent[number] >= since]
        due = [number for number in recent if time.monotonic() - self._sent[number] > PROBE_GOOD_SECONDS]
        good = [self._received.get(n, float("inf")) - self._sent[n] <= PROBE_GOOD_SECONDS for n in due]
        return len(good) >= 3 and all(good[-3:])


class Flooder:
    """A user who sends much too much, in bursts: over HTTP, or frames over his socket."""

    def __init__(self, world: World, device: Device, peer: int) -> None:
        self._world = world
        self._device = device
        self._peer = peer
        self._chance = random.Random(f"{world.seed}:{device.user}:flood")
        self._number = 0

    async def run(self) -> None:
        """Flood now and then until the load ends."""
        while not await self._pauses(self._chance.uniform(3.0, 10.0)):
            if self._chance.random() < 0.5 and self._device.socket is not None:
                for _ in range(120):
                    if self._device.socket is not None:
                        self._device.socket.write_json({"type": "typing", "chatType": "single", "to_id": self._peer})
            else:
                await asyncio.gather(*(self._burst() for _ in range(8)))

    async def _pauses(self, seconds: float) -> bool:
        """Wait so long, or until the load ends; say whether it has."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._world.is_loaded.wait()
        return self._world.is_loaded.is_set()

    async def _burst(self) -> None:
        http = Http(self._device.address, self._device.token)
        for _ in range(20):
            self._number += 1
            text = f"{self._device.user} floods {self._number}"
            client_id = f"{self._world.seed}-{text}".replace(" ", "-")
            t_start = time.monotonic()
            outcome: Outcome = "unknown"
            data: dict[str, Any] = {}
            code: str | None = None
            try:
                message = message_of(self._peer, text, "single", client_id)
                status, body = await http.call("POST", "/api/chat/socket/sendmessage", message, is_async=True)
                outcome = outcome_of(status)
                data = body["data"] if status in (200, 202) else {}
                code = None if status in (200, 202) else str(body.get("code") or f"http {status}")
            except OSError:
                pass
            sent = Sent(
                self._device.user,
                single_conversation(self._device.user, self._peer),
                text,
                (self._peer,),
                t_start,
                time.monotonic(),
                outcome,
                data.get("id"),
                data.get("seq"),
                client_id,
                "async",
                self._device.name,
                code,
            )
            self._world.tried(sent)
        http.close()


_tasks: set[asyncio.Task[None]] = set()


def _background(coroutine: Any) -> None:
    task: asyncio.Task[None] = asyncio.create_task(coroutine)
    _tasks.add(task)  # the loop itself holds tasks weakly
    task.add_done_callback(_tasks.discard)
