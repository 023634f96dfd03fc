"""What views share: reading a body, answering JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import orjson
from flask import Request, Response, request
from werkzeug.datastructures import Headers

from schemas import envelope
from schemas.params import Fault, InvalidParams, Params

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def this_request() -> Request:
    """Return the request itself. `flask.request` looks it up at each use, which costs as much as what it is used for."""
    asked: Request = request._get_current_object()  # type: ignore[attr-defined]
    return asked


def read_body() -> Any:
    """Return the body's parameters: a JSON object or a form. Raises InvalidParams."""
    asked = this_request()
    if not asked.is_json:
        return asked.form
    try:
        body = orjson.loads(asked.get_data() or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidParams("", Fault("请求体不是合法的 JSON", "The body is no JSON")) from error
    if not isinstance(body, dict):
        raise InvalidParams("", Fault("请求体必须是 JSON 对象", "The body must be a JSON object"))
    return body


def read_params(schema: Params) -> dict[str, Any]:
    """Return the parameters of this request, looked for in path, query and body together (ORIG 1.2). Raises InvalidParams."""
    asked = this_request()
    body = read_body() if asked.method in ("POST", "PUT", "PATCH") else {}
    return schema.read(asked.args, body, asked.view_args or {})


class JsonResponse(Response):
    """A response whose body is there: nothing of what Werkzeug works out for streams and redirects before it is sent.

    It depends on who asks (`Vary`): answers to pages of other origins name the origin (`webapp/origins.py`).
    """

    response: list[bytes]

    def __init__(self, body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        # Not its parent's: that finds out what is known here, and goes through all headers to set one.
        self.headers = Headers()
        self.headers._list = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Vary", "Origin"),
        ]
        if headers:
            self.headers.update(headers)
        self.status_code = status
        self.response = [body]
        self.direct_passthrough = False
        self._on_close = []

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "HEAD":
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return (self.response[0],)


def answer(body: bytes, status: int = 200) -> Response:
    return JsonResponse(body, status)


def ok(data: Any) -> Response:
    return answer(envelope.ok(data))
