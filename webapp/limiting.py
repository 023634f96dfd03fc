"""Limits: how often one may send, register and log in, and the lock after too many failed logins.

Counters stand in Redis and are shared by all web processes. Where they cannot be read, a limit lets pass, since nothing is
accepted without Redis anyway, while the lock refuses.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import gevent
import limits
import structlog
from gevent.event import AsyncResult
from gevent.lock import BoundedSemaphore

from models.errors import StoreUnavailable
from models.store import counters
from models.store.connection import Command
from settings import Settings
from webapp.address import counted
from webapp.counts import counts
from webapp.errors import ApiError
from webapp.repeaters import Memory
from webapp.services import Redis

log = structlog.get_logger()

DeviceLimit = Literal["visitor_registrations", "visitor_logins"]

_BOUNDS = {"sends": "RATE_LIMIT_SENDS", "auth": "RATE_LIMIT_AUTH"}
_PER_DEVICE_ID = limits.parse("5 per hour")  # ORIG 1.7


class Limits:
    """Counts hits and refuses what is too many."""

    def __init__(self, settings: Settings, store: Redis) -> None:
        self._store = store
        self.refused_sends = Memory()
        self._sends = _parse(settings.rate_limit_sends)
        self._auth = _parse(settings.rate_limit_auth)

    def count_send(self, user_id: int) -> None:
        """Count a send of a user. Raises ApiError with rate_limited."""
        left = self._hit("sends", self._sends, str(user_id))
        if left:
            raise _refusal("rate_limited", left)

    def count_auth(self, address: str) -> None:
        """Count a login or registration from a client address. Raises ApiError with rate_limited."""
        left = self._hit("auth", self._auth, counted(address))
        if left:
            raise _refusal("rate_limited", left)

    def count_device(self, what: DeviceLimit, device_id: str) -> None:
        """Count a registration or login with a device fingerprint. Raises ApiError with too_many_registrations."""
        # A digest: the fingerprint is a credential, and Redis shows its keys to every operator.
        digest = hashlib.sha256(device_id.encode()).hexdigest()
        left = self._hit(what, _PER_DEVICE_ID, digest)
        if left:
            raise _refusal("too_many_registrations", left)

    def counting_send(self, credential: str | None) -> SendCount:
        """Give a count of a send that shares a round trip with what else is asked for."""
        return SendCount(self, credential)

    def ask_send(self, user_id: int, then: Callable[[int | None], None]) -> None:
        """Count a send without waiting; `then` is called from another greenlet and must not block.

        It gets None where the send may pass, else the ms after which he may send again.
        """
        item = self._sends
        if item is None:
            then(None)
            return

        def answered(answer: Any, error: StoreUnavailable | None) -> None:
            if error is not None:
                self._pass_uncounted("sends", error)
            elif answer:
                counts.bounds[_BOUNDS["sends"]] += 1
            then(answer or None)

        self._store.ask(_count_command(item, "sends", str(user_id)), answered)

    def _hit(self, what: str, item: limits.RateLimitItem | None, who: str) -> float:
        """Count, and return for how many seconds he is refused; 0: he may pass."""
        if item is None:
            return 0.0
        try:
            left_ms = self._store.call(_count_command(item, what, who))
        except StoreUnavailable as error:
            self._pass_uncounted(what, error)
            return 0.0
        if left_ms and what in _BOUNDS:
            counts.bounds[_BOUNDS[what]] += 1
        return float(left_ms) / 1000

    def _pass_uncounted(self, what: str, error: StoreUnavailable) -> None:
        counts.failures["limit_not_counted"] += 1
        log.warning("limit_not_counted", limit=what, error=str(error))


class SendCount:
    """The count of one send: asked for by `start`, told by `check`. credential: the sender's, as `repeaters` knows him by it."""

    def __init__(self, limits: Limits, credential: str | None) -> None:
        self._limits = limits
        self._credential = credential
        self._wait_ms: AsyncResult[int | None] = AsyncResult()

    def start(self, user_id: int) -> None:
        self._limits.ask_send(user_id, self._wait_ms.set)

    def check(self) -> None:
        """Raises ApiError with rate_limited. Call it once the credential is known to be the sender's."""
        wait_ms = self._wait_ms.get()
        if wait_ms is not None:
            if self._credential:
                self._limits.refused_sends.note(self._credential, wait_ms / 1000)
            raise _refusal("rate_limited", wait_ms / 1000)


def _count_command(item: limits.RateLimitItem, what: str, who: str) -> Command:
    key, window_ms = _key_of(item, what)
    return counters.count_command(key.format(who), window_ms=window_ms, most=item.amount)


@cache
def _key_of(item: limits.RateLimitItem, what: str) -> tuple[str, int]:
    """Return the name of a counter, with {} for whose it is, and the window in ms: the library puts them together each time."""
    return item.key_for(what, "{}"), item.get_expiry() * 1000


def _refusal(code: str, seconds: float) -> ApiError:
    return ApiError(code, retry_after=math.ceil(seconds))


def _parse(rate: str) -> limits.RateLimitItem | None:
    return None if rate == "off" else limits.parse(rate)


@dataclass(frozen=True, slots=True)
class Lock:
    """So many failures within the window lock."""

    most: int
    window_ms: int = 15 * 60 * 1000


_PAIR = Lock(10)
_ACCOUNT = Lock(100)
_ACCOUNT_DELAY_SECONDS = 1.0


class LockOut:
    """Stops guessing: ten failures lock an account for an address, a hundred delay everybody's next try (ORIG E16).

    It counts names that do not exist as well, and holds whatever the rates are. Raises StoreUnavailable: it never lets
    pass what it cannot count.
    """

    def __init__(self, store: Redis) -> None:
        self._store = store
        self._turns: dict[str, tuple[BoundedSemaphore, list[None]]] = {}  # with those who have or want the turn

    @contextmanager
    def attempt(self, account: str, address: str) -> Iterator[Attempt]:
        """Let one try at a time have its turn. Raises ApiError with login_locked.

        One at a time: tries that run in parallel would all be compared before the first failure is counted.
        """
        pair, account = f"pair {counted(address)} {account}", f"account {account}"
        with self._turn(pair):
            locked_ms = self._locked_ms(pair, _PAIR)
            if locked_ms > 0:
                raise ApiError("login_locked", retry_after=math.ceil(locked_ms / 1000))
            if self._locked_ms(account, _ACCOUNT) > 0:
                gevent.sleep(_ACCOUNT_DELAY_SECONDS)
            yield Attempt(self._store, pair, account)

    def _locked_ms(self, name: str, lock: Lock) -> int:
        return int(self._store.call(counters.locked_command(name, window_ms=lock.window_ms, most=lock.most)))

    @contextmanager
    def _turn(self, pair: str) -> Iterator[None]:
        turn, waiting = self._turns.setdefault(pair, (BoundedSemaphore(1), []))
        waiting.append(None)
        try:
            with turn:
                yield
        finally:
            waiting.pop()
            if not waiting:
                del self._turns[pair]


class Attempt:
    """One try at an account from an address."""

    def __init__(self, store: Redis, pair: str, account: str) -> None:
        self._store = store
        self._pair = pair
        self._account = account

    def failed(self) -> None:
        for name, lock in ((self._pair, _PAIR), (self._account, _ACCOUNT)):
            self._store.call(counters.fail_command(name, window_ms=lock.window_ms, most=lock.most))

    def succeeded(self) -> None:
        self._store.call(counters.forgive_command(self._pair))
