"""Limits: how often one may send and log in, what guessing leads to, and whose address counts (contract sections 3 and 8)."""

from __future__ import annotations

import http.client
import json
import secrets
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from models.store import counters
from models.store.connection import connect, run
from tests.support.client import ChatSocket, HttpClient
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users, befriend

_SENDS = 20
_PASSWORD = "secret-1"
_LOCKED = (429, "login_locked")
_WRONG = (400, "wrong_password")


@pytest.fixture(scope="module")
def strict() -> Iterator[Instance]:
    """An instance with small rates behind a proxy on this machine, so that a header says whose request it is."""
    rates = {"RATE_LIMIT_SENDS": f"{_SENDS} per hour", "RATE_LIMIT_AUTH": "8 per hour"}
    with Instance({**rates, "TRUSTED_PROXIES": "127.0.0.0/8"}) as instance:
        yield instance


@pytest.fixture(scope="module")
def guarded() -> Iterator[Instance]:
    """An instance without rates: the lock holds all the same."""
    with Instance({"RATE_LIMIT_AUTH": "off", "TRUSTED_PROXIES": "127.0.0.1"}) as instance:
        yield instance


def _post(
    instance: Instance, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> tuple[int, dict[str, Any], Mapping[str, str]]:
    """Return status, body and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=30.0)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, json.loads(response.read()), dict(response.headers)
    finally:
        connection.close()


def _log_in(instance: Instance, username: str, password: str, address: str) -> tuple[int, str]:
    """Log in from an address; return status and code, which is empty where it worked."""
    body = {"username": username, "password": password}
    status, answer, headers = _post(instance, "/api/loginChat", body, {"X-Forwarded-For": address})
    assert ("Retry-After" in headers) is (status in (429, 503))
    return status, answer.get("code", "")


def _register(instance: Instance, address: str = "192.0.2.200") -> tuple[str, str]:
    """Register and return name and token."""
    name = f"u{secrets.token_hex(6)}"
    body = {"username": name, "password": _PASSWORD}
    status, answer, _ = _post(instance, "/api/regChat", body, {"X-Forwarded-For": address})
    assert status == 200, answer
    return name, answer["data"]["token"]


def _address() -> str:
    return f"10.{secrets.randbelow(256)}.{secrets.randbelow(256)}.{secrets.randbelow(256)}"


# Sends


def test_sends_beyond_the_rate_are_refused(strict: Instance) -> None:
    """The rate is a user's, whichever web process he meets; what is too much is told when to come again (C22)."""
    sender, other, recipient = add_users(strict, 3)
    befriend(strict, sender, recipient)
    befriend(strict, other, recipient)

    def send(number: int) -> int:
        return HttpClient(strict.base, strict.tokens[sender], timeout=60.0).send(recipient, str(number))[0]

    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(pool.map(send, range(_SENDS + 10)))

    assert statuses == {200: _SENDS, 429: 10}
    message = {"sendto_id": recipient, "chatType": "single", "type": "text", "data": "{}"}
    status, body, headers = _post(strict, "/api/chat/socket/sendmessage", message, {"token": strict.tokens[sender]})
    assert (status, body["code"]) == (429, "rate_limited")
    assert 3_000 < int(headers["Retry-After"]) <= 3_600
    assert HttpClient(strict.base, strict.tokens[other]).send(recipient, "hello")[0] == 200


def test_what_cannot_be_accepted_counts_too(strict: Instance) -> None:
    """Malformed sends, and those that do not wait, count like others; who sends too much is told that first."""
    sender, recipient = add_users(strict, 2)
    befriend(strict, sender, recipient)
    message = {"sendto_id": recipient, "chatType": "single", "type": "text", "data": "{}"}

    def send(number: int) -> tuple[int, str | None]:
        body = message | {"type": "nothing"} if number % 2 else message
        headers = (
            {"token": strict.tokens[sender], "Prefer": "respond-async"}
            if number % 4 < 2
            else {"token": strict.tokens[sender]}
        )
        status, answer, _ = _post(strict, "/api/chat/socket/sendmessage", body, headers)
        return status, answer.get("code")

    found = [send(number) for number in range(_SENDS + 4)]

    assert [status for status, _ in found[:4]] == [202, 422, 200, 422]
    assert {code for _, code in found[1:_SENDS:2]} == {"invalid"}
    assert found[_SENDS:] == [(429, "rate_limited")] * 4


def test_recalls_count_as_sends(strict: Instance) -> None:
    """Each leaves a row, also where there is nothing to recall; what is too much leaves none, and sends are refused too."""
    sender, recipient = add_users(strict, 2)
    befriend(strict, sender, recipient)
    token = {"token": strict.tokens[sender]}
    target = {
        "to_id": recipient,
        "to_name": "x",
        "to_avatar": "x",
        "chatType": "single",
        "create_time": 1_000_000_000_000,
    }

    def recall() -> tuple[int, str, Mapping[str, str]]:
        body = {**target, "id": str(uuid.uuid4())}
        status, answer, headers = _post(strict, "/api/chat/revokeMessage", body, token)
        return status, answer["code"], headers

    codes = [recall()[:2] for _ in range(_SENDS)]
    status, code, headers = recall()

    assert codes == [(400, "message_not_found")] * _SENDS
    assert (status, code) == (429, "rate_limited")
    assert 3_000 < int(headers["Retry-After"]) <= 3_600
    assert HttpClient(strict.base, strict.tokens[sender]).send(recipient, "x")[1]["code"] == "rate_limited"


def test_frames_that_send_count_as_sends(strict: Instance) -> None:
    """Over a socket a send too many is refused by its result, and what passed is stored in order."""
    sender, recipient = add_users(strict, 2)
    befriend(strict, sender, recipient)
    with ChatSocket(strict.base, strict.tokens[sender], 2) as socket:
        socket.wait_for(lambda frame: frame.data.get("type") == "hello")
        for number in range(_SENDS + 3):
            text = json.dumps({"data": str(number), "dataType": False, "otherData": None})
            message = {
                "sendto_id": recipient,
                "chatType": "single",
                "type": "text",
                "data": text,
                "clientMsgId": uuid.uuid4().hex,
            }
            socket.send_json({"type": "send", "ref": number, "message": message})

        def results() -> list[dict[str, Any]]:
            return [frame.data for frame in list(socket.frames) if frame.data.get("type") == "sendResult"]

        assert wait_until(lambda: len(results()) == _SENDS + 3, 20.0)
        seqs = {result["ref"]: result["data"]["seq"] for result in results() if result["ok"]}
        assert seqs == {number: number + 1 for number in range(_SENDS)}
        refused = [result for result in results() if not result["ok"]]
        assert [(result["ref"], result["code"]) for result in refused] == [
            (_SENDS + extra, "rate_limited") for extra in range(3)
        ]
        assert socket.is_open
    assert HttpClient(strict.base, strict.tokens[sender]).send(recipient, "one more")[1]["code"] == "rate_limited"


# Logins and registrations


def test_logins_and_registrations_are_counted_by_address(strict: Instance) -> None:
    """Whatever they are: eight an hour here, for each address apart."""
    address, other = _address(), _address()
    name, _ = _register(strict, address)
    for _ in range(5):
        assert _log_in(strict, name, _PASSWORD, address)[0] == 200
    for path in ("/api/visitorRegister", "/api/visitorloginChat"):
        assert _post(strict, path, {}, {"X-Forwarded-For": address})[1]["code"] == "signature_missing"

    assert _log_in(strict, name, _PASSWORD, address) == (429, "rate_limited")
    for path in ("/api/regChat", "/api/visitorRegister", "/api/visitorregChat", "/api/visitorloginChat"):
        status, body, headers = _post(strict, path, {}, {"X-Forwarded-For": address})
        assert (status, body["code"]) == (429, "rate_limited")
        assert int(headers["Retry-After"]) > 3_000
    assert _log_in(strict, name, _PASSWORD, other)[0] == 200


def test_a_client_cannot_choose_his_address(strict: Instance) -> None:
    """What stands before the address that the proxy has added is his own invention."""
    address = _address()
    codes = [_log_in(strict, "nobody-at-all", "secret-1", f"{_address()}, {address}")[1] for _ in range(9)]

    assert codes == ["wrong_password"] * 8 + ["rate_limited"]


# Guessing


def test_guessing_locks_the_account_for_the_address(guarded: Instance) -> None:
    """After ten failures even the right password is refused there, and nowhere else; who is in stays in (E16)."""
    name, token = _register(guarded)
    address = _address()

    assert [_log_in(guarded, name, "secret-2", address) for _ in range(10)] == [_WRONG] * 10

    assert _log_in(guarded, name, "secret-2", address) == _LOCKED
    assert _log_in(guarded, name, _PASSWORD, address) == _LOCKED
    assert HttpClient(guarded.base, token).get("/api/chat/conversations")[0] == 200
    assert _log_in(guarded, name, _PASSWORD, _address())[0] == 200
    assert _log_in(guarded, _register(guarded)[0], _PASSWORD, address)[0] == 200


def test_guessing_names_locks_them_too(guarded: Instance) -> None:
    """A lock does not tell whether the account exists."""
    address = _address()

    outcomes = [_log_in(guarded, "nobody-at-all", "secret-2", address) for _ in range(11)]

    assert outcomes == [_WRONG] * 10 + [_LOCKED]


def test_guesses_in_parallel_lock_as_well(guarded: Instance) -> None:
    """Two web processes may be at one guess each when the tenth failure is counted: no more than that pass."""
    name, _ = _register(guarded)
    address = _address()

    with ThreadPoolExecutor(15) as pool:
        outcomes = Counter(pool.map(lambda _: _log_in(guarded, name, "secret-2", address), range(30)))

    assert set(outcomes) == {_WRONG, _LOCKED}
    assert 10 <= outcomes[_WRONG] <= 11


def test_parallel_logins_with_the_right_password_lock_nobody(guarded: Instance) -> None:
    """Only failures count."""
    name, _ = _register(guarded)
    address = _address()

    with ThreadPoolExecutor(12) as pool:
        statuses = set(pool.map(lambda _: _log_in(guarded, name, _PASSWORD, address)[0], range(12)))

    assert statuses == {200}


def test_a_success_forgives_the_failures_before(guarded: Instance) -> None:
    """Who remembers it at the ninth try may err nine times again."""
    name, _ = _register(guarded)
    address = _address()
    for _ in range(2):
        assert [_log_in(guarded, name, "secret-2", address) for _ in range(9)] == [_WRONG] * 9
        assert _log_in(guarded, name, _PASSWORD, address)[0] == 200


def test_a_hundred_failures_from_everywhere_only_delay(guarded: Instance) -> None:
    """Otherwise anybody could lock anybody out."""
    name, _ = _register(guarded)
    client = connect(f"unix://{guarded.redis_socket}?db=0")
    run(client, [counters.fail_command(f"account {name}", window_ms=900_000, most=100) for _ in range(100)])
    client.close()

    started = time.monotonic()
    assert _log_in(guarded, name, _PASSWORD, _address())[0] == 200
    assert time.monotonic() - started >= 1.0


def test_a_password_cannot_be_guessed_from_inside_either(guarded: Instance) -> None:
    """The old password of a change is guessed ten times at most, and that locks no login."""
    name, token = _register(guarded)
    body = {"oldpassword": "guess", "newpassword": "secret-2", "checknewpassword": "secret-2"}

    codes = [HttpClient(guarded.base, token).post("/api/chat/setPassword", body)[1]["code"] for _ in range(11)]

    assert codes == ["old_password_wrong"] * 10 + ["login_locked"]
    assert _log_in(guarded, name, _PASSWORD, "127.0.0.1")[0] == 200


def test_nobody_logs_in_uncounted(strict: Instance) -> None:
    """While Redis does not answer, rates let pass, with a line in the log, and the lock refuses."""
    name, _ = _register(strict, _address())
    strict.kill("redis", signal.SIGSTOP)
    try:
        assert _log_in(strict, name, _PASSWORD, _address()) == (503, "unavailable")
    finally:
        strict.kill("redis", signal.SIGCONT)

    assert "limit_not_counted" in (strict.log_dir / "web.log").read_text()
    assert wait_until(lambda: _log_in(strict, name, _PASSWORD, _address())[0] == 200, 20.0, 1.0)
