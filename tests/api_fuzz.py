"""`python -m tests.api_fuzz`: call every route of a private instance with made-up requests, as everybody who may exist.

The requests come from the instance's own /openapi.json, valid and invalid ones; half of them get ids that exist and signatures
that are right, so that they come further than validation. Whatever is answered must be what the document says.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import schemathesis
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from schemas.accounts import visitor_signature
from tests.support.client import HttpClient
from tests.support.instance import Instance

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# A healthy instance does not need these two: behind them a fault would hide.
_SUSPICIOUS = {"internal_error", "unavailable"}
_PASSWORD = "fuzz-secret"
_ENDING = ("delete", "Delete", "Transfer", "block", "black", "Mute", "requests/", "/status", "logout", "setPassword")
_EDGES = (0, 2**31 - 1, 2**31, 2**63, 10**16)
_ENVIRONMENT = {"RATE_LIMIT_SENDS": "off", "RATE_LIMIT_AUTH": "off", "SEND_WAIT_SECONDS": "2"}
_ENVIRONMENT |= {"WEBHOOK_ALLOWED_NETWORKS": "127.0.0.1"}
_NO_TARGET = "http://127.0.0.1:9/"  # a webhook may be posted there, but nobody listens


@dataclass(slots=True)
class Caller:
    """Somebody who calls. log_in: gives a token that is valid now; None: has none."""

    role: str
    log_in: Callable[[], dict[str, str]]
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """What exists, to ask for by its id."""

    user_ids: tuple[int, ...]
    row_ids: tuple[int, ...]  # of friends
    group_ids: tuple[int, ...]
    message_ids: tuple[str, ...]
    uuids: tuple[str, ...]
    salt: str = "hongyan"


@dataclass(slots=True)
class Report:
    calls: int = 0
    statuses: dict[str, dict[int, int]] = field(default_factory=dict)
    failures: dict[tuple[str, str, str], str] = field(default_factory=dict)  # operation, role, what: how

    def __str__(self) -> str:
        lines = [f"{self.calls} calls, {len(self.failures)} kinds of failure"]
        lines += [f"- {operation} as {role}: {what}\n{how}" for (operation, role, what), how in self.failures.items()]
        return "\n".join(lines)


def fuzz(
    instance: Instance,
    *,
    examples: int,
    seed: int,
    only: str = "",
    change: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Report:
    """Call each route `examples` times in each role. only: a part of the paths to call. change: what to do to the document."""
    callers, known = populate(instance)
    status, read = HttpClient(instance.base, None).get("/openapi.json")
    assert status == 200
    change(read)
    document = schemathesis.openapi.from_dict(read)
    report = Report()
    operations = []
    for result in document.get_all_operations():
        assert isinstance(result, Ok), result
        operations.append(result.ok())
    turns = [(caller, operation) for caller in callers for operation in operations]
    # What ends friendships, groups and sessions comes last, so that there is something to ask for until then.
    for caller, operation in sorted(turns, key=lambda turn: _rank(turn[1].path)):
        needs_key = operation.path == "/api/admin/tokens"
        if only in operation.path and (caller.role == "server") <= needs_key:
            caller.headers = caller.log_in()
            _fuzz_operation(instance, operation, caller, known, report, examples, seed)
    with instance.redis() as client:
        for key in client.scan_iter("dead:*"):
            report.failures["the drains", "worker", f"{key} holds what could not be decided"] = str(
                client.lrange(key, 0, 0)
            )
    return report


def _rank(path: str) -> int:
    if path.endswith(("groupDeleteOrQuit", "groupTransfer", "/status")):
        return 2
    return int(any(word in path for word in _ENDING))


def _fuzz_operation(
    instance: Instance, operation: Any, caller: Caller, known: Known, report: Report, examples: int, seed: int
) -> None:
    modes = [GenerationMode.POSITIVE]
    takes_any = bool(operation.path_parameters or operation.query or operation.body)
    if takes_any:
        modes.append(GenerationMode.NEGATIVE)
    else:
        examples = min(examples, 3)
    strategy = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=strategy, luck=st.integers(0, 2**32))
    def call(case: Any, luck: int) -> None:
        chance = random.Random(luck)
        headers = dict(caller.headers)
        if chance.random() < 0.7:
            _mend(case, headers, known, chance)
        try:
            response = case.call(base_url=instance.base, headers=headers, timeout=30)
        except (ValueError, UnicodeError):
            return  # what cannot be put into an HTTP request reaches nobody
        report.calls += 1
        label = f"{operation.method.upper()} {operation.path}"
        statuses = report.statuses.setdefault(label, {})
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        for what, how in _faults(case, response):
            report.failures.setdefault((label, caller.role, what), how)

    try:
        call()
    except hypothesis.errors.Unsatisfiable:
        pass  # no invalid request can be made of a route that takes everything


def _faults(case: Any, response: Any) -> Iterator[tuple[str, str]]:
    curl = f"  {case.as_curl_command()}\n  {response.status_code} {response.content[:600]!r}"
    try:
        case.validate_response(response, checks=CHECKS)
    except BaseExceptionGroup as group:
        for error in group.exceptions:
            yield type(error).__name__, f"  {error}\n{curl}"
    except Failure as error:
        yield type(error).__name__, f"  {error}\n{curl}"
    if response.headers.get("Content-Type", "").startswith("application/json"):
        answer = response.json()
        code = answer.get("code") if isinstance(answer, dict) else None
        if code in _SUSPICIOUS:
            yield code, curl


def _mend(case: Any, headers: dict[str, str], known: Known, chance: random.Random) -> None:
    """Put ids that exist, or lie at an edge, in the place of made-up ones, and sign what is to be signed."""
    for part in (case.path_parameters, case.query, case.body):
        if not isinstance(part, dict):
            continue
        for name, value in list(part.items()):
            if chance.random() < 0.1:
                continue
            if name.endswith("uuid"):
                part[name] = chance.choice(known.uuids)
            elif name == "message_id" or (name == "id" and case.path.endswith(("revokeMessage", "forward"))):
                part[name] = chance.choice(known.message_ids)
            elif name == "diydir":
                part[name] = "chatImgs"
            elif name == "userset":
                part[name] = '{"sendCount":"2"}'
            elif name == "userIds":
                part[name] = list(known.row_ids)
            elif name == "to" and isinstance(value, list):
                part[name] = [{"chatType": "single", "sendto_id": chance.choice(known.user_ids)}]
            elif name == "id" or name.lower().endswith(("_id", "userid")):
                part[name] = chance.choice((*_likely(name, case, known), *_EDGES))
            elif name == "url":
                part[name] = _NO_TARGET
            elif name == "positions":
                del part[name]  # beside `since` they are refused
            elif name == "page" and not isinstance(value, bool):
                part[name] = chance.choice((1, 2, 10**9))
    if isinstance(case.body, dict) and "deviceId" in case.body:
        device_id, now_ms = str(uuid.UUID(int=chance.getrandbits(128))), time.time_ns() // 1_000_000
        case.body |= {"deviceId": device_id, "timestamp": now_ms}
        headers["X-Security-Sign"] = visitor_signature(device_id, now_ms, known.salt)


def _likely(name: str, case: Any, known: Known) -> tuple[int, ...]:
    """Return the ids that a parameter probably asks for, often enough that edges are rare."""
    is_group = name == "group_id" or (name == "id" and "group" in case.path.lower())
    if isinstance(case.body, dict) and name in ("sendto_id", "to_id", "peer_id"):
        is_group = case.body.get("chatType") == "group"
    if is_group:
        return known.group_ids * 10
    # Routes about friends ask for the user or for the row.
    return (*known.user_ids, *known.row_ids) * 2 if name == "id" else known.user_ids * 4


# Who calls


def populate(instance: Instance) -> tuple[list[Caller], Known]:
    """Make the callers through the real routes, friends, a group and some messages. Administrators come last: they disable."""
    nobody = HttpClient(instance.base, None)
    tag = uuid.uuid4().hex[:6]  # so that an instance can be populated again
    user, owner, friend, admin = (f"{role}-{tag}" for role in ("user", "owner", "friend", "admin"))
    rows = {name: _register(nobody, name) for name in (user, owner, friend, admin)}
    visitor = _enter_visitor(nobody, str(uuid.uuid4()))
    instance.run_flask("admin", "grant", admin)
    host = HttpClient(instance.base, rows[owner]["token"])
    for name in (user, friend):
        _expect(host.post("/api/chat/autoAddFriendAndAgree", {"friend_id": rows[name]["id"]}))
    listed = _expect(host.get("/api/chat/goodfriendlist/1"))
    friend_rows = [row["id"] for row in _rows_of(listed)]
    _expect(host.post("/api/chat/group/create", {"name": "fuzz", "userIds": friend_rows}))
    sent = [_expect(host.send(rows[user]["id"], f"to know {number}")) for number in range(3)]
    group_id = int(_expect(host.get("/api/chat/grouplist/1"))[0]["id"])
    sent.append(_expect(host.send(group_id, "to the group", "group")))
    _expect(HttpClient(instance.base, rows[admin]["token"]).post("/api/admin/webhooks", {"url": _NO_TARGET}))
    evidence = {"images": ["/public/1.png"], "complaint_chatinfo": [{"id": sent[0]["id"]}]}
    about = {"target_id": rows[user]["id"], "target_type": "single", "reason": "fuzz", **evidence}
    _expect(host.post("/api/chat/complaint/create", about))
    _expect(host.post("/api/chat/askanswer/create", {"type": "single", "ask": "to know", "answer": "known"}))

    def login_of(name: str) -> Callable[[], dict[str, str]]:
        def log_in() -> dict[str, str]:
            if HttpClient(instance.base, rows[name]["token"]).get("/api/chat/conversations")[0] != 200:
                account = {"username": name, "password": _PASSWORD}
                rows[name] = _expect(nobody.post("/api/loginChat", account))
            return {"token": rows[name]["token"]}

        return log_in

    def visit() -> dict[str, str]:
        nonlocal visitor
        if HttpClient(instance.base, visitor["token"]).get("/api/chat/conversations")[0] != 200:
            visitor = _enter_visitor(nobody, str(uuid.uuid4()))
        return {"token": visitor["token"]}

    key = (instance.data_dir / "server_api_key").read_text().strip()
    callers = [
        Caller("nobody", dict),
        Caller("visitor", visit),
        Caller("user", login_of(user)),
        Caller("owner", login_of(owner)),
        Caller("server", lambda: {"Authorization": f"Bearer {key}"}),
        Caller("administrator", login_of(admin)),
    ]
    people = [*rows.values(), visitor]
    user_ids = tuple(int(row["id"]) for row in people)
    return callers, Known(
        user_ids,
        tuple(friend_rows),
        (group_id,),
        tuple(message["id"] for message in sent),
        tuple(row["uuid"] for row in people),
    )


def _register(nobody: HttpClient, name: str) -> dict[str, Any]:
    row: dict[str, Any] = _expect(nobody.post("/api/regChat", {"username": name, "password": _PASSWORD}))
    return row


def _enter_visitor(nobody: HttpClient, device_id: str) -> dict[str, Any]:
    now_ms = time.time_ns() // 1_000_000
    headers = {"X-Security-Sign": visitor_signature(device_id, now_ms, "hongyan")}
    body = {"deviceId": device_id, "timestamp": now_ms}
    row: dict[str, Any] = _expect(nobody.call("POST", "/api/visitorRegister", body, headers))
    return row


def _expect(answer: tuple[int, Any]) -> Any:
    status, body = answer
    assert status == 200, body
    return body["data"]


def _rows_of(listed: Any) -> list[dict[str, Any]]:
    """Return the friends' rows of a list that is grouped by initials."""
    if isinstance(listed, dict):
        return [row for value in listed.values() for row in _rows_of(value)]
    if isinstance(listed, list):
        found: list[dict[str, Any]] = []
        for each in listed:
            found += [each] if isinstance(each, dict) and "friend_id" in each else _rows_of(each)
        return found
    return []


def start(**environment: str) -> Instance:
    """Give an instance, not started yet, that refuses nothing for being asked often."""
    return Instance({**_ENVIRONMENT, **environment})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=32, help="calls per route and role (32: about 10,000 calls)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--database", default="", help="a PostgreSQL URL; SQLite without")
    parser.add_argument("--only", default="", help="a part of the paths to call")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with start(DATABASE_URL=given.database) as instance:
        started = time.monotonic()
        report = fuzz(instance, examples=given.examples, seed=given.seed, only=given.only)
        for label, statuses in sorted(report.statuses.items()):
            print(f"{label:50} {dict(sorted(statuses.items()))}")
        print(f"{report}\nin {time.monotonic() - started:.0f} s, seed {given.seed}")
        if report.failures:
            print(instance.log_tails()[-3_000:])
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
