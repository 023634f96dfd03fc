"""The listener: one greenlet that hears what drains publish to this process, and repairs what it may have missed.

A publication is only news. After every (re)subscription, and every few seconds anyway, the newest cursor of each local
user is compared with what his connections have been told of; a subscription that does not hear its own probe is renewed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import structlog

from models.errors import StoreUnavailable
from models.store import bus, inbox, keys
from models.store.connection import Command
from schemas import frames
from webapp.counts import counts
from webapp.sockets.inbound import Inbound
from webapp.sockets.office import SocketOffice
from webapp.sockets.registry import Registry
from webapp.sockets.wire import encode_frame

log = structlog.get_logger()

_COMPARE_SECONDS = 3.0
_PROBE_SECONDS = 5.0
_DEAF_SECONDS = 8.0
_SILENCE_SECONDS = 1.0
_PROBE = b"probe"
_USERS_PER_TRIP = 500

RunCommands = Callable[[Sequence[Command]], list[Any]]


class Listener:
    def __init__(
        self,
        subscription: bus.Subscription,
        process_id: str,
        registry: Registry,
        office: SocketOffice,
        inbound: Inbound,
        run: RunCommands,
    ) -> None:
        self._subscription = subscription
        self._channel = keys.process_channel(process_id)
        self._registry = registry
        self._office = office
        self._inbound = inbound
        self._run = run
        self._heard_at = 0.0
        self.is_up = False
        # What takes a publication's signals, once it is there: drains have none to tell.
        self.on_signals: Callable[[bus.Publication], None] = lambda _: None

    def start(self) -> None:
        gevent.spawn(self._listen_for_ever)
        gevent.spawn(self._compare_for_ever)

    def _listen_for_ever(self) -> None:
        pause = 0.05
        while True:
            try:
                self._subscription.open()
                pause = 0.05
                self._heard_at = time.monotonic()
                self.is_up = True
                # What was published while nobody listened.
                gevent.spawn(self._compare)
                gevent.spawn(self._office.recover)
                self._listen()
            except StoreUnavailable as error:
                log.warning("listener_lost_redis", error=str(error))
            except Exception:
                log.exception("listener_failed")
            self.is_up = False
            gevent.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, 0.5)

    def _listen(self) -> None:
        """Take publications until the subscription breaks or has gone deaf."""
        probed_at = time.monotonic()
        for payload in self._subscription.messages(_SILENCE_SECONDS):
            now = time.monotonic()
            if payload is not None:
                self._heard_at = now
                if payload != _PROBE:
                    self.take(bus.decode(payload))
            elif now - self._heard_at > _DEAF_SECONDS:
                log.warning("listener_deaf", seconds=round(now - self._heard_at, 1))
                return
            if now - probed_at > _PROBE_SECONDS:
                probed_at = now
                gevent.spawn(self._probe)

    def take(self, news: bus.Publication) -> None:
        """Hand a publication's deliveries to the connections and its verdicts to those who wait."""
        now_ms = time.time_ns() // 1_000_000
        encoded = [body.encode() for body in news.bodies]
        shared: dict[int, bytes] = {}  # protocol 1 frames, the same for everybody
        for user_id, epoch, cursor, place, own_device, message_id in news.deliveries:
            for connection in self._registry.of_user(user_id):
                body = frame = None
                if place >= 0:
                    body = encoded[place]
                    if connection.protocol == 1:
                        frame = shared.get(place)
                        if frame is None:
                            frame = shared[place] = encode_frame(frames.single_chat(body, now_ms))
                connection.deliver(epoch, cursor, body, own_device=own_device, message_id=message_id, frame=frame)
        # Before the verdicts: what this very socket waits for is answered by its verdict, with its ref.
        for refusal in news.refusals:
            self._inbound.refuse(*refusal)
        for verdict in news.verdicts:
            counts.verdicts[verdict.code or "stored"] += 1
            self._registry.settle(verdict, encoded[verdict.body] if verdict.body >= 0 else None)
        for order in news.orders:
            self._office.obey(order)
        if news.signals:
            self.on_signals(news)

    def _probe(self) -> None:
        try:
            self._run([("PUBLISH", self._channel, _PROBE)])
        except StoreUnavailable:
            pass  # Redis is away: the subscription notices by itself

    def _compare_for_ever(self) -> None:
        while True:
            gevent.sleep(_COMPARE_SECONDS)
            self._compare()

    def _compare(self) -> None:
        """Compare what connections have with what there is. Never raises: it is all that finds what a lost publication left."""
        try:
            self._compare_all()
        except StoreUnavailable as error:
            log.warning("compare_failed", error=str(error))
        except Exception:
            log.exception("compare_failed")

    def _compare_all(self) -> None:
        user_ids = self._registry.user_ids()
        for start in range(0, len(user_ids), _USERS_PER_TRIP):
            some = user_ids[start : start + _USERS_PER_TRIP]
            answers = self._run([inbox.newest_command(user_id) for user_id in some])
            for user_id, (epoch, newest) in zip(some, answers, strict=True):
                # Without an epoch the inbox is lost: the connection sends its client away, whose return opens it again.
                for connection in self._registry.of_user(user_id):
                    connection.deliver((epoch or b"").decode(), int(newest or 0))
