"""Limits: how often one may send, register and log in, how much one may upload, and the lock after too many failed logins.

Counters stand in Redis and are shared by all web processes. Where they cannot be read, a limit lets pass, since nothing is
accepted without Redis anyway, while the lock refuses.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import gevent
import structlog
from gevent.lock import BoundedSemaphore

from models.errors import StoreUnavailable
from models.store import counters
from models.store.counters import Rate, parse_rate
from settings import Settings
from webapp.address import counted
from webapp.counts import counts
from webapp.errors import ApiError
from webapp.repeaters import Memory
from webapp.services import Redis

log = structlog.get_logger()

DeviceLimit = Literal["visitor_registrations", "visitor_logins"]

_PER_DEVICE_ID = parse_rate("5 per hour")  # ORIG 1.7
_DAY_MS = 24 * 3_600_000
_LEAST_BYTES = 4_096  # that a file counts as: it takes a block of the disk, however small it is


class Limits:
    """Counts hits and refuses what is too many."""

    def __init__(self, settings: Settings, store: Redis) -> None:
        self._store = store
        self.refused_sends = Memory()
        self._sends = parse_rate(settings.rate_limit_sends)
        self._auth = parse_rate(settings.rate_limit_auth)
        self._upload_quota = ("UPLOAD_QUOTA_BYTES", settings.upload_quota_bytes)
        self._visitor_quota = ("UPLOAD_QUOTA_VISITOR_BYTES", settings.upload_quota_visitor_bytes)

    def count_send(self, user_id: int, credential: str | None = None) -> None:
        """Count a send of a user that is not offered to the outbox, or before it is. Raises ApiError with rate_limited.

        credential: as in `refused_send`
        """
        left_ms = self._hit("sends", self._sends, str(user_id))
        if left_ms:
            raise self.refused_send(left_ms, credential)

    def refused_send(self, left_ms: int, credential: str | None = None) -> ApiError:
        """Note that a send was refused for its rate, and give the error to raise.

        left_ms: until he may send again; credential: the sender's, as `repeaters` knows him by it, once it is known to be his
        """
        counts.bounds["RATE_LIMIT_SENDS"] += 1
        if credential:
            self.refused_sends.note(credential, left_ms / 1000)
        return _refusal("rate_limited", left_ms)

    def count_auth(self, address: str) -> None:
        """Count a login or registration from a client address. Raises ApiError with rate_limited."""
        left_ms = self._hit("auth", self._auth, counted(address))
        if left_ms:
            counts.bounds["RATE_LIMIT_AUTH"] += 1
            raise _refusal("rate_limited", left_ms)

    def count_device(self, what: DeviceLimit, device_id: str) -> None:
        """Count a registration or login with a device fingerprint. Raises ApiError with too_many_registrations."""
        # A digest: the fingerprint is a credential, and Redis shows its keys to every operator.
        digest = hashlib.sha256(device_id.encode()).hexdigest()
        left_ms = self._hit(what, _PER_DEVICE_ID, digest)
        if left_ms:
            raise _refusal("too_many_registrations", left_ms)

    def upload_quota(self, role: str) -> int:
        """Return how many bytes one may upload in 24 hours."""
        return self._quota_of(role)[1]

    def count_upload(self, user_id: int, role: str, size: int, *, is_over: bool) -> None:
        """Take a file's bytes of a user's quota. is_over: False only asks, since the file is still on its way.

        Raises ApiError with upload_quota: nothing was taken; StoreUnavailable: what is not counted is not kept.
        """
        setting, most = self._quota_of(role)
        command = counters.spend_command(
            "uploads", str(user_id), max(size, _LEAST_BYTES), window_ms=_DAY_MS, most=most, is_counted=is_over
        )
        left_ms = int(self._store.call_once(command))
        if left_ms:
            counts.bounds[setting] += 1
            raise _refusal("upload_quota", left_ms)

    def _quota_of(self, role: str) -> tuple[str, int]:
        return self._visitor_quota if role == "visitor" else self._upload_quota

    def _hit(self, what: str, rate: Rate | None, who: str) -> int:
        """Count, and return for how many ms he is refused; 0: he may pass."""
        if rate is None:
            return 0
        try:
            return int(self._store.call_once(counters.count_command(rate, what, who)))
        except StoreUnavailable as error:
            counts.failures["limit_not_counted"] += 1
            log.warning("limit_not_counted", limit=what, error=str(error))
            return 0


def _refusal(code: str, left_ms: int) -> ApiError:
    return ApiError(code, retry_after=math.ceil(left_ms / 1000))


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
        """Count the failure, once. Raises StoreUnavailable: counted or not is unknown."""
        for name, lock in ((self._pair, _PAIR), (self._account, _ACCOUNT)):
            self._store.call_once(counters.fail_command(name, window_ms=lock.window_ms, most=lock.most))

    def succeeded(self) -> None:
        self._store.call(counters.forgive_command(self._pair))
