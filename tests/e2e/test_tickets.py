"""What a websocket needs before it opens: a ticket in place of a token, a page of an allowed origin, the right version."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from socket import create_connection
from urllib.parse import urlsplit

import pytest

from models.store import keys
from tests.conftest import InstanceFactory
from tests.support.acting import sign
from tests.support.client import ChatSocket, HttpClient
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users, start_session

_HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def _ticket(instance: Instance, token: str) -> str:
    status, body = HttpClient(instance.base, token).call("POST", "/api/chat/ticket")
    assert (status, body["msg"], body["data"]["expires_in"]) == (200, "ok", 30)
    return str(body["data"]["ticket"])


def _request(
    instance: Instance, method: str, path: str, headers: Mapping[str, str]
) -> tuple[int, dict[str, str], bytes]:
    address = urlsplit(instance.base)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        connection.request(method, path, headers={**headers})
        response = connection.getresponse()
        body = b"" if response.status == 101 else response.read()
        return response.status, dict(response.getheaders()), body
    finally:
        connection.close()


def test_a_ticket_opens_one_socket(instance: Instance, friends: tuple[int, int]) -> None:
    """A ticket admits as its token does, on its device, and once only."""
    ticket = _ticket(instance, start_session(instance, friends[0], device="phone"))

    with ChatSocket(instance.base, None, 2, query={"ticket": ticket}) as socket:
        hello = socket.wait_for(lambda frame: frame.data.get("type") == "hello").data
        assert hello["device"] == "phone"
        with ChatSocket(instance.base, None, 2, query={"ticket": ticket}) as again:
            assert again.wait_closed() == 4401
        assert again.frames[0].data["code"] == "token_invalid"
        assert socket.is_open


@pytest.mark.parametrize("ticket", ["unknown", "x" * 3_000, "鸿雁\x00"])
def test_what_is_no_ticket_is_refused(instance: Instance, ticket: str) -> None:
    """An unknown ticket is refused with the frame of an invalid token, whatever it looks like."""
    with ChatSocket(instance.base, None, query={"ticket": ticket}) as socket:
        assert socket.wait_closed() == 1005

    assert [(frame.data["msg"], frame.data["data"]) for frame in socket.frames] == [("fail", "Token 不合法")]


def test_a_ticket_does_not_outlive_its_time(instance: Instance, friends: tuple[int, int]) -> None:
    """A ticket that nobody used in time admits nobody."""
    ticket = _ticket(instance, instance.tokens[friends[0]])
    with instance.redis() as client:
        assert client.pttl(keys.ticket(ticket)) > 25_000
        client.pexpire(keys.ticket(ticket), 1)
        assert wait_until(lambda: not client.exists(keys.ticket(ticket)), 5.0)

    with ChatSocket(instance.base, None, 2, query={"ticket": ticket}) as socket:
        assert socket.wait_closed() == 4401


def test_a_ticket_does_not_outlive_its_session(instance: Instance, friends: tuple[int, int]) -> None:
    """The session is checked when the ticket is used, not when it was issued."""
    ticket = _ticket(instance, start_session(instance, friends[0], device="phone"))
    start_session(instance, friends[0], device="phone")

    with ChatSocket(instance.base, None, 2, query={"ticket": ticket}) as socket:
        assert socket.wait_closed() == 4401
    assert socket.frames[0].data["code"] == "token_invalid"


def test_visitors_get_tickets_and_others_do_not(instance: Instance) -> None:
    """A visitor's session is enough; without a session there is no ticket."""
    (visitor,) = add_users(instance, role="visitor")
    _ticket(instance, instance.tokens[visitor])

    assert HttpClient(instance.base, None).call("POST", "/api/chat/ticket")[1]["code"] == "token_missing"
    forged = sign(instance, visitor, "default", "no session")
    assert HttpClient(instance.base, forged).call("POST", "/api/chat/ticket")[1]["code"] == "token_invalid"


def test_a_refusal_is_told_in_english_too(instance: Instance) -> None:
    """To a client that asks for it; who asks for nothing reads ORIG's text."""
    said: dict[str, bytes] = {}
    for language in ("en", ""):
        headers = "".join(f"{name}: {value}\r\n" for name, value in _HANDSHAKE.items())
        with create_connection(("127.0.0.1", instance.port), timeout=10) as connection:
            connection.sendall(
                f"GET /ws?v=2&token=x HTTP/1.1\r\nHost: here\r\nAccept-Language: {language}\r\n{headers}\r\n".encode()
            )
            read = b""
            while b'"token_invalid"' not in read and (some := connection.recv(4_096)):
                read += some
        said[language] = read

    assert b'"The token is not valid"' in said["en"]
    assert '"Token 不合法"'.encode() in said[""]


def test_another_version_of_the_protocol_is_named(instance: Instance, friends: tuple[int, int]) -> None:
    """A handshake of another version learns which one is spoken (RFC 6455 section 4.4)."""
    path = f"/ws?token={instance.tokens[friends[0]]}"

    status, headers, body = _request(instance, "GET", path, _HANDSHAKE | {"Sec-WebSocket-Version": "8"})

    assert (status, headers["Sec-WebSocket-Version"]) == (426, "13")
    assert b'"upgrade_required"' in body


# Origins


def test_a_page_of_another_origin_opens_no_socket(instance: Instance, friends: tuple[int, int]) -> None:
    """It is refused before the upgrade and named in the log; our own page and programs pass."""
    path = f"/ws?token={instance.tokens[friends[0]]}&v=2"

    for origin in ("https://evil.example", "null", f"https://127.0.0.1:{instance.port}", "http://127.0.0.1"):
        status, _, body = _request(instance, "GET", path, _HANDSHAKE | {"Origin": origin})
        assert (status, b'"origin_refused"' in body) == (403, True), origin
    for headers in ({}, {"Origin": instance.base}):
        assert _request(instance, "GET", path, _HANDSHAKE | headers)[0] == 101
    logged = "".join(file.read_text() for file in instance.log_dir.glob("web*"))
    assert "https://evil.example" in logged


def test_only_allowed_pages_read_answers(fresh_instance: InstanceFactory) -> None:
    """Pages of the origins that the setting names may connect and read; the others get no CORS header."""
    instance = fresh_instance(ALLOWED_ORIGINS="https://chat.example.com, http://localhost:3000/")
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "token"}

    for origin in ("https://chat.example.com", "https://chat.example.com:443", "http://localhost:3000"):
        status, headers, _ = _request(instance, "OPTIONS", "/api/chat/ticket", preflight | {"Origin": origin})
        assert (status, headers["Access-Control-Allow-Origin"]) == (204, origin)
        assert "token" in headers["Access-Control-Allow-Headers"]
        status, headers, _ = _request(instance, "POST", "/api/chat/ticket", {"Origin": origin})
        assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (400, origin, "Origin")
        assert _request(instance, "GET", "/ws", _HANDSHAKE | {"Origin": origin})[0] == 101
    for method, more in (("OPTIONS", preflight), ("GET", {})):
        for origin in ("https://other.example.com", "http://chat.example.com"):
            _, headers, _ = _request(instance, method, "/api/chat/ticket", more | {"Origin": origin})
            assert not [name for name in headers if name.startswith("Access-Control")]
    logged = "".join(file.read_text() for file in instance.log_dir.glob("web*"))
    assert "https://other.example.com" in logged
    assert "https://chat.example.com" not in logged
