"""What is no proper HTTP is refused as everything else is: in the envelope, with a status of the contract, never with 500."""

from __future__ import annotations

import json
import socket

import pytest

from tests.support.instance import Instance

_LOGIN = "POST /api/loginChat HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
_HEALTH = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def _ask(instance: Instance, request: str) -> tuple[int, dict[str, str]]:
    """Send bytes as they are; return status and body of the answer."""
    with socket.create_connection(("127.0.0.1", instance.port), 10.0) as raw:
        raw.sendall(request.encode("latin-1"))
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    ("request_text", "status", "code"),
    [
        pytest.param("NONSENSE\r\n\r\n", 400, "bad_request", id="line"),
        pytest.param("GET /healthz HTTP/7.5\r\n\r\n", 400, "bad_request", id="version"),
        pytest.param(_HEALTH + "A b: c\r\n\r\n", 400, "bad_request", id="header"),
        pytest.param(_LOGIN + "Content-Length: two\r\n\r\n", 400, "bad_request", id="length"),
        pytest.param(_LOGIN + "Transfer-Encoding: gzip\r\n\r\n", 400, "bad_request", id="coding"),
        pytest.param(_LOGIN + "Expect: more\r\nContent-Length: 0\r\n\r\n", 400, "bad_request", id="expectation"),
        pytest.param(_LOGIN + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "bad_request", id="chunk"),
        pytest.param(_LOGIN + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}!!", 400, "bad_request", id="chunk-end"),
        pytest.param("GET /" + "a" * 4_200 + " HTTP/1.1\r\nHost: x\r\n\r\n", 413, "too_large", id="long-line"),
        pytest.param(_HEALTH + "A: " + "a" * 8_300 + "\r\n\r\n", 413, "too_large", id="long-header"),
    ],
)
def test_a_malformed_request_is_told_so(instance: Instance, request_text: str, status: int, code: str) -> None:
    """Whoever finds the mistake, the server's parser or a view that reads a body: the client reads one kind of answer."""
    answered, body = _ask(instance, request_text)

    assert (answered, list(body), body["msg"], body["code"]) == (status, ["msg", "data", "code"], "fail", code)


@pytest.mark.parametrize(
    "headers", ["SCRIPT_NAME: /elsewhere\r\n", "X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n"]
)
def test_nobody_is_believed_to_be_a_proxy(instance: Instance, headers: str) -> None:
    """Without TRUSTED_PROXIES no header says where the application is or how it was reached, from loopback neither."""
    assert _ask(instance, f"{_HEALTH}{headers}\r\n")[0] == 200
