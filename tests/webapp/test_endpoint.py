"""The websocket route where something of ours fails: who connects is dropped to come back, and is not called wrong (ORIG A16)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import flask_sock
import pytest
from flask import Flask
from structlog.testing import CapturingLogger

from tests.model.rig import decode_frames
from webapp.repeaters import SOCKET_PATH, Memory
from webapp.sockets import endpoint

_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_RESTARTING = 1012


class _Fails:
    """Stands for gatekeeper, tickets and office. Admits everybody; calls of `where` meet a bug."""

    def __init__(self, where: str) -> None:
        self._where = where

    def admit(self, _credential: str | None) -> Any:
        self._fail_at("admit")
        return None

    def connect(self, *_: Any, **__: Any) -> None:
        self._fail_at("connect")

    def _fail_at(self, where: str) -> None:
        if where == self._where:
            raise RuntimeError("a bug")


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    """What the route logs."""
    logger = CapturingLogger()
    monkeypatch.setattr(endpoint, "log", logger)
    return logger


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end of a connection and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        theirs = socket.create_connection(server.getsockname())
        ours, _ = server.accept()
    theirs.settimeout(5)
    yield ours, theirs
    ours.close()
    theirs.close()


def _handshake(where: str, query: str, ours: socket.socket) -> None:
    """Take a handshake as the web server does, which closes its own descriptor of the socket after it."""
    app, fails = Flask("route"), _Fails(where)
    anything: Any = fails
    endpoint.add_route(flask_sock.Sock(app), anything, anything, anything, Memory(), language="zh")
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": _KEY,
        "Sec-WebSocket-Version": "13",
    }
    with suppress(StopIteration):  # so flask-sock tells the server that it has been answered
        app.test_client().get(f"{SOCKET_PATH}?{query}", headers=headers, environ_overrides={"gunicorn.socket": ours})
    ours.close()


def _read_to_the_end(theirs: socket.socket) -> bytes:
    read = b""
    while data := theirs.recv(65_536):
        read += data
    return read


@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize("where", ["admit", "connect"])
@pytest.mark.parametrize("credential", ["token", "ticket"])
def test_a_bug_is_not_the_clients_fault(
    pair: tuple[socket.socket, socket.socket], logged: CapturingLogger, where: str, credential: str, protocol: int
) -> None:
    """No failure frame says that a token is wrong, nothing says to stay away, the connection ends, and we know of it."""
    ours, theirs = pair

    _handshake(where, f"{credential}=x&v={protocol}", ours)

    answered, _, rest = _read_to_the_end(theirs).partition(b"\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 101 ")
    frames = decode_frames(rest)
    assert [frame for frame in frames if frame.kind == "text"] == []
    assert {frame.code for frame in frames} <= ({_RESTARTING} if protocol == 2 else set())
    assert [(call.method_name, call.args) for call in logged.calls] == [("exception", ("socket_dropped",))]
