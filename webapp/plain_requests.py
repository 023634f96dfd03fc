"""Plain requests: what clients send all day, served without gunicorn's long way through each.

Plain is a whole head of HTTP/1.1 in one piece, that names nothing twice and asks for nothing special but a websocket, with
a body of announced length or none. Whatever is not is left to gunicorn with every byte as it came, and so is the rest of its
connection. What a plain request means, gunicorn's parser and environ decide here as well (docs/decisions/0005).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import gunicorn_h1c
from gunicorn import util
from gunicorn.http import wsgi
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.unreader import SocketUnreader

from webapp.arriving import ArrivedBody
from webapp.counts import counts

_READ_BYTES = 8192  # a longer head is gunicorn's to bound, the rest of a longer body is read by whoever wants it
_METHODS = {b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"}
_TARGET = re.compile(rb"(?!//)/[!\"$-~]*")  # RFC 9112 section 3.2.1, and no fragment
_SPECIAL = {"EXPECT", "HTTP2-SETTINGS", "TRANSFER-ENCODING"}
_MOST_DIGITS = 18  # of a length; Python refuses to read some thousands
_NO_BODY = ("1", "204", "304")  # of answers: RFC 9110 section 6.4.1

_names: dict[bytes, str] = {}  # header as it was written -> in capitals; only of what passed the parser
_MANY_NAMES = 1_000


class _Answer:
    """A WSGI `start_response` that keeps what it is given."""

    __slots__ = ("headers", "status")

    def __init__(self) -> None:
        self.status = ""
        self.headers: list[tuple[str, str]] = []

    def __call__(self, status: str, headers: list[tuple[str, str]], _error: Any = None) -> Callable[[bytes], object]:
        self.status, self.headers = status, headers
        return _refuse_write


def _refuse_write(_data: bytes) -> object:
    raise NotImplementedError("an answer is what the application returns")


class _Asked:
    """What gunicorn's own response asks its request for."""

    version = (1, 1)

    def __init__(self, method: str, body: Any = None) -> None:
        self.method = method
        self.body = body

    def should_close(self) -> bool:
        return False


class PlainRequests:
    """Serves the plain requests of all connections of a gunicorn worker.

    first_seconds: for a connection's first request to come, and for each part of an answer to be taken
    finish_body: given a client and an object whose `body` is left unread, makes the connection fit for the next request;
    False: it has ended it. is_given_up: whether that is known before the answer is written, which says so then
    """

    def __init__(
        self,
        worker: Any,
        first_seconds: float,
        finish_body: Callable[[Any, Any], bool],
        is_given_up: Callable[[Any], bool],
    ) -> None:
        self._worker = worker
        self._first_seconds = first_seconds
        self._finish_body = finish_body
        self._is_given_up = is_given_up
        config = worker.cfg
        self._limits = {
            "limit_request_line": config.limit_request_line,
            "limit_request_fields": config.limit_request_fields,
            "limit_request_field_size": config.limit_request_field_size,
        }
        self._environ = {
            **wsgi.base_environ(config),
            "wsgi.multithread": True,
            "wsgi.url_scheme": "http",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SCRIPT_NAME": "",
        }
        self._head = f"Server: {wsgi.SERVER}\r\nDate: "

    def serve(self, server: tuple[str, int], client: Any, address: tuple[str, int]) -> bytes | None:
        """Serve a connection's requests for as long as they are plain.

        server, address: of both ends. Returns what was read of a request that is not plain, None where the connection is over.
        Raises OSError, and what the application raises.
        """
        environ = {
            **self._environ,
            "gunicorn.socket": client,
            "REMOTE_ADDR": address[0],
            "REMOTE_PORT": str(address[1]),
            "SERVER_NAME": server[0],
            "SERVER_PORT": str(server[1]),
        }
        data: bytes | None = b""
        seconds = self._first_seconds
        while data is not None:
            if not data:
                client.settimeout(seconds)
                try:
                    data = client.recv(_READ_BYTES)
                except TimeoutError:
                    if seconds is self._first_seconds:
                        counts.bounds["REQUEST_MAX_SECONDS"] += 1
                    return None
                if not data:
                    return None
            end = data.find(b"\r\n\r\n") + 4
            asked = self._read_head(data[:end], environ) if end > 3 else None
            if asked is None:
                return data
            client.settimeout(self._first_seconds)  # for each part of the answer
            data = self._serve_one(client, asked, data[end:])
            seconds = self._worker.cfg.keepalive
        return None

    def _read_head(self, head: bytes, of_connection: dict[str, Any]) -> dict[str, Any] | None:
        """Return the environ of a head; None: it is not plain, or wrong, which gunicorn has the words for."""
        try:
            parsed = gunicorn_h1c.parse_request(head, **self._limits)
        except (gunicorn_h1c.ParseError, gunicorn_h1c.IncompleteError):
            return None
        method, target = parsed["method"], parsed["path"]
        is_plain = parsed["minor_version"] == 1 and parsed["consumed"] == len(head) and head[0] != 13
        if not is_plain or method not in _METHODS or not _TARGET.fullmatch(target):
            return None
        environ = of_connection.copy()
        for name_read, value in parsed["headers"]:
            name = _names.get(name_read) or _name(name_read)
            if name in environ or not name:
                return None
            environ[name] = value.decode("latin-1")
        length = environ.pop("HTTP_CONTENT_LENGTH", None)
        if length is not None:
            if not length.isdecimal() or len(length) > _MOST_DIGITS:
                return None
            environ["CONTENT_LENGTH"] = length
        if "HTTP_CONTENT_TYPE" in environ:
            environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE")
        is_upgrade = "HTTP_UPGRADE" in environ
        if is_upgrade and environ["HTTP_UPGRADE"].lower() != "websocket":
            return None
        if environ.get("HTTP_CONNECTION", "keep-alive").lower() != ("upgrade" if is_upgrade else "keep-alive"):
            return None
        uri = target.decode()
        path, _, query = uri.partition("?")
        environ["REQUEST_METHOD"] = method.decode()
        environ["RAW_URI"] = uri
        environ["QUERY_STRING"] = query
        environ["PATH_INFO"] = util.unquote_to_wsgi_str(path) if "%" in path else path
        return environ

    def _serve_one(self, client: Any, environ: dict[str, Any], arrived: bytes) -> bytes | None:
        """Serve a request. arrived: what was read behind its head. Returns what of it is behind the request; None: it is over."""
        length, method = int(environ.get("CONTENT_LENGTH", 0)), environ["REQUEST_METHOD"]
        if length <= len(arrived):
            environ["wsgi.input"] = ArrivedBody(arrived[:length])
            return arrived[length:] if self._answer(client, environ, _Asked(method)) else None
        unreader = SocketUnreader(client)
        unreader.unread(arrived)
        body = environ["wsgi.input"] = Body(LengthReader(unreader, length))
        asked = _Asked(method, body)
        is_open = self._answer(client, environ, asked)
        # Of a last request too: the connection would be reset where something is unread, and the answer with it.
        if not self._finish_body(client, asked) or not is_open:
            return None
        left: bytes = unreader.take_buffered()
        return left

    def _answer(self, client: Any, environ: dict[str, Any], asked: _Asked) -> bool:
        """Ask the application and write its answer. False: the connection is of no more use."""
        answer = _Answer()
        parts = self._worker.wsgi(environ, answer)
        is_last = not self._worker.alive or (asked.body is not None and self._is_given_up(asked))
        if type(parts) is tuple and len(parts) == 1 and not answer.status.startswith(_NO_BODY):
            client.sendall(self._encode(answer, parts[0], is_last))
            return not is_last
        return self._answer_as_gunicorn(client, asked, answer, parts, is_last)

    def _encode(self, answer: _Answer, body: bytes, is_last: bool) -> bytes:
        """Put head and body together for one write: two cost a system call and a segment more, 6 % of a send."""
        lines = [
            f"HTTP/1.1 {answer.status}\r\n{self._head}{util.http_date()}\r\nConnection: {'close' if is_last else 'keep-alive'}"
        ]
        lines += [f"{name}: {value}" for name, value in answer.headers if name != "Content-Length"]
        lines.append(f"Content-Length: {len(body)}\r\n\r\n")
        head = "\r\n".join(lines)
        if head.count("\n") != len(lines) + 4:
            raise ValueError("a header of an answer holds a line break")
        return head.encode("latin-1") + body

    def _answer_as_gunicorn(
        self, client: Any, asked: _Asked, answer: _Answer, parts: Iterable[bytes], is_last: bool
    ) -> bool:
        response = wsgi.Response(asked, client, self._worker.cfg)
        if is_last:
            response.force_close()
        try:
            response.start_response(answer.status, answer.headers)
            for part in parts:
                response.write(part)
            response.close()
        finally:
            if hasattr(parts, "close"):
                parts.close()
        return not response.should_close()


def _name(read: bytes) -> str:
    """Return the environ's name of a header; "" where it is none of a plain request's."""
    name = read.decode("latin-1").upper()
    if "_" in name or name in _SPECIAL:
        return ""
    name = "HTTP_" + name.replace("-", "_")
    if len(_names) < _MANY_NAMES:
        _names[read] = name
    return name
