"""One POST to a webhook's target: its signature (Standard Webhooks), its way to an address that was checked, its outcome.

The only importer of urllib3. Nothing is repeated here and no redirect is followed; of the answer only the status counts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import logging
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from urllib.parse import SplitResult, urlsplit

import urllib3.exceptions
from urllib3.connection import HTTPConnection, HTTPSConnection

from tasks.targets import TargetRefused, find_addresses

# It quotes addresses, with whatever secret is part of them, and answers.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)

_SECRET_PREFIX = "whsec_"
_SECRET_BYTES = 32
_CONNECT_SECONDS = 5.0  # to one address; the handshake of TLS has as much again
_MAX_ADDRESSES = 4  # tried one after the other
_MAX_ANSWER_BYTES = 16_384
_TAKE_SECONDS = 0.2  # for the rest of an answer, so that a target that is still writing it does not find us gone
_FAILURES = (urllib3.exceptions.HTTPError, OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a POST. status: None where no answer came; error: None where it was delivered."""

    status: int | None
    error: str | None
    duration_ms: int


def new_secret() -> str:
    """Make a secret as Standard Webhooks spells them."""
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of a POST, behind its version. timestamp: seconds since 1970, of this attempt"""
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def check_target(url: str, allowed: Sequence[str]) -> None:
    """Raises TargetRefused: as things stand, nothing would be posted there."""
    parts = urlsplit(url)
    find_addresses(parts.hostname or "", _port(parts), allowed)


def post(
    url: str, message_id: str, body: bytes, signed_with: Sequence[str], allowed: Sequence[str], seconds: float
) -> Outcome:
    """Post a body. What goes wrong on the way is the outcome, not raised.

    signed_with: secrets; allowed: networks of whose private addresses too may be used; seconds: for all but resolving the name
    """
    started = time.monotonic()
    timestamp = int(time.time())
    headers = {
        "Host": urlsplit(url).netloc,
        "Content-Type": "application/json",
        "User-Agent": "Hongyan-Webhooks",
        "Connection": "close",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, message_id, timestamp, body) for secret in signed_with),
    }
    status: int | None = None
    error: str | None = None
    try:
        status = _send(urlsplit(url), headers, body, allowed, seconds)
    except TargetRefused as refused:
        error = refused.code
    except _FAILURES as failed:
        error = _told(failed)
    if status is not None and not 200 <= status < 300:
        error = f"{'redirect' if 300 <= status < 400 else 'status'}: {status}"
    return Outcome(status, error, round((time.monotonic() - started) * 1000))


def _told(failed: Exception) -> str:
    is_late = isinstance(failed, TimeoutError | urllib3.exceptions.TimeoutError)
    if is_late and not isinstance(failed, urllib3.exceptions.NewConnectionError):  # which urllib3 counts among them
        return f"timeout: {failed}"
    if isinstance(failed, ssl.SSLError):
        return f"tls: {failed}"
    if isinstance(failed, http.client.HTTPException | urllib3.exceptions.ProtocolError):
        return f"connection: {type(failed).__name__}"  # its text may quote the answer, which is nobody's to read here
    return f"connection: {failed}"


def _send(parts: SplitResult, headers: Mapping[str, str], body: bytes, allowed: Sequence[str], seconds: float) -> int:
    """Return the status of the answer. Raises TargetRefused and `_FAILURES`."""
    addresses = find_addresses(parts.hostname or "", _port(parts), allowed)
    deadline = time.monotonic() + seconds
    with closing(_connect(parts, addresses, deadline)) as connection:
        left, sock = max(deadline - time.monotonic(), 0.01), connection.sock
        connection.timeout = left
        sock.settimeout(left)
        # A timeout of a socket is for one read, and a target that sends its head byte by byte makes many of them.
        cut = threading.Timer(left, _cut, [sock])
        cut.daemon = True
        cut.start()
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("POST", path, body, headers, preload_content=False, decode_content=False)
            with closing(connection.getresponse()) as answer:
                if time.monotonic() >= deadline:
                    raise TimeoutError  # half a head, which ends where it was cut
                sock.settimeout(_TAKE_SECONDS)
                with suppress(*_FAILURES):
                    answer.read1(_MAX_ANSWER_BYTES)
                return answer.status
        except _FAILURES as failed:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no answer within {seconds:g} s") from failed
            raise
        finally:
            cut.cancel()


def _connect(parts: SplitResult, addresses: Sequence[str], deadline: float) -> HTTPConnection:
    """Connect to the first of the addresses that takes the connection. Raises `_FAILURES`."""
    failure: Exception = TimeoutError("no time was left to connect")
    for address in addresses[:_MAX_ADDRESSES]:
        seconds = min(_CONNECT_SECONDS, deadline - time.monotonic())
        if seconds <= 0:
            break
        if parts.scheme == "https":
            host = parts.hostname  # whose certificate it must be
            connection: HTTPConnection = HTTPSConnection(
                address, _port(parts), timeout=seconds, ssl_context=_trust(), server_hostname=host
            )
        else:
            connection = HTTPConnection(address, _port(parts), timeout=seconds)
        try:
            connection.connect()
            return connection
        except _FAILURES as failed:
            connection.close()
            failure = failed
    raise failure


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _cut(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


@cache
def _trust() -> ssl.SSLContext:
    """Trust whom the system trusts; SSL_CERT_FILE names others. Reading its certificates takes some 20 ms."""
    return ssl.create_default_context()
