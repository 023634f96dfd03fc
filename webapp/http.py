"""What views share: reading a body, answering JSON."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Response, request

from schemas import envelope
from schemas.params import Fault, InvalidParams, Params


def read_body() -> Any:
    """Return the body's parameters: a JSON object or a form. Raises InvalidParams."""
    if not request.is_json:
        return request.form
    try:
        body = orjson.loads(request.get_data() or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidParams("", Fault("请求体不是合法的 JSON", "The body is no JSON")) from error
    if not isinstance(body, dict):
        raise InvalidParams("", Fault("请求体必须是 JSON 对象", "The body must be a JSON object"))
    return body


def read_params(schema: Params) -> dict[str, Any]:
    """Return the parameters of this request, looked for in path, query and body together (ORIG 1.2). Raises InvalidParams."""
    body = read_body() if request.method in ("POST", "PUT", "PATCH") else {}
    return schema.read(request.args, body, request.view_args or {})


def answer(body: bytes, status: int = 200) -> Response:
    return Response(body, status, mimetype="application/json")


def ok(data: Any) -> Response:
    return answer(envelope.ok(data))
