"""The AsyncAPI document: the frames of both protocols of the websocket, from `schemas/frames_described.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from schemas import frames_described as described
from settings import Settings
from webapp.errors import FAILURES, POLICY_REFUSALS
from webapp.openapi import SchemaPlugin

Json = dict[str, Any]

# How `/ws` is refused: by HTTP before the upgrade, or by the failure frame and a close.
HANDSHAKE_FAILURES = (
    "origin_refused",
    "upgrade_required",
    "token_missing",
    "token_expired",
    "token_invalid",
    "user_disabled",
    "too_many_connections",
)
# How a send over the socket is refused, besides the policy.
SEND_FAILURES = (
    "invalid",
    "message_too_large",
    "too_many_sends",
    "rate_limited",
    "idempotency_conflict",
    "outcome_unknown",
    "internal_error",
)

_ABOUT = """\
`GET /ws` with the token, or a ticket of `POST /api/chat/ticket`, in the query. Protocol 1 is for clients of the original, \
protocol 2 (`v=2`) adds cursors, acknowledgements and sends. A refused client reads a failure frame, then the close.

Close codes of protocol 2: 4401 log in again, 4403 stay away, 4409 replaced by a newer connection of the device, \
4408 too slow: reconnect with cursor, 4429 too many connections or frames, 1009 frame too large, 1012 restarting: reconnect with jitter.
"""

_QUERY: dict[str, Json] = {
    "token": {"type": "string"},
    "ticket": {"type": "string", "description": "single use, instead of a token"},
}
_QUERY_2: dict[str, Json] = {
    "v": {"type": "string", "enum": ["2"]},
    **_QUERY,
    "cursor": {"type": "integer", "description": "what the client has; needs `epoch`"},
    "epoch": {"type": "string"},
    "notices": {"type": "string", "enum": ["1"], "description": "greet with the role's notices"},
}


def build_document(settings: Settings) -> Json:
    plugin: MarshmallowPlugin = SchemaPlugin()
    spec = APISpec(title="", version="", openapi_version="3.1.0", plugins=[plugin])
    parts = {
        "protocol1": (_QUERY, described.FROM_SERVER_1, described.FROM_CLIENT_1),
        "protocol2": (_QUERY_2, described.FROM_SERVER_2, described.FROM_CLIENT_2),
    }
    channels: Json = {}
    operations: Json = {}
    messages: Json = {}
    for name, (query, to_client, from_client) in parts.items():
        for frame in (*to_client, *from_client):
            messages[frame.__name__] = _message(plugin, frame)
        channels[name] = _channel(query, (*to_client, *from_client))
        operations |= {
            f"{name}Send": _operation(name, "send", to_client),
            f"{name}Receive": _operation(name, "receive", from_client),
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Hongyan 鸿雁: the websocket", "version": "1", "description": _ABOUT + _refusals()},
        "defaultContentType": "application/json",
        "servers": {"here": {"host": settings.call_address, "protocol": "ws"}},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": spec.to_dict()["components"]["schemas"]},
    }


def _refusals() -> str:
    parts = {
        "A connection is refused with": HANDSHAKE_FAILURES,
        "A send is refused with": (*POLICY_REFUSALS, *SEND_FAILURES),
    }
    lines = []
    for title, codes in parts.items():
        lines += ["", f"{title}:", "", *(f"- `{code}`: {FAILURES[code].en} ({FAILURES[code].zh})" for code in codes)]
    return "\n".join(lines)


def _message(plugin: MarshmallowPlugin, frame: type[Schema]) -> Json:
    assert plugin.resolver is not None
    summary = " ".join((frame.__doc__ or "").split())
    payload = dict(plugin.resolver.resolve_schema_dict(frame))  # type: ignore[no-untyped-call]
    return {"name": frame.__name__, "summary": summary, "payload": payload}


def _channel(query: Json, frames: Sequence[type[Schema]]) -> Json:
    return {
        "address": "/ws",
        "messages": {frame.__name__: {"$ref": f"#/components/messages/{frame.__name__}"} for frame in frames},
        "bindings": {"ws": {"method": "GET", "query": {"type": "object", "properties": query}}},
    }


def _operation(channel: str, action: str, frames: Sequence[type[Schema]]) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{frame.__name__}"} for frame in frames],
    }
