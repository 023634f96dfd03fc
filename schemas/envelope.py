"""The envelope of every answer (ORIG 1.1, contract section 2): `msg` and `data`, and for failures a stable `code`."""

from __future__ import annotations

from typing import Any

import orjson


def ok(data: Any) -> bytes:
    return orjson.dumps({"msg": "ok", "data": data})


def ok_encoded(data: bytes) -> bytes:
    """Wrap data that is JSON already."""
    return b'{"msg":"ok","data":%s}' % data


def fail(code: str, text: str) -> bytes:
    return orjson.dumps({"msg": "fail", "data": text, "code": code})
