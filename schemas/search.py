"""Parameters of searching one's messages and of forwarding one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from marshmallow import ValidationError, fields

from schemas.params import Fault, IntParam, InvalidParams, Params, TextParam

MAX_TARGETS = 20


class SearchParams(Params):
    q = TextParam("搜索内容", min=1, max=50)
    # Strict: a page that begins elsewhere than it was asked to would show messages twice.
    before = TextParam("起始消息的id", min=1, max=36, default="", is_strict=True)
    limit = IntParam("每页多少条", min=1, max=50, default=20)


class TargetParams(Params):
    """One receiver of a forwarded message."""

    chatType = TextParam("接收类型", choices=("single", "group"))
    sendto_id = IntParam("接收人/群的id值", min=1)


class TargetsParam(fields.Field[list[dict[str, Any]]]):
    """An array of targets, also as its JSON text."""

    label = "转发对象"

    def __init__(self) -> None:
        # How documents show it: as the type they know.
        item = {
            "type": "object",
            "required": ["chatType", "sendto_id"],
            "properties": {
                "chatType": {"type": "string", "enum": ["single", "group"]},
                "sendto_id": {"type": "integer", "minimum": 1},
            },
        }
        shown = {"type": "array", "minItems": 1, "maxItems": MAX_TARGETS, "items": item}
        super().__init__(required=True, metadata=shown)

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **_: Any
    ) -> list[dict[str, Any]]:
        if isinstance(value, str):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError:
                value = None
        if not isinstance(value, list) or not 1 <= len(value) <= MAX_TARGETS:
            raise ValidationError(
                Fault(
                    f"{self.label} 必须是 1 到 {MAX_TARGETS} 个元素的数组",
                    f"`{self.name}` must be a list of 1 to {MAX_TARGETS} elements",
                )
            )
        try:
            return [_TARGET_PARAMS.read(target if isinstance(target, dict) else {}) for target in value]
        except InvalidParams as error:
            raise ValidationError(error.text) from error


class ForwardParams(Params):
    id = TextParam("消息的id", min=1, max=36)
    to = TargetsParam()


_TARGET_PARAMS = TargetParams()
SEARCH_PARAMS = SearchParams()
FORWARD_PARAMS = ForwardParams()
