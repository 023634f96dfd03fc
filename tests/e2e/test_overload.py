"""What is bounded at the edge, on real sockets: undecided sends, connections, and what a client may keep waiting (G7)."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.acting import open_socket
from tests.support.client import ChatSocket, HttpClient
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users, befriend
from webapp.errors import FAILURES

_OUTBOX_ENTRIES = 20
_UNDECIDED = 5
_REQUEST_SECONDS = 1.0
_CONNECTIONS = 12
_CONNECTS = 6  # in ten seconds
_BODY_BYTES = 262_144
_LATE_SECONDS = 0.5


@pytest.fixture(scope="module")
def narrow() -> Iterator[Instance]:
    """One web process, one worker, one shard, and small bounds."""
    with Instance(
        {
            "WEB_PROCESSES": "1",
            "WORKER_PROCESSES": "1",
            "OUTBOX_SHARDS": "1",
            "OUTBOX_MAX_ENTRIES": str(_OUTBOX_ENTRIES),
            "SOCKET_MAX_UNDECIDED": str(_UNDECIDED),
            "REQUEST_MAX_SECONDS": str(_REQUEST_SECONDS),
            "WEB_MAX_CONNECTIONS": str(_CONNECTIONS),
            "RATE_LIMIT_CONNECTS": f"{_CONNECTS} per 10 second",
            "RATE_LIMIT_SENDS": "off",
        }
    ) as instance:
        instance.seed(40, 0)
        yield instance


@pytest.fixture
def stopped_worker(narrow: Instance) -> Iterator[Instance]:
    """The same, while nothing is decided. An outbox that the test before has filled has been seen to have room again."""
    asker = HttpClient(narrow.base, narrow.tokens[39])
    assert wait_until(lambda: asker.send(40, "has it room?", respond_async=True)[0] == 202, 20.0)
    assert wait_until(lambda: _waiting(narrow) == 0, 20.0)
    narrow.kill("worker", signal.SIGSTOP)
    try:
        yield narrow
    finally:
        narrow.kill("worker", signal.SIGCONT)


def _waiting(instance: Instance) -> int:
    with instance.redis() as client:
        return int(client.llen("outbox:{s0}"))


def _hits(instance: Instance, bound: str) -> float:
    """Return how often /metrics says that a bound said no."""
    status, text = HttpClient(instance.base, None).get("/metrics")
    assert status == 200, text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "hongyan_bounds_hit_total" and sample.labels["bound"] == bound
    )


def _send_frame(ref: int, to: int, text: str) -> dict[str, Any]:
    body = json.dumps({"data": text, "dataType": False, "otherData": None})
    message = {"sendto_id": to, "chatType": "single", "type": "text", "data": body, "clientMsgId": uuid.uuid4().hex}
    return {"type": "send", "ref": ref, "message": message}


def _dial(instance: Instance, *, receive_buffer_bytes: int | None = None) -> socket.socket:
    raw = socket.socket()
    if receive_buffer_bytes is not None:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    raw.settimeout(15.0)
    raw.connect(("127.0.0.1", instance.port))
    return raw


def _read_to_end(raw: socket.socket) -> bytes:
    """Return what comes until the server has ended the connection."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while data := raw.recv(65_536):
            parts.append(data)
    return b"".join(parts)


# Undecided sends


def test_a_full_outbox_takes_no_more_and_recovers(stopped_worker: Instance) -> None:
    """While drains stand still sends end with 503 and nothing is kept; what was accepted is delivered once they go on."""
    instance = stopped_worker
    client = HttpClient(instance.base, instance.tokens[1])
    hits = _hits(instance, "OUTBOX_MAX_ENTRIES")
    accepted: list[str] = []
    with open_socket(instance, 2, 2) as recipient, open_socket(instance, 3, 2) as sender:
        for number in range(_OUTBOX_ENTRIES):
            status, body = client.send(2, f"kept {number}", respond_async=True)
            assert status == 202, body
            accepted.append(body["data"]["id"])

        status, body = client.send(2, "refused", respond_async=True)
        assert (status, body["code"]) == (503, "overloaded")
        sender.send_json(_send_frame(1, 4, "refused"))
        result = sender.wait_for(lambda frame: frame.data.get("type") == "sendResult").data
        assert (result["ok"], result["code"]) == (False, "overloaded")
        recall = {"chatType": "single", "to_id": 2, "id": accepted[0]}
        assert client.post("/api/chat/revokeMessage", recall)[1]["code"] == "overloaded"
        forward = {"id": str(uuid.uuid4()), "to": [{"chatType": "single", "sendto_id": 2}]}
        assert client.post("/api/chat/forward", forward)[0] == 404  # reading goes on
        assert _waiting(instance) == _OUTBOX_ENTRIES
        assert _hits(instance, "OUTBOX_MAX_ENTRIES") >= hits + 3

        instance.kill("worker", signal.SIGCONT)
        began = time.monotonic()
        assert wait_until(lambda: client.send(2, "after", respond_async=True)[0] == 202, 5.0)
        recipient.wait_for_text("after")
        assert time.monotonic() - began < 5.0
        shown = [message["id"] for message in recipient.messages]
        assert shown[: len(accepted)] == accepted
        assert len(shown) == len(set(shown))


def test_a_refused_send_says_when_to_come_again(stopped_worker: Instance) -> None:
    """503 has a Retry-After."""
    client = HttpClient(stopped_worker.base, stopped_worker.tokens[5])
    assert wait_until(lambda: client.send(6, "fills", respond_async=True)[0] == 503, 20.0)
    body = json.dumps({"sendto_id": 6, "chatType": "single", "type": "text", "data": "{}"}).encode()
    with _dial(stopped_worker) as raw:
        raw.sendall(
            b"POST /api/chat/socket/sendmessage HTTP/1.1\r\nHost: x\r\nConnection: close\r\ntoken: %s\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (stopped_worker.tokens[5].encode(), len(body), body)
        )
        answer = _read_to_end(raw)

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in answer


def test_a_socket_has_so_many_undecided_sends(stopped_worker: Instance) -> None:
    """One more is refused by its result; the others get theirs when the drains go on, and then there is room again."""
    instance = stopped_worker
    with open_socket(instance, 7, 2) as sender:
        for ref in range(_UNDECIDED + 1):
            sender.send_json(_send_frame(ref, 8, f"number {ref}"))
        refused = sender.wait_for(lambda frame: frame.data.get("type") == "sendResult").data
        assert (refused["ref"], refused["code"]) == (_UNDECIDED, "too_many_sends")

        instance.kill("worker", signal.SIGCONT)
        for ref in range(_UNDECIDED):
            assert sender.wait_for(lambda frame, ref=ref: frame.data.get("ref") == ref).data["ok"]  # type: ignore[misc]
        sender.send_json(_send_frame(99, 8, "room again"))
        assert sender.wait_for(lambda frame: frame.data.get("ref") == 99).data["ok"]
    assert _hits(instance, "SOCKET_MAX_UNDECIDED") >= 1


def test_a_refusal_before_the_body_was_read_keeps_the_connection(narrow: Instance) -> None:
    """A client that is refused for its token, its rate or a full outbox goes on over the same connection."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", narrow.port, timeout=15.0)) as connection:
        connection.connect()
        kept = connection.sock
        for _ in range(3):
            connection.request("POST", "/api/chat/socket/sendmessage", b"{}" + b" " * 100_000, {"token": "none"})
            response = connection.getresponse()
            assert response.status == 400
            response.read()
            assert connection.sock is kept


# Connections


def test_who_connects_again_and_again_is_read_his_inbox_late(instance: Instance) -> None:
    """But wholly, and a live message behind it: each connect of a flood would else read all of it and be gone."""
    reader, sender = add_users(instance, 2)
    befriend(instance, reader, sender)
    client = HttpClient(instance.base, instance.tokens[sender])
    assert client.send(reader, "waits")[0] == 200
    began, connects, late = time.monotonic(), 0, 0.0
    while late < _LATE_SECONDS and time.monotonic() - began < 20.0:
        connects += 1
        with open_socket(instance, reader, 2) as connection:
            if connects % 30 == 0:  # within a second, on whichever of two processes
                opened = time.monotonic()
                connection.wait_for_text("waits")
                late = time.monotonic() - opened
                assert client.send(reader, f"live {connects}")[0] == 200
                connection.wait_for_text(f"live {connects}")
    assert late >= _LATE_SECONDS


@pytest.mark.parametrize("v", [1, 2])
def test_a_user_who_connects_too_often_is_sent_away(narrow: Instance, v: int) -> None:
    """Before anything is read for him. Protocol 1 is dropped without a close frame, so that it comes back by itself."""
    user_id, other_id = (9, 10) if v == 1 else (11, 12)
    hits = _hits(narrow, "RATE_LIMIT_CONNECTS")
    for _ in range(2 * _CONNECTS):  # a window may end meanwhile
        with ChatSocket(narrow.base, narrow.tokens[user_id], 1 if v == 1 else 2) as connection:
            first = connection.wait_for(lambda _: True).data
            if first.get("type") != "system":
                assert connection.wait_closed() == (None if v == 1 else 4429)
                break
    else:
        pytest.fail("no connect was refused")

    said = {"msg": "fail", "data": FAILURES["too_many_connections"].zh}
    assert first == (said if v == 1 else {**said, "code": "too_many_connections"})
    # Once more, and he is refused without being looked at: it looks the same.
    with ChatSocket(narrow.base, narrow.tokens[user_id], 1 if v == 1 else 2) as connection:
        assert connection.wait_for(lambda _: True).data == first
        assert connection.wait_closed() == (None if v == 1 else 4429)
    open_socket(narrow, other_id, 1 if v == 1 else 2).close()
    assert _hits(narrow, "RATE_LIMIT_CONNECTS") > hits


def test_a_process_has_so_many_sockets(narrow: Instance) -> None:
    """One more is refused, HTTP goes on, and who comes after another has left is taken."""
    with contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(open_socket(narrow, user_id, 2)) for user_id in range(13, 13 + _CONNECTIONS)]
        with ChatSocket(narrow.base, narrow.tokens[30], 2) as refused:
            assert refused.wait_closed() == 4429
        assert HttpClient(narrow.base, narrow.tokens[30]).get("/api/chat/conversations")[0] == 200
        assert _hits(narrow, "WEB_MAX_CONNECTIONS") >= 1

        open_ones[0].close()

        def is_taken() -> bool:
            with ChatSocket(narrow.base, narrow.tokens[31], 2) as socket:
                return bool(socket.wait_for(lambda _: True).data.get("type") == "system")

        assert wait_until(is_taken, 5.0)


# What a client keeps waiting


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "dripping"])
def test_half_a_head_ends_its_connection(narrow: Instance, drips: bool) -> None:
    """However slowly it goes on, a request's head has its time, counted from the connection's beginning."""
    hits = _hits(narrow, "REQUEST_MAX_SECONDS")
    with _dial(narrow) as raw:
        began = time.monotonic()
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        if drips:
            raw.settimeout(0.1)
            while time.monotonic() < began + 10.0:
                try:
                    raw.sendall(b"a")
                    if not raw.recv(1):
                        break
                except TimeoutError:
                    continue
                except ConnectionError:
                    break
        else:
            assert _read_to_end(raw) == b""
        seconds = time.monotonic() - began

    assert _REQUEST_SECONDS * 0.9 < seconds < _REQUEST_SECONDS + 2.0
    assert _hits(narrow, "REQUEST_MAX_SECONDS") > hits


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "dripping"])
@pytest.mark.parametrize("coding", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_half_a_body_is_answered_and_ends_its_connection(narrow: Instance, drips: bool, coding: str) -> None:
    """408, and nothing more is read."""
    with _dial(narrow) as raw:
        began = time.monotonic()
        raw.sendall(
            b"POST /api/loginChat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%s\r\n\r\n" % coding.encode()
        )
        raw.sendall(b"{" if coding.startswith("Content") else b"3e8\r\n{")
        raw.settimeout(0.1)
        answer = b""
        while time.monotonic() < began + 10.0:
            try:
                if drips:
                    raw.sendall(b" ")
                data = raw.recv(65_536)
                answer += data
                if not data:
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        seconds = time.monotonic() - began

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_too_slow" in answer
    # A client that goes on sending is heard out for two seconds, so that it can read why.
    assert seconds < _REQUEST_SECONDS + 4.0


def test_a_connection_that_is_kept_may_rest(narrow: Instance) -> None:
    """Between requests a client may be silent for longer than a request may take."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", narrow.port, timeout=15.0)) as connection:
        connection.connect()
        kept = connection.sock
        for _ in range(2):
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
            time.sleep(_REQUEST_SECONDS * 1.5)
        assert connection.sock is kept


def test_an_answer_that_is_not_taken_is_given_up(narrow: Instance) -> None:
    """A client that asks and asks and reads nothing is cut off; what it was owed is forgotten."""
    page = "/openapi.json"
    length = len(json.dumps(HttpClient(narrow.base, None).get(page)[1]))
    asked = 20_000_000 // length
    with _dial(narrow, receive_buffer_bytes=4_096) as raw:
        raw.settimeout(1.0)
        with contextlib.suppress(TimeoutError, ConnectionError):
            raw.sendall(f"GET {page} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * asked)
        time.sleep(_REQUEST_SECONDS + 1.0)
        raw.settimeout(15.0)
        taken = len(_read_to_end(raw))

    assert taken < asked * length / 2


@pytest.mark.parametrize(
    "head",
    [
        pytest.param("GET /healthz?" + "a" * 5_000 + " HTTP/1.1\r\n", id="line"),
        pytest.param("GET /healthz HTTP/1.1\r\nX-Large: " + "a" * 9_000 + "\r\n", id="field"),
        pytest.param("GET /healthz HTTP/1.1\r\n" + "".join(f"X-{n}: a\r\n" for n in range(150)), id="fields"),
        pytest.param("GET /healthz HTTP/1.1\r\n" + "X-Endless: " + "a" * 2_000_000, id="endless"),
    ],
)
def test_a_head_that_is_too_large_is_refused(narrow: Instance, head: str) -> None:
    """Refused while it arrives, and the connection ends."""
    with _dial(narrow) as raw:
        with contextlib.suppress(ConnectionError):
            raw.sendall(head.encode() + b"\r\n")
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = _read_to_end(raw)

    assert answer == b"" or answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 "))


def test_a_huge_body_is_not_read(narrow: Instance) -> None:
    """It is refused by its announced length; of what comes all the same a few bodies' worth is taken, then the end."""
    hits = _hits(narrow, "BODY_MAX_BYTES")
    sent = 0
    with _dial(narrow) as raw:
        raw.sendall(
            b"POST /api/loginChat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000000000\r\n\r\n"
        )
        assert raw.recv(65_536).startswith(b"HTTP/1.1 413 ")
        with contextlib.suppress(ConnectionError):
            while sent < 100_000_000:
                raw.sendall(b" " * 65_536)
                sent += 65_536

    assert sent < 4 * _BODY_BYTES + 20_000_000  # the kernel's buffers on both sides hold some megabytes
    assert _hits(narrow, "BODY_MAX_BYTES") > hits


def test_an_endless_chunked_body_is_refused_at_the_bound(narrow: Instance) -> None:
    """Without an announced length it is read up to the bound, and no further."""
    with _dial(narrow) as raw:
        raw.sendall(
            b"POST /api/loginChat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        with contextlib.suppress(ConnectionError):
            for _ in range(8):
                raw.sendall(b"10000\r\n" + b" " * 65_536 + b"\r\n")
        answer = _read_to_end(raw)

    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("asks", ["", "Connection: close\r\n"], ids=["keeps", "closes"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["announced", "chunked"])
def test_a_body_that_is_not_read_ends_the_connection_and_its_answer_says_so(
    narrow: Instance, asks: str, is_chunked: bool
) -> None:
    """Else a client's next request on the connection would fail; and a reset could overtake the answer."""
    size = 8 * _BODY_BYTES
    length = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {size}"
    head = f"POST /api/loginChat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{asks}{length}\r\n\r\n"
    body = b" " * size
    with _dial(narrow) as raw:
        raw.sendall(head.encode() + (b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if is_chunked else body))
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))  # which a reset would make raise

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in answer


@pytest.mark.parametrize("size", [1, 100_000, _BODY_BYTES])
def test_a_body_that_nobody_wants_leaves_the_connection_as_it_was(narrow: Instance, size: int) -> None:
    """Up to the bound, and at it: the next request on the connection is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", narrow.port, timeout=15.0)
    with contextlib.closing(connection):
        connection.connect()
        first = connection.sock
        for path, status in (("/nowhere", 404), ("/nowhere", 404), ("/healthz", 405)):
            connection.request("POST", path, b" " * size)
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, answer.headers["Connection"]) == (status, "keep-alive")

        assert connection.sock is first


def test_a_body_a_little_too_large_can_read_why(narrow: Instance) -> None:
    """An ordinary client sends all of it before it reads: it gets its 413, not a reset."""
    status, body = HttpClient(narrow.base, narrow.tokens[1]).send(2, "x" * (3 * _BODY_BYTES // 2))

    assert (status, body["code"]) == (413, "too_large")
