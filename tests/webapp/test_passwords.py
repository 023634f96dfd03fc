"""Passwords: argon2id, the original's hash once, and the same work for an account that does not exist."""

from __future__ import annotations

import hashlib
import time

import pytest

from webapp.errors import ApiError
from webapp.passwords import Passwords


@pytest.fixture(scope="module")
def passwords() -> Passwords:
    return Passwords()


def test_a_hash_is_argon2id_and_salted(passwords: Passwords) -> None:
    """Two hashes of one password differ, and both are right."""
    first, second = passwords.hash("geheim 鸿雁"), passwords.hash("geheim 鸿雁")

    assert first != second
    assert first.startswith("$argon2id$")
    assert passwords.is_right("geheim 鸿雁", first)
    assert passwords.is_right("geheim 鸿雁", second)
    assert not passwords.is_right("geheim", first)
    assert not passwords.needs_rehash(first)


def test_the_originals_hash_is_right_and_outdated(passwords: Passwords) -> None:
    """The hash itself is no password."""
    original = hashlib.sha256(b"geheim").hexdigest()

    assert passwords.is_right("geheim", original)
    assert passwords.needs_rehash(original)
    assert not passwords.is_right("Geheim", original)
    assert not passwords.is_right(original, original)


def test_a_wrapped_hash_of_the_original_is_right_and_outdated(passwords: Passwords) -> None:
    """What an import stores opens with the password, and neither with the original's hash nor with itself."""
    original = hashlib.sha256(b"geheim").hexdigest()
    wrapped = passwords.wrap_original(original)

    assert original not in wrapped
    assert wrapped != passwords.wrap_original(original)
    assert len(wrapped) <= 255
    assert passwords.is_right("geheim", wrapped)
    assert passwords.needs_rehash(wrapped)
    for wrong in ("Geheim", original, wrapped):
        assert not passwords.is_right(wrong, wrapped)


@pytest.mark.parametrize(
    "stored",
    [None, "", "!", "geheim", "$argon2id$", "$argon2id$v=19$nonsense", "0" * 63, "original:", "original:$argon2id$"],
)
def test_nothing_is_right_where_nothing_is_stored(passwords: Passwords, stored: str | None) -> None:
    """Nor where what is stored is no hash."""
    assert not passwords.is_right("geheim", stored)


def test_an_unknown_account_costs_as_much(passwords: Passwords) -> None:
    """The time of an answer does not tell whether there is an account, or what kind of hash it has."""
    stored = passwords.hash("geheim")
    passwords.is_right("geheim", None)  # makes the decoy

    def fastest(against: str | None) -> float:
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            passwords.is_right("wrong", against)
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    known = fastest(stored)
    assert fastest(None) > known / 3
    assert fastest("0" * 64) > known / 3


def test_those_who_would_wait_long_are_sent_away(passwords: Passwords) -> None:
    """A flood of logins must not make every later one wait for it."""
    passwords._waiting = 100
    try:
        with pytest.raises(ApiError, match="unavailable"):
            passwords.hash("geheim")
    finally:
        passwords._waiting = 0
