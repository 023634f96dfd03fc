"""Origins: which web pages may open a websocket and read answers (contract section 1, `ALLOWED_ORIGINS`).

A page of our own origin may, and those that the setting names. A request without Origin is no page's and passes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from urllib.parse import SplitResult, urlsplit

import structlog
from flask import Flask, Request, Response

from settings import SettingsError
from webapp.address import Proxies
from webapp.errors import ApiError
from webapp.http import JsonResponse, this_request

log = structlog.get_logger()

_DEFAULT_PORTS = {"http": 80, "https": 443}
_ALLOWED_HEADERS = "Accept-Language, Authorization, Content-Type, Prefer, X-Security-Sign, token"
_PREFLIGHT_SECONDS = 600
_MAX_LOGGED_CHARACTERS = 200
# Whoever likes can make origins up, and a page that is refused asks again and again.
_NAMED_AGAIN_SECONDS = 3600.0
_MAX_NAMED = 100
_WEBSOCKET_PATH = "/ws"


class Origins:
    def __init__(self, allowed: Sequence[str], proxies: Proxies) -> None:
        """Raises SettingsError: an entry is no origin."""
        self._allowed = {_read_setting(text) for text in allowed}
        self._proxies = proxies

    def admits(self, request: Request) -> bool:
        """Return whether the page that makes the request, if it is one, may."""
        origin = request.headers.get("Origin")
        return origin is None or self.knows(origin, *self.own(request))

    def knows(self, origin: str, scheme: str, host: str) -> bool:
        """Return whether an origin is allowed, or is our own: `scheme://host`."""
        normal = normal_origin(origin)
        return normal is not None and (normal in self._allowed or normal == normal_origin(f"{scheme}://{host}"))

    def own(self, request: Request) -> tuple[str, str]:
        """Return scheme and host as the browser names them: a trusted proxy says what it was asked for."""
        scheme: str = request.environ.get("wsgi.url_scheme", "http")
        host = request.headers.get("Host") or ""
        if self._proxies.trusts(request.remote_addr):
            scheme = _last(request.headers.get("X-Forwarded-Proto")) or scheme
            host = _last(request.headers.get("X-Forwarded-Host")) or host
        return {"ws": "http", "wss": "https"}.get(scheme, scheme), host


class Refusals:
    """Which refused origins have been named in the log: each once an hour, and a hundred different ones at most."""

    def __init__(self) -> None:
        self._named: set[str] = set()
        self._forget_at = 0.0

    def is_news(self, origin: str, now: float) -> bool:
        """Return whether it is to be named, and remember that it was. now: seconds of a clock that only goes on."""
        if now >= self._forget_at:
            self._named.clear()
            self._forget_at = now + _NAMED_AGAIN_SECONDS
        if origin in self._named or len(self._named) >= _MAX_NAMED:
            return False
        self._named.add(origin)
        return True


def normal_origin(text: str) -> str | None:
    """Return an origin in one spelling, with its port; None where it is none (`null` is none)."""
    try:
        parts = urlsplit(text)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if not parts.scheme or not parts.hostname or not _is_bare(parts):
        return None
    return f"{parts.scheme}://{parts.hostname}:{port or ''}"


def _is_bare(parts: SplitResult) -> bool:
    return not (parts.path or parts.query or parts.fragment or parts.username or parts.password)


def _read_setting(text: str) -> str:
    normal = normal_origin(text.strip().rstrip("/"))
    if normal is None or not re.match(r"^[a-z][a-z0-9+.-]*://[^\s*]+$", normal):
        raise SettingsError(f"ALLOWED_ORIGINS must list origins like https://chat.example.com, not {text!r}")
    return normal


def _last(header: str | None) -> str:
    """Return the entry that the nearest proxy has written."""
    return (header or "").rpartition(",")[2].strip()


def check_origins(app: Flask, origins: Origins) -> None:
    """Refuse websockets of other pages before the upgrade, and tell browsers which pages may read answers (CORS).

    A browser refuses on our behalf what we do not allow, and tells nobody but the page: so either refusal is logged.
    """
    refusals = Refusals()

    @app.before_request
    def refuse_or_answer_preflight() -> Response | None:
        asked = this_request()
        if "HTTP_ORIGIN" not in asked.environ:
            return None
        if origins.admits(asked):
            is_preflight = asked.method == "OPTIONS" and "Access-Control-Request-Method" in asked.headers
            return _preflight(asked) if is_preflight else None
        origin = asked.headers.get("Origin", "")[:_MAX_LOGGED_CHARACTERS]
        if refusals.is_news(origin, time.monotonic()):
            log.warning("origin_refused", origin=origin, setting="ALLOWED_ORIGINS")
        if asked.path == _WEBSOCKET_PATH:
            raise ApiError("origin_refused")
        return None

    @app.after_request
    def name_reader(response: Response) -> Response:
        if not isinstance(response, JsonResponse):  # which says so from the start
            response.vary.add("Origin")
        asked = this_request()
        origin = asked.environ.get("HTTP_ORIGIN")
        if origin is not None and origins.admits(asked):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = "Retry-After"
        return response


def _preflight(request: Request) -> Response:
    """Allow what is asked for: whoever may read answers may ask anything that a token admits."""
    response = Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = request.headers["Access-Control-Request-Method"]
    response.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
    response.headers["Access-Control-Max-Age"] = str(_PREFLIGHT_SECONDS)
    return response
