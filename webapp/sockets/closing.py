"""How a socket ends: the close codes of protocol 2 (contract section 5), and what a refused client reads before."""

from __future__ import annotations

from enum import IntEnum

from webapp.auth import UserMissing
from webapp.errors import FAILURES, REWORDED, ApiError

_USER_MISSING = "用户不存在"


class CloseCode(IntEnum):
    NORMAL = 1000
    FRAME_TOO_LARGE = 1009  # RFC 6455 section 7.4.1
    RESTARTING = 1012  # reconnect with jitter
    SESSION_ENDED = 4401  # log in again
    DISABLED = 4403  # stay away
    TOO_SLOW = 4408  # reconnect with cursor
    REPLACED = 4409  # stay away
    TOO_MANY = 4429  # reconnect later


_CLOSE_CODES = {"user_disabled": CloseCode.DISABLED, "too_many_connections": CloseCode.TOO_MANY}


def close_code_of(code: str) -> CloseCode:
    """Return the close code of a failure that ends a socket or refuses it."""
    return _CLOSE_CODES.get(code, CloseCode.SESSION_ENDED)


def text_of(error: ApiError, language: str) -> str:
    """Return what a refused client reads before the close: in Chinese as ORIG 2.1 has it, where that is not the catalogue's."""
    code = error.failure.code
    said = _USER_MISSING if isinstance(error, UserMissing) else REWORDED["ws"].get(code)
    return said if said is not None and language == "zh" else FAILURES[code].text(language)
