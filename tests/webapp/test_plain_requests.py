"""Requests served without gunicorn's way: they mean what gunicorn says they mean, and what is not plain is left to it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn import util
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import given
from hypothesis import strategies as st

from webapp.plain_requests import PlainRequests

_SERVER, _CLIENT = ("127.0.0.1", 8000), ("127.0.0.1", 50000)
_LEFT_MOST = 100_000  # bytes that are read of a body that nobody wants
_SEND = b"POST /api/send?x=%41&y= HTTP/1.1\r\nHost: a\r\ntoken: t.o.k\r\nContent-Type: application/json\r\n"


def _config() -> Config:
    config = Config()
    config.set("forwarded_allow_ips", "")
    config.set("limit_request_field_size", 300)
    config.set("keepalive", 1)
    return config


@dataclass
class _Application:
    """Answers each request with its method, path and body; `answers` come first where there are any."""

    answers: list[Callable[[dict[str, Any], Any], Any]] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.asked.append(environ)
        if self.answers:
            return self.answers.pop(0)(environ, start_response)
        body = (
            environ["REQUEST_METHOD"].encode()
            + b" "
            + environ["PATH_INFO"].encode()
            + b" "
            + environ["wsgi.input"].read()
        )
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return (body,)


@dataclass
class _Served:
    client: socket.socket
    application: _Application
    worker: Any
    left: list[Any] = field(default_factory=list)  # what `serve` has returned or raised
    finished: list[bytes] = field(default_factory=list)  # bodies that were left unread

    def ask(self, *parts: bytes) -> bytes:
        """Send the parts one by one, and return what comes until nothing does for a moment."""
        for part in parts:
            self.client.sendall(part)
            threading.Event().wait(0.02)
        self.client.settimeout(0.1)
        data = b""
        try:
            while piece := self.client.recv(65536):
                data += piece
        except TimeoutError:
            pass
        return data


@contextmanager
def _serving(*answers: Callable[[dict[str, Any], Any], Any], first_seconds: float = 5.0) -> Iterator[_Served]:
    mine, theirs = socket.socketpair()
    application = _Application(list(answers))
    worker = SimpleNamespace(cfg=_config(), alive=True, wsgi=application)
    served = _Served(mine, application, worker)

    def finish_body(_: Any, request: Any) -> bool:
        served.finished.append(request.body.read())
        return True

    def is_given_up(request: Any) -> bool:
        return bool(request.body.reader.length > _LEFT_MOST)

    def serve() -> None:
        try:
            plain = PlainRequests(worker, first_seconds, finish_body, is_given_up)
            served.left.append(plain.serve(_SERVER, theirs, _CLIENT))
        except Exception as error:
            served.left.append(error)
        theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield served
    finally:
        mine.close()
        thread.join(10)
        assert not thread.is_alive()


def _bodies(answers: bytes) -> list[bytes]:
    """Return the bodies of the answers, each of which is of announced length."""
    bodies = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        bodies.append(rest[:length])
        answers = rest[length:]
    return bodies


def test_requests_of_one_connection_are_answered_in_turn() -> None:
    with _serving() as served:
        first = served.ask(_SEND + b"Content-Length: 3\r\n\r\nabc")
        second = served.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 OK\r\nServer: gunicorn\r\nDate: ")
    assert b"\r\nConnection: keep-alive\r\nContent-Type: text/plain\r\nContent-Length: 18\r\n\r\n" in first
    assert _bodies(first) == [b"POST /api/send abc"]
    assert _bodies(second) == [b"GET /x "]
    assert served.left == [None]


def test_requests_that_come_in_one_piece_are_told_apart() -> None:
    one = _SEND + b"Content-Length: 3\r\n\r\nabc"
    with _serving() as served:
        answers = served.ask(one + one + b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert _bodies(answers) == [b"POST /api/send abc", b"POST /api/send abc", b"GET /x "]


def test_a_body_may_come_behind_its_head_and_the_next_request_with_it() -> None:
    with _serving() as served:
        answers = served.ask(_SEND + b"Content-Length: 6\r\n\r\n", b"ab", b"cdefGET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert _bodies(answers) == [b"POST /api/send abcdef", b"GET /x "]


def test_what_a_view_leaves_unread_is_not_the_next_request() -> None:
    def refuse(_: dict[str, Any], start_response: Any) -> Any:
        start_response("401 UNAUTHORIZED", [("Content-Length", "2")])
        return (b"no",)

    with _serving(refuse, refuse) as served:
        here = served.ask(_SEND + b"Content-Length: 3\r\n\r\nabc")
        on_its_way = served.ask(_SEND + b"Content-Length: 3\r\n\r\na", b"bc")
        after = served.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert _bodies(here) == _bodies(on_its_way) == [b"no"]
    assert served.finished == [b"abc"]
    assert _bodies(after) == [b"GET /x "]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /x HTTP/1.0\r\nHost: a\r\n\r\n",
        b"HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET //x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nAccept: b\r\naccept: c\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nREMOTE_ADDR: b\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost: a\r\nScript_Name: /x\r\n\r\n",
        _SEND + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        _SEND + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        _SEND + b"Content-Length: +3\r\n\r\nabc",
        _SEND + b"Content-Length: -3\r\n\r\nabc",
        _SEND + b"Content-Length: 3, 3\r\n\r\nabc",
        _SEND + b"Content-Length: \xb2\r\n\r\nab",
        _SEND + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n",
        _SEND + b"X: " + b"a" * 400 + b"\r\n\r\n",
        _SEND + b"Content-Length: " + b"9" * 19 + b"\r\n\r\nab",
        _SEND + b"Content-Length: " + b"18446744073709551617" + b"\r\n\r\nab",
        b"\r\n\r\n",
        b"\r\nGET /x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /x HTTP/1.1\r\nHo",
    ],
)
def test_what_is_not_plain_is_left_to_gunicorn_as_it_came(head: bytes) -> None:
    with _serving() as served:
        assert _bodies(served.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")) == [b"GET /x "]
        assert served.ask(head) == b""
    assert served.left == [head]
    assert len(served.application.asked) == 1


def test_what_the_application_raises_is_passed_on() -> None:
    def fail(_: dict[str, Any], __: Any) -> Any:
        raise LookupError("a")

    with _serving(fail) as served:
        assert served.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n") == b""
    assert isinstance(served.left[0], LookupError)


def test_a_header_cannot_hold_a_second_one() -> None:
    def smuggle(_: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Location", "/\r\nSet-Cookie: a=b")])
        return (b"",)

    with _serving(smuggle) as served:
        assert served.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n") == b""
    assert isinstance(served.left[0], ValueError)


def test_an_answer_of_unknown_length_or_without_a_body_is_written_as_gunicorn_does() -> None:
    def stream(_: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"abc", b"defg"])

    def say_nothing(_: dict[str, Any], start_response: Any) -> Any:
        start_response("204 NO CONTENT", [])
        return (b"",)

    with _serving(stream, say_nothing) as served:
        streamed = served.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        nothing = served.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in streamed
    assert streamed.endswith(b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
    assert nothing.startswith(b"HTTP/1.1 204 NO CONTENT\r\n")
    assert b"Content-Length" not in nothing


def test_a_worker_that_stops_says_so_with_its_last_answer() -> None:
    with _serving() as served:
        served.worker.alive = False
        answer = served.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"\r\nConnection: close\r\n" in answer
    assert served.left == [None]


def test_an_answer_to_a_body_that_is_given_up_says_that_it_is_the_last() -> None:
    """The body is finished all the same: closed with something unread, the connection would be reset."""

    def refuse(_: dict[str, Any], start_response: Any) -> Any:
        start_response("413 REQUEST ENTITY TOO LARGE", [("Content-Length", "2")])
        return (b"no",)

    with _serving(refuse) as served:
        length = _LEFT_MOST + 1
        answer = served.ask(_SEND + b"Content-Length: %d\r\n\r\n" % length + b"a" * length)
    assert b"\r\nConnection: close\r\n" in answer
    assert [len(body) for body in served.finished] == [length]
    assert served.left == [None]


def test_a_connection_that_asks_for_nothing_is_closed() -> None:
    with _serving(first_seconds=0.1) as served:
        served.client.settimeout(5)
        assert served.client.recv(1) == b""
    assert served.left == [None]


def test_a_websocket_is_the_applications() -> None:
    """It takes the socket, and says so as gunicorn is told."""
    taken = []

    def take(environ: dict[str, Any], _: Any) -> Any:
        taken.append(environ["gunicorn.socket"].fileno())
        raise StopIteration

    with _serving(take) as served:
        assert served.ask(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n") == b""
    assert len(taken) == 1
    assert isinstance(served.left[0], StopIteration)


_PATHS = st.text("/ab%41?=&;+", max_size=12).map(lambda text: "/" + text)
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["Host", "host", "X-A", "x-a", "X-B", "X-Forwarded-For", "X-Forwarded-Proto", "Content-Type", "Cookie"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=9),
    ),
    max_size=5,
)


@given(
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    path=_PATHS,
    headers=_HEADERS,
    length=st.none() | st.integers(0, 99),
)
def test_a_plain_request_means_what_it_means_to_gunicorn(
    method: str, path: str, headers: Sequence[tuple[str, str]], length: int | None
) -> None:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"Content-Length: {length}"] if length is not None else []
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    plain = PlainRequests(SimpleNamespace(cfg=_config()), 1.0, lambda *_: True, lambda _: False)
    of_connection = {
        "REMOTE_ADDR": _CLIENT[0],
        "REMOTE_PORT": "50000",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
    }
    found = plain._read_head(head, plain._environ | of_connection)
    names = [name.lower() for name, _ in headers]
    if len(set(names)) == len(names) and not path.startswith("//"):
        assert found is not None
    if found is not None:
        request = Request(_config(), IterUnreader([head]), _CLIENT)
        _, expected = wsgi.create(request, None, _CLIENT, _SERVER, _config())
        for name in ("wsgi.errors", "wsgi.input", "wsgi.early_hints", "wsgi.multithread", "gunicorn.socket"):
            expected.pop(name, None)
            found.pop(name, None)
        assert found == expected


def test_the_date_is_gunicorns() -> None:
    with _serving() as served:
        answer = served.ask(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    date = answer.partition(b"Date: ")[2].partition(b"\r\n")[0].decode()
    assert date[:-12] == util.http_date()[:-12]
