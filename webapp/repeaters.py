"""Refuses those who go on although they were refused for their rate a moment ago, before anything else is done for them.

A flood is refused at a fraction of what a request costs: no Flask, no token, no Redis (G7). Only who is known by the very
credential that was refused, and for a second at most: then he is checked and counted again as anybody.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from werkzeug.datastructures import LanguageAccept
from werkzeug.http import parse_accept_header

from schemas import envelope
from webapp.counts import counts
from webapp.errors import FAILURES
from webapp.language import best_language

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SEND_PATH = "/api/chat/socket/sendmessage"
SOCKET_PATH = "/ws"

_LONGEST_SECONDS = 1.0  # a session that ended meanwhile is told so after it
_MANY = 1_000  # remembered, above which those whose time is over are forgotten


class Memory:
    """Who was refused, and until when he would be again. Bounded by what can be refused in a second."""

    def __init__(self) -> None:
        self._until: dict[str, tuple[float, float]] = {}  # remembered until, refused until

    def note(self, credential: str, seconds: float) -> None:
        """Remember a refusal that holds for so long."""
        now = time.monotonic()
        if len(self._until) >= _MANY:
            self._until = {who: until for who, until in self._until.items() if until[0] > now}
        self._until[credential] = (now + min(seconds, _LONGEST_SECONDS), now + seconds)

    def seconds_left(self, credential: str | None) -> float:
        """Return for how long he is refused; 0 where he is not remembered."""
        remembered, refused = self._until.get(credential or "", (0.0, 0.0))
        now = time.monotonic()
        return refused - now if now < remembered else 0.0


class Repeaters:
    """A WSGI application in front of ours.

    sends, connects: by the text of the credential, as `credential_of_send` and the query's `token` have it
    refuse_socket: takes over the socket of a handshake and refuses it, so that no response is to follow; False: it is none
    """

    def __init__(
        self,
        application: WSGIApplication,
        sends: Memory,
        connects: Memory,
        language: str,
        refuse_socket: Callable[[WSGIEnvironment, int, str], bool],
    ) -> None:
        self._application = application
        self._sends = sends
        self._connects = connects
        self._language = language
        self._refuse_socket = refuse_socket

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Whose page it is decides what a browser may read, and whether it may connect: such requests go the long way.
        if "HTTP_ORIGIN" not in environ:
            path = environ.get("PATH_INFO")
            if path == SEND_PATH and environ.get("REQUEST_METHOD") == "POST":
                left = self._sends.seconds_left(credential_of_send(environ))
                if left:
                    return self._refuse_send(environ, start_response, left)
            elif path == SOCKET_PATH:
                query = parse_qs(environ.get("QUERY_STRING", ""))
                # A ticket counts for more than a token beside it, and is used once.
                is_known = "ticket" not in query and self._connects.seconds_left(query.get("token", [""])[0])
                protocol = 2 if query.get("v", [""])[0] == "2" else 1
                if is_known and self._refuse_socket(environ, protocol, _language_of(environ, self._language)):
                    counts.bounds["RATE_LIMIT_CONNECTS"] += 1
                    raise StopIteration  # how gunicorn is told that there is nothing to answer any more
        return self._application(environ, start_response)

    def _refuse_send(self, environ: WSGIEnvironment, start_response: StartResponse, left: float) -> Iterable[bytes]:
        started = time.perf_counter()
        failure = FAILURES["rate_limited"]
        counts.bounds["RATE_LIMIT_SENDS"] += 1
        counts.failures[failure.code] += 1
        body = envelope.fail(failure.code, failure.text(_language_of(environ, self._language)))
        start_response(
            "429 TOO MANY REQUESTS",
            [
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(body))),
                ("Retry-After", str(max(1, math.ceil(left)))),
                ("Vary", "Origin"),
            ],
        )
        counts.add_request(SEND_PATH, failure.status, time.perf_counter() - started)
        return (body,)


def credential_of_send(environ: WSGIEnvironment) -> str | None:
    """Return the header that names the sender, whole, where `auth.token_of` would take his token from one.

    Never another: an `Authorization` that a proxy adds is everybody's.
    """
    token: str = environ.get("HTTP_TOKEN", "")
    authorization: str = environ.get("HTTP_AUTHORIZATION", "")
    scheme, _, credentials = authorization.partition(" ")
    return token or (authorization if scheme.lower() == "bearer" and credentials else None)


def _language_of(environ: WSGIEnvironment, default: str) -> str:
    return best_language(parse_accept_header(environ.get("HTTP_ACCEPT_LANGUAGE"), LanguageAccept), default)
