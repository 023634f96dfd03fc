"""Close codes of protocol 2 (contract section 5): each says whether the client may come back by itself."""

from __future__ import annotations

from enum import IntEnum


class CloseCode(IntEnum):
    NORMAL = 1000
    FRAME_TOO_LARGE = 1009  # RFC 6455 section 7.4.1
    RESTARTING = 1012  # reconnect with jitter
    SESSION_ENDED = 4401  # log in again
    DISABLED = 4403  # stay away
    TOO_SLOW = 4408  # reconnect with cursor
    REPLACED = 4409  # stay away
    TOO_MANY = 4429  # reconnect later
