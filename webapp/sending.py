"""How a send comes in, over HTTP or in a `send` frame: the same parameters, limits and request."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from models.requests import Request, conversation_key, mint_id
from schemas.sending import SEND_PARAMS, decode_options
from settings import Settings
from webapp.auth import Caller
from webapp.counts import counts
from webapp.errors import ApiError


def build_send(caller: Caller, settings: Settings, reply_to: tuple[str, int], *sources: Mapping[str, Any]) -> Request:
    """Validate a send's parameters and mint its request. Raises InvalidParams; ApiError with message_too_large."""
    params = SEND_PARAMS.read(*sources)
    options = params["options"]
    limit = settings.message_max_bytes
    if len(params["data"].encode()) > limit or len(unquote(options).encode()) > limit // 2:
        counts.bounds["MESSAGE_MAX_BYTES"] += 1
        raise ApiError("message_too_large")
    client_msg_id = params["clientMsgId"] or None
    return Request(
        id=mint_id(caller.user_id, client_msg_id),
        kind="send",
        chat_type=params["chatType"],
        sender_id=caller.user_id,
        role=caller.role,
        device=caller.device,
        to_id=params["sendto_id"],
        type=params["type"],
        data=params["data"],
        options=decode_options(options),
        created_at_ms=time.time_ns() // 1_000_000,
        client_msg_id=client_msg_id,
        reply_to=reply_to,
        conversation=conversation_key(params["chatType"], caller.user_id, params["sendto_id"]),
    )
