"""How long a request's body may take to arrive (`REQUEST_MAX_SECONDS`), and how long one of unannounced length may be.

A view that reads a body waits for the client; without a deadline a client that sends half of it would keep a greenlet,
a connection and what it has sent so far for as long as it likes. An upload may take as long as it keeps up a rate.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import gevent
from gunicorn.http.errors import ParseException

from webapp.counts import counts
from webapp.errors import ApiError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class ArrivedBody(BytesIO):
    """A body that is there as a whole, of the length its head announced: nobody needs to wait for it."""


def expect_upload(environ: WSGIEnvironment, max_bytes: int, min_rate: int) -> None:
    """Let a request's body have so many bytes. It must keep up min_rate, bytes a second, and may pause REQUEST_MAX_SECONDS.

    Where it is refused all the same, so much of the rest is let pass that its client comes to read why.
    """
    body = environ["wsgi.input"]
    if isinstance(body, _BoundedInput):
        body.expect_upload(max_bytes, min_rate)


class BodyBounds:
    """A WSGI application whose bodies arrive in time and end, or reading them raises ApiError: request_too_slow, too_large,
    and bad_request where chunks are malformed.

    Flask's own bound would refuse a body by its Content-Length, and of a longer one without it show the beginning as if that
    were all; and it reads in steps, at the cost of some microseconds for each.
    The head's time is bounded in `webapp/gunicorn_conf.py`.
    """

    def __init__(self, application: WSGIApplication, max_seconds: float, max_bytes: int) -> None:
        self._application = application
        self._max_seconds = max_seconds
        self._max_bytes = max_bytes

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body, announced = environ["wsgi.input"], _announced(environ)
        if not isinstance(body, ArrivedBody) or len(body.getbuffer()) > self._max_bytes:
            environ["wsgi.input"] = _BoundedInput(body, self._max_seconds, self._max_bytes, announced)
        return self._application(environ, start_response)


class _BoundedInput:
    """announced: the length that the head names, None where it names none"""

    def __init__(self, body: Any, max_seconds: float, most: int, announced: int | None) -> None:
        self._body = body
        self._max_seconds = max_seconds
        self._deadline = time.monotonic() + max_seconds
        self._most = most
        self._announced = announced
        self._count = 0
        self._min_rate = 0
        self._read_at = time.monotonic()

    def expect_upload(self, most: int, min_rate: int) -> None:
        self._most, self._min_rate = most, min_rate
        self._body.linger_bytes = 2 * most  # `webapp/gunicorn_conf.py` looks for it

    def read(self, size: int = -1) -> bytes:
        if self._announced is not None and self._announced > self._most:
            raise self._too_large()
        # One more than there may be: of a body without end no more is kept.
        wanted = self._most + 1 - self._count
        wanted = min(size, wanted) if size >= 0 else wanted
        if self._min_rate:
            self._deadline += time.monotonic() - self._read_at  # what we took for the disk is not his
        data = self._read(wanted)
        self._count += len(data)
        if self._min_rate:
            # What came faster is no credit for later: nobody holds his place for longer than a pause.
            self._read_at = time.monotonic()
            self._deadline = min(self._deadline + len(data) / self._min_rate, self._read_at + self._max_seconds)
        if self._count > self._most:
            raise self._too_large()
        if len(data) < wanted and self._announced is not None and self._count < self._announced:
            raise ApiError("bad_request")  # its client has gone: half a form would pass for a whole one
        return data

    def _read(self, size: int) -> bytes:
        # At least a moment: what has arrived already must be read, however late.
        with gevent.Timeout(max(0.001, self._deadline - time.monotonic()), _TooSlow):
            try:
                return bytes(self._body.read(size))
            except (_TooSlow, TimeoutError) as error:
                counts.bounds["UPLOAD_MIN_RATE" if self._min_rate else "REQUEST_MAX_SECONDS"] += 1
                raise ApiError("request_too_slow") from error
            except (ParseException, OSError) as error:
                raise ApiError("bad_request") from error

    def _too_large(self) -> ApiError:
        counts.bounds["BODY_MAX_BYTES"] += 1
        self._body.failed = True  # gunicorn's mark of a body behind which no request is looked for
        return ApiError("too_large")


def _announced(environ: WSGIEnvironment) -> int | None:
    text: str = environ.get("CONTENT_LENGTH") or ""
    return int(text) if text.isdecimal() else None


class _TooSlow(Exception):
    """The deadline has passed. gunicorn gives the connection up because reading has raised."""
