"""Flask without what no request of ours uses: sessions in cookies, coroutines, routes told apart by host.

Flask asks for each of them in every request, a tenth of its part of a send (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.routing import MapAdapter


class _NoSessions(SessionInterface):
    """Gives every request the same empty session, which cannot be written to."""

    _none = NullSession()

    def open_session(self, _app: Flask, _request: Request) -> NullSession:
        return self._none

    def save_session(self, _app: Flask, _session: Any, _response: Response) -> None:
        raise NotImplementedError("nothing of ours keeps a session")


class Application(Flask):
    session_interface = _NoSessions()

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        if request is None or "HTTP_UPGRADE" in request.environ:
            return super().create_url_adapter(request)  # which knows a websocket's request when it sees one
        environ = request.environ
        method, scheme = environ["REQUEST_METHOD"], environ["wsgi.url_scheme"]
        script_name, query = environ.get("SCRIPT_NAME", ""), environ.get("QUERY_STRING", "")
        return MapAdapter(self.url_map, "", script_name, "", scheme, request.path, method, query)
