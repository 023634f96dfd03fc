"""What a send carries (ORIG C2, contract section 4), over HTTP and in a protocol 2 `send` frame."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import orjson

from models.bodies import USER_TYPES
from schemas.params import IntParam, Params, TextParam, as_text

_NO_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


class _OptionsParam(TextParam):
    """JSON through `encodeURIComponent`. What comes as a JSON value is encoded here, so that a `%` in it begins no escape."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any) -> str:
        text = value if isinstance(value, str) else quote(as_text(value), safe="")
        return super()._deserialize(text, attr, data)


class SendParams(Params):
    sendto_id = IntParam("接收人/群的id值", min=1)
    chatType = TextParam("接收类型", choices=("single", "group"))
    type = TextParam("消息类型", choices=USER_TYPES)
    data = TextParam("消息内容")
    options = _OptionsParam("额外参数json字符串", default="")
    # Strict: a repeat of a send whose number was dropped would be a second message.
    clientMsgId = TextParam("客户端消息编号", min=1, max=64, default="", is_strict=True)


SEND_PARAMS = SendParams()


def decode_options(text: str) -> Any:
    """Decode `options` as the seed does: percent-decoded, then JSON; null where either fails."""
    if not text:
        return None  # as nearly always
    if _NO_ESCAPE.search(text):
        return None  # decodeURIComponent throws there, while `unquote` would keep it
    try:
        options = orjson.loads(unquote(text, errors="strict"))
        # orjson reads four times as deep as it writes, and this will be written inside a Message.
        orjson.dumps([[options]])
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, UnicodeDecodeError):
        return None
    return options
