"""Tokens: what they carry, and everything that is none."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.instance import wait_until
from webapp.tokens import Claims, TokenExpired, TokenInvalid, Tokens

_SECRET = "a secret that is long enough for HS256 and even for HS512, as PyJWT counts"
_CLAIMS = {"id": 7, "uuid": "u", "role": "user", "sid": "s", "device": "default"}


def _sign(tokens: Tokens) -> str:
    return tokens.sign(user_id=7, uuid="u", role="visitor", session_id="s", device="设备 1")


def _encode(changes: dict[str, Any], *, secret: str = _SECRET, algorithm: str = "HS256", without: str = "") -> str:
    now = int(time.time())
    claims = {**_CLAIMS, "iat": now, "exp": now + 60, **changes}
    claims.pop(without, None)
    return jwt.encode(claims, secret, algorithm=algorithm)


def test_a_token_names_its_session() -> None:
    """What was signed is read again, also from memory."""
    tokens = Tokens(_SECRET, 60)
    token = _sign(tokens)

    for _ in range(2):
        claims = tokens.verify(token)
        assert claims == Claims(7, "u", "visitor", "s", "设备 1", claims.expires_at)
        assert abs(claims.expires_at - time.time() - 60) < 5


def test_a_token_carries_nothing_else() -> None:
    """No profile, no password, no phone (ORIG E1): only who, which session, and how long (E2)."""
    payload = jwt.decode(_sign(Tokens(_SECRET, 60)), options={"verify_signature": False})

    assert set(payload) == {"id", "uuid", "role", "sid", "device", "iat", "exp"}


def test_a_renewed_token_is_another_one() -> None:
    """Though it names the same session and is made within the same second: it lasts longer by a second at least."""
    tokens = Tokens(_SECRET, 60)
    token = _sign(tokens)
    expires_at = tokens.verify(token).expires_at

    renewed = tokens.sign(
        user_id=7, uuid="u", role="visitor", session_id="s", device="设备 1", after=tokens.verify(token).expires_at
    )

    assert renewed != token
    assert expires_at < tokens.verify(renewed).expires_at <= time.time() + 61


def test_a_token_expires() -> None:
    """A token whose time is over is told from one that is none, also when it was verified before."""
    with pytest.raises(TokenExpired):
        Tokens(_SECRET, 60).verify(_encode({"exp": int(time.time()) - 1}))

    tokens = Tokens(_SECRET, 60)
    token = _encode({"exp": int(time.time()) + 1})
    claims = tokens.verify(token)
    assert wait_until(lambda: time.time() > claims.expires_at, 5.0)
    with pytest.raises(TokenExpired):
        tokens.verify(token)


@pytest.mark.parametrize("without", ["id", "uuid", "role", "sid", "device", "iat", "exp"])
def test_a_token_without_a_claim_is_invalid(without: str) -> None:
    """Every claim is required: without `exp` a token would be for ever."""
    with pytest.raises(TokenInvalid):
        Tokens(_SECRET, 60).verify(_encode({}, without=without))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "..",
        "a.b.c",
        "\0",
        "鸿雁",
        "\ud800",
        _encode({"exp": 2**40}, secret="another secret, long enough for HS256"),
        _encode({"exp": 2**40}, algorithm="HS512"),
        jwt.encode(_CLAIMS | {"iat": 1, "exp": 2**40}, "", algorithm="none"),
        _encode({"exp": 2**40, "id": "x"}),
        _encode({"exp": 2**40, "id": None}),
        _encode({"exp": "x"}),
        _encode({"exp": 10**40}),
        _encode({"exp": 2**40, "id": 2**31}),
        _encode({"exp": 2**40, "id": 10**30}),
        _encode({"exp": 2**40, "id": -1}),
        _encode({"exp": 2**40, "iat": 2**39}),
    ],
)
def test_what_is_no_token_of_ours_is_invalid(token: str) -> None:
    """Other secrets, other algorithms, none at all, and anything that is no token."""
    with pytest.raises(TokenInvalid):
        Tokens(_SECRET, 60).verify(token)


@given(place=st.integers(min_value=0), replacement=st.characters(codec="utf-8"))
def test_a_changed_token_is_invalid(place: int, replacement: str) -> None:
    """No sign of a token may change but those at the end of the base64 that mean nothing."""
    tokens = Tokens(_SECRET, 60)
    token = _encode({"exp": 2**40})
    place %= len(token)
    changed = token[:place] + replacement + token[place + 1 :]
    if changed == token or place == len(token) - 1:
        return

    with pytest.raises((TokenInvalid, TokenExpired)):
        tokens.verify(changed)
