"""Passwords: argon2id, computed in native threads, since one hash would hold up every greenlet of the process.

The original's unsalted SHA-256 is accepted once: who logs in with it gets an argon2 hash in its place (ORIG E3). Until then what
`import-original` has stored is an argon2 hash of it, marked as such. Comparing costs the same for an account that does not exist.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from functools import cached_property
from typing import ParamSpec, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from gevent.threadpool import ThreadPool

from webapp.errors import ApiError

_P = ParamSpec("_P")
_Result = TypeVar("_Result")

_THREADS = 2
# 20 to 40 ms each: whoever came after these would wait for more than a second.
_MAX_WAITING = 100
_ORIGINAL = re.compile(r"[0-9a-f]{64}\Z")
_WRAPPED = "original:"  # begins an argon2 hash of the original's hash


class Passwords:
    """Hashes and compares. Raises ApiError with unavailable where too many wait already."""

    def __init__(self) -> None:
        # The OWASP password storage cheat sheet's choice: 19 MiB, two passes, one lane (our threads are the lanes).
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._decoy = ""
        self._waiting = 0

    def hash(self, password: str) -> str:
        return self._compute(self._hasher.hash, password)

    def is_right(self, password: str, stored: str | None) -> bool:
        """Compare a password with what is stored; None: there is no such account."""
        return self._compute(self._compare, password, stored or "")

    def wrap_original(self, digest: str) -> str:
        """Hash the original's hash, in the thread that asks."""
        return _WRAPPED + self._hasher.hash(digest)

    def needs_rehash(self, stored: str) -> bool:
        """Return whether a stored hash that has just been found right should be replaced."""
        if stored.startswith(_WRAPPED) or _ORIGINAL.match(stored) is not None:
            return True
        return self._hasher.check_needs_rehash(stored)

    def _compare(self, password: str, stored: str) -> bool:
        if stored.startswith(_WRAPPED):
            return self._verify(_digest(password), stored.removeprefix(_WRAPPED))
        if not stored.startswith("$argon2"):
            # The work of a real comparison, so that its time does not tell what is stored.
            self._decoy = self._decoy or self._hasher.hash(secrets.token_hex(16))
            self._verify(password, self._decoy)
            return _ORIGINAL.match(stored) is not None and hmac.compare_digest(_digest(password), stored)
        return self._verify(password, stored)

    def _verify(self, password: str, stored: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    def _compute(self, function: Callable[_P, _Result], *args: _P.args, **kwargs: _P.kwargs) -> _Result:
        if self._waiting >= _MAX_WAITING:
            raise ApiError("unavailable")
        self._waiting += 1
        try:
            return self._pool.apply(function, args, kwargs)
        finally:
            self._waiting -= 1

    @cached_property
    def _pool(self) -> ThreadPool:
        return ThreadPool(_THREADS)


def _digest(password: str) -> str:
    """Give the original's hash of a password."""
    return hashlib.sha256(password.encode()).hexdigest()
