"""Flask without what no request of ours uses: sessions in cookies, coroutines, routes told apart by host, hooks of blueprints.

Flask asks for each of them in every request, a fifth of its part of a send (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import IO, Any, ClassVar

from flask import Flask, Request, Response
from flask.sessions import NullSession, SessionInterface
from werkzeug.datastructures import ImmutableMultiDict, MultiDict
from werkzeug.routing import Map, MapAdapter, Rule
from werkzeug.utils import cached_property


class _NoSessions(SessionInterface):
    """Gives every request the same empty session, which cannot be written to."""

    _none = NullSession()

    def open_session(self, _app: Flask, _request: Request) -> NullSession:
        return self._none

    def save_session(self, _app: Flask, _session: Any, _response: Response) -> None:
        raise NotImplementedError("nothing of ours keeps a session")


_NO_ARGUMENTS: MultiDict[str, str] = ImmutableMultiDict()


class _Request(Request):
    # Of the blueprints, whose hooks are looked for five times a request, none has any.
    blueprints: ClassVar[list[str]] = []

    @cached_property
    def args(self) -> MultiDict[str, str]:
        return super().args if self.query_string else _NO_ARGUMENTS

    @property
    def is_json(self) -> bool:
        return self.environ.get("CONTENT_TYPE") == "application/json" or super().is_json

    @cached_property
    def stream(self) -> IO[bytes]:
        stream: IO[bytes] = self.environ["wsgi.input"]  # which ends where the body does: `webapp/arriving.py`
        return stream


class _Map(Map):
    """Remembers which rule without arguments a path has led to: there are as many as there are rules and methods."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.known: dict[tuple[str, str], Rule] = {}


class _Adapter(MapAdapter):
    """Matches one HTTP request."""

    map: _Map

    def match(self, *args: Any, **options: Any) -> tuple[Any, Mapping[str, Any]]:
        # Flask asks for another one than the request's to learn which methods there are.
        asked = (options.get("method") or self.default_method, self.path_info)
        rule = self.map.known.get(asked)
        if rule is not None:
            return rule, {}
        found: tuple[Rule, Mapping[str, Any]] = super().match(*args, **options)
        if not found[1] and not found[0].arguments:
            self.map.known[asked] = found[0]
        return found


class Application(Flask):
    request_class = _Request
    session_interface = _NoSessions()
    url_map_class = _Map
    url_map: _Map

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        if request is None:
            return None  # of an application that knows no name of its own (`SERVER_NAME`)
        if "HTTP_UPGRADE" in request.environ:
            return super().create_url_adapter(request)  # which knows a websocket's request when it sees one
        environ = request.environ
        method, scheme = environ["REQUEST_METHOD"], environ["wsgi.url_scheme"]
        script_name, query = environ.get("SCRIPT_NAME", ""), environ.get("QUERY_STRING", "")
        return _Adapter(self.url_map, "", script_name, "", scheme, request.path, method, query)
