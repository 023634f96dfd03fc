"""How long a request's body may take to arrive (`REQUEST_MAX_SECONDS`), and how long one of unannounced length may be.

A view that reads a body waits for the client; without a deadline a client that sends half of it would keep a greenlet,
a connection and what it has sent so far for as long as it likes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import gevent
from gunicorn.http.errors import ParseException

from webapp.counts import counts
from webapp.errors import ApiError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class BodyBounds:
    """A WSGI application whose bodies arrive in time and end, or reading them raises ApiError: request_too_slow, too_large,
    and bad_request where chunks are malformed.

    Flask refuses a body by its Content-Length; of a longer one without it would show the beginning as if that were all.
    The head's time is bounded in `webapp/gunicorn_conf.py`.
    """

    def __init__(self, application: WSGIApplication, max_seconds: float, max_bytes: int) -> None:
        self._application = application
        self._max_seconds = max_seconds
        self._max_bytes = max_bytes

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        deadline = time.monotonic() + self._max_seconds
        environ["wsgi.input"] = _BoundedInput(environ["wsgi.input"], deadline, self._max_bytes)
        return self._application(environ, start_response)


class _BoundedInput:
    def __init__(self, body: Any, deadline: float, most: int) -> None:
        self._body = body
        self._deadline = deadline
        self._left = most

    def read(self, size: int = -1) -> bytes:
        data = self._read(size)
        self._left -= len(data)
        if self._left <= 0 and data and self._read(1):
            counts.bounds["BODY_MAX_BYTES"] += 1
            raise ApiError("too_large")
        return data

    def _read(self, size: int) -> bytes:
        # At least a moment: what has arrived already must be read, however late.
        with gevent.Timeout(max(0.001, self._deadline - time.monotonic()), _TooSlow):
            try:
                return bytes(self._body.read(size))
            except _TooSlow as error:
                counts.bounds["REQUEST_MAX_SECONDS"] += 1
                raise ApiError("request_too_slow") from error
            except ParseException as error:
                raise ApiError("bad_request") from error


class _TooSlow(Exception):
    """The deadline has passed. gunicorn gives the connection up because reading has raised."""
