"""Posting to webhooks: which addresses may be posted to, how a POST is signed, and what becomes of it."""

from __future__ import annotations

import base64
import ipaddress
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks import posting, targets
from tasks.posting import Outcome, new_secret, post, sign
from tasks.targets import is_allowed
from tests.support.webhook_target import WebhookTarget

_LOOPBACK = ("127.0.0.0/8",)


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.254", "127.0.0.1", "127.255.255.255"),
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.1.1", "192.88.99.1"),
        *("198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
        *("::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:10::1"),
        *("2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::", "3fff::1", "5f00::1"),
        *("fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%lo", "fec0::1", "ff02::1", "ff0e::1"),
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_allowed(ipaddress.ip_address(address), [])


@pytest.mark.parametrize(
    "address",
    [
        *("1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.15.0.1", "172.32.0.1"),
        *("192.0.1.1", "198.17.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "2400:cb00::1"),
        *("::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"),
    ],
)
def test_a_public_address_is_allowed(address: str) -> None:
    assert is_allowed(ipaddress.ip_address(address), [])


@pytest.mark.parametrize(
    ("address", "is_in"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("64:ff9b::a01:203", True), ("10.2.0.1", False), ("fd00::7", True)],
)
def test_a_private_network_is_allowed_where_it_is_named(address: str, *, is_in: bool) -> None:
    """Whichever way an address of it is spelled; no other comes with it."""
    networks = [ipaddress.ip_network(text) for text in ("10.1.0.0/16", "fd00::/64")]

    assert is_allowed(ipaddress.ip_address(address), networks) is is_in


def _resolve(monkeypatch: pytest.MonkeyPatch, *answers: Sequence[str]) -> list[str]:
    """Have names resolve to these addresses, one answer after the other, and return the list of names that are asked for."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> Any:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            asked.append(host)
            addresses = answers[min(len(asked), len(answers)) - 1]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def _post(url: str, body: bytes = b"{}", seconds: float = 5.0, allowed: Sequence[str] = _LOOPBACK) -> Outcome:
    return post(url, "id", body, [new_secret()], allowed, seconds)


def test_a_name_is_resolved_once_and_its_checked_address_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a name server could give an address that is allowed to who checks, and another to who connects."""
    asked = _resolve(monkeypatch, ["127.0.0.1"], ["127.0.0.2"])
    with WebhookTarget() as target:
        outcome = _post(target.url.replace("127.0.0.1", "hooks.test"), b'{"events":[]}')

    assert (outcome.status, outcome.error) == (200, None)
    assert asked == ["hooks.test"]
    assert target.posted[0].headers["host"].startswith("hooks.test:")


@pytest.mark.parametrize("addresses", [["10.0.0.1"], ["1.1.1.1", "127.0.0.1"], ["::ffff:10.0.0.1"]])
def test_a_name_with_an_address_inside_is_refused(monkeypatch: pytest.MonkeyPatch, addresses: list[str]) -> None:
    """Whatever other addresses it has."""
    _resolve(monkeypatch, addresses)

    assert _post("http://hooks.test/", allowed=()).error == "webhook_target_refused"


@pytest.mark.parametrize("host", ["a..b", "...", "a" * 64 + ".example"])
def test_a_name_that_cannot_be_is_not_looked_up(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """What the resolver makes of it stood in the log of the web process as a traceback."""
    looked_up: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **_: looked_up.append(asked))

    assert _post(f"http://{host}/").error == "webhook_host_unknown"
    assert looked_up == []


def test_a_name_server_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        time.sleep(1.0)
        return []

    monkeypatch.setattr(targets, "_LOOK_UP_SECONDS", 0.1)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    outcome = _post("http://hooks.test/")

    assert outcome.error == "webhook_host_unknown"
    assert outcome.duration_ms < 800


# One POST


def test_a_signature_is_as_the_specification_says() -> None:
    """HMAC-SHA256 of id, time and body with dots between, in base64 behind its version."""
    secret = "whsec_" + base64.b64encode(b"k" * 32).decode()

    # echo -n 'msg_1.1700000000.{"a":1}' | openssl dgst -sha256 -mac HMAC -macopt hexkey:6b6b… -binary | base64
    assert sign(secret, "msg_1", 1_700_000_000, b'{"a":1}') == "v1,tDnYFrCIK4MQWDoOot4FXQ7/xKQ3Ta7J5hEfw60KmoA="


@contextmanager
def _raw_target(*parts: bytes, pause: float = 0.0, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that answers whoever connects with these bytes, a pause behind each, then waits for him to go."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(sock, server_side=True) if context else sock as client:
                    client.settimeout(10)
                    client.recv(65_536)
                    for part in parts:
                        client.sendall(part)
                        time.sleep(pause)
                    while client.recv(65_536):
                        pass
            except OSError:
                pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("parts", "pause"),
    [((), 0.0), ((b"HTTP/1.1 200 OK\r\n", *(b"x-%d: 1\r\n" % number for number in range(100))), 0.2)],
    ids=["silent", "byte by byte"],
)
def test_a_target_has_so_long_and_no_longer(parts: tuple[bytes, ...], pause: float) -> None:
    """Whether it says nothing, or always a little more."""
    with _raw_target(*parts, pause=pause) as port:
        outcome = _post(f"http://127.0.0.1:{port}/", seconds=0.5)

    assert (outcome.status, (outcome.error or "").partition(":")[0]) == (None, "timeout")
    assert 400 < outcome.duration_ms < 2_000


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 100_000, 200, None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense", 200, None),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", 404, "status: 404"),
        (b"-ERR secret of another service\r\n", None, "connection: "),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n", None, "connection: "),
        (b"HTTP/1.1 200 OK\r\nsecret\r\n\r\n", 200, None),
        (b"HTTP/1.1 999 \x00\xff\r\n\r\n", 999, "status: 999"),
    ],
)
def test_of_an_answer_its_status_counts(
    answer: bytes, status: int | None, error: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest is not waited for, and what an answer says is quoted nowhere."""
    with _raw_target(answer) as port:
        outcome = _post(f"http://127.0.0.1:{port}/", seconds=3.0)

    assert outcome.status == status
    assert (outcome.error or "").startswith(error or "")
    assert (outcome.error is None) is (error is None)
    assert "secret" not in (outcome.error or "") + caplog.text
    assert outcome.duration_ms < 2_500


def test_a_certificate_must_be_of_the_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Though the connection is made to an address: the right one is taken, another's and an unknown one are not."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    named = ("-subj", "/CN=hooks.test", "-addext", "subjectAltName=DNS:hooks.test", "-days", "2")
    subprocess.run([*made, *named, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=30)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    _resolve(monkeypatch, ["127.0.0.1"])

    with _raw_target(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", context=served) as port:
        unknown = _post(f"https://hooks.test:{port}/")
        trusting = ssl.create_default_context(cafile=str(certificate))
        monkeypatch.setattr(posting, "_trust", lambda: trusting)
        right, other = _post(f"https://hooks.test:{port}/"), _post(f"https://other.test:{port}/")

    assert (right.status, right.error) == (200, None)
    assert [(each.status, (each.error or "")[:4]) for each in (unknown, other)] == [(None, "tls:")] * 2


def test_the_first_address_that_answers_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with WebhookTarget() as target:
        _resolve(monkeypatch, ["127.0.0.2", "127.0.0.1"])
        outcome = _post(target.url.replace("127.0.0.1", "hooks.test"), b'{"events":[]}')

    assert outcome.status == 200
