"""Who was refused for his rate is refused again without any work, for a moment, and nobody else is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from webapp import repeaters
from webapp.counts import counts
from webapp.repeaters import Memory, Repeaters

_SEND = {"REQUEST_METHOD": "POST", "PATH_INFO": "/api/chat/socket/sendmessage"}
_CONNECT = {"REQUEST_METHOD": "GET", "PATH_INFO": "/ws"}


class _Edge:
    """The gate in front of an application that only notes that it was reached."""

    def __init__(self, *, is_handshake: bool = True) -> None:
        self.sends, self.connects = Memory(), Memory()
        self.refused_sockets: list[tuple[int, str]] = []
        self.status = ""
        self.headers: dict[str, str] = {}
        self._is_handshake = is_handshake
        self._gate = Repeaters(self._pass, self.sends, self.connects, "zh", self._refuse_socket)

    def _pass(self, _environ: object, _start: object) -> Iterable[bytes]:
        return [b"passed"]

    def _refuse_socket(self, _environ: object, protocol: int, language: str) -> bool:
        if self._is_handshake:
            self.refused_sockets.append((protocol, language))
        return self._is_handshake

    def ask(self, environ: dict[str, Any]) -> bytes:
        def start(status: str, headers: list[tuple[str, str]], _error: object = None) -> Any:
            self.status, self.headers = status, dict(headers)

        return b"".join(self._gate(environ, start))


@pytest.mark.parametrize("header", [{"HTTP_TOKEN": "t"}, {"HTTP_AUTHORIZATION": "Bearer t"}])
def test_a_refused_sender_is_refused_at_once(header: dict[str, str]) -> None:
    edge = _Edge()
    edge.sends.note(next(iter(header.values())), 0.4)
    before = counts.bounds["RATE_LIMIT_SENDS"]

    body = edge.ask({**_SEND, **header, "HTTP_ACCEPT_LANGUAGE": "en"})

    assert (edge.status[:3], edge.headers["Retry-After"]) == ("429", "1")
    assert b'"rate_limited"' in body
    assert b"Too many requests" in body
    assert counts.bounds["RATE_LIMIT_SENDS"] == before + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"HTTP_TOKEN": "another"},
        {"HTTP_TOKEN": ""},
        {"PATH_INFO": "/api/chat/socket/sendmessage/"},
        {"PATH_INFO": "/api/chat/history"},
        {"REQUEST_METHOD": "OPTIONS"},
        {"HTTP_ORIGIN": "https://chat.example.com"},
    ],
)
def test_others_are_looked_at(changes: dict[str, str]) -> None:
    """Another credential, route or method; and a browser, which must be told whether its page may read the answer."""
    edge = _Edge()
    edge.sends.note("t", 0.4)

    assert edge.ask({**_SEND, "HTTP_TOKEN": "t", **changes}) == b"passed"


@pytest.mark.parametrize(
    ("environ", "credential"),
    [
        ({"HTTP_TOKEN": "t", "HTTP_AUTHORIZATION": "Bearer b"}, "t"),
        ({"HTTP_TOKEN": "", "HTTP_AUTHORIZATION": "bearer b"}, "bearer b"),
        ({"HTTP_AUTHORIZATION": "Basic cHJveHk6c2hhcmVk"}, None),
        ({"HTTP_AUTHORIZATION": "Bearer "}, None),
        ({}, None),
    ],
)
def test_only_a_header_that_holds_the_token_names_the_sender(environ: dict[str, str], credential: str | None) -> None:
    """What a proxy adds for all of its users must not stand for one of them."""
    assert repeaters.credential_of_send(environ) == credential


def test_it_ends_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the window is an hour: meanwhile the session may have ended."""
    now = 100.0
    monkeypatch.setattr("webapp.repeaters.time.monotonic", lambda: now)
    memory = Memory()
    memory.note("t", 3_600.0)

    assert memory.seconds_left("t") == 3_600.0
    now = 101.0
    assert memory.seconds_left("t") == 0.0


def test_it_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("webapp.repeaters.time.monotonic", lambda: now)
    memory = Memory()
    for number in range(5_000):
        now += 0.01
        memory.note(str(number), 1.0)

    assert len(memory._until) <= 1_000


def test_a_refused_socket_is_refused_at_once() -> None:
    edge = _Edge()
    edge.connects.note("t", 0.4)

    with pytest.raises(StopIteration):  # gunicorn's way: nothing is to be answered
        edge.ask({**_CONNECT, "QUERY_STRING": "token=t&v=2", "HTTP_ACCEPT_LANGUAGE": "en"})

    assert edge.refused_sockets == [(2, "en")]


@pytest.mark.parametrize("query", ["token=another", "", "ticket=x&token=t"])
def test_other_sockets_are_looked_at(query: str) -> None:
    """A ticket counts for more than a token beside it, which nobody has looked at."""
    edge = _Edge()
    edge.connects.note("t", 0.4)

    assert edge.ask({**_CONNECT, "QUERY_STRING": query}) == b"passed"


def test_what_is_no_handshake_is_answered_as_such() -> None:
    edge = _Edge(is_handshake=False)
    edge.connects.note("t", 0.4)

    assert edge.ask({**_CONNECT, "QUERY_STRING": "token=t"}) == b"passed"
