"""Webhooks on real processes: what targets are told, in which order, and that nothing is lost whoever dies or hangs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import runpy
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from models import shards, webhooks
from models.webhooks import Webhook
from tasks.posting import new_secret
from tests.e2e.test_metrics import _value
from tests.support.client import HttpClient
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users, befriend, make_group, writing
from tests.support.webhook_target import WebhookTarget, text_of

_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_SECONDS = 1.0

verify = runpy.run_path(str(_ROOT / "examples" / "verify_webhook.py"))["verify"]


class Hooks:
    """Webhooks of an instance, as an administrator, and friends who write to each other."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.administrator, self.sender, self.recipient = add_users(instance, 3)
        instance.run_flask("admin", "grant", f"added{self.administrator}")
        befriend(instance, self.sender, self.recipient)

    def call(self, path: str = "", **params: Any) -> tuple[int, Any]:
        client = HttpClient(self.instance.base, self.instance.tokens[self.administrator])
        return client.post(f"/api/admin/webhooks{path}", params)

    def do(self, path: str = "", **params: Any) -> Any:
        status, body = self.call(path, **params)
        assert status == 200, body
        return body["data"]

    def get(self, path: str = "") -> Any:
        client = HttpClient(self.instance.base, self.instance.tokens[self.administrator])
        status, body = client.get(f"/api/admin/webhooks{path}")
        assert status == 200, body
        return body["data"]

    def state(self, webhook_id: int) -> dict[str, Any]:
        (state,) = [hook for hook in self.get()["webhooks"] if hook["id"] == webhook_id]
        return dict(state)

    def send(self, text: str, to: int | None = None, **options: Any) -> dict[str, Any]:
        client = HttpClient(self.instance.base, self.instance.tokens[self.sender])
        status, body = client.send(to or self.recipient, text, **options)
        assert status in (200, 202), body
        return dict(body["data"])

    def send_numbered(self, name: str, count: int) -> list[str]:
        texts = [f"{name} {number}" for number in range(count)]
        for text in texts:
            self.send(text)
        return texts


@pytest.fixture(scope="module")
def here() -> Iterator[Instance]:
    """An instance whose webhooks may be posted to loopback."""
    environment = {
        "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
        "WEBHOOK_TIMEOUT_SECONDS": str(_TIMEOUT_SECONDS),
        "WORKER_PROCESSES": "1",
    }
    with Instance(environment) as instance:
        yield instance


@pytest.fixture(scope="module")
def hooks(here: Instance) -> Hooks:
    return Hooks(here)


@pytest.fixture
def target(hooks: Hooks) -> Iterator[WebhookTarget]:
    """A target that answers 200 until it is told otherwise. Whatever webhooks a test has made are removed behind it."""
    with WebhookTarget() as target:
        yield target
        for hook in hooks.get()["webhooks"]:
            hooks.do(f"/{hook['id']}/delete")


# What is told


def test_a_stored_message_is_posted_and_its_signature_is_right(hooks: Hooks, target: WebhookTarget) -> None:
    """As docs/webhooks.md says, by code that shares nothing with what signs; whoever changes a byte is found out."""
    hook = hooks.do(url=target.url)
    message = hooks.send("to be told")

    target.wait_for("to be told")

    (posted,) = target.posted
    assert posted.path == "/hook?from=hongyan"
    assert posted.headers["content-type"] == "application/json"
    assert verify(hook["secret"], posted.headers, posted.body)
    key = base64.b64decode(hook["secret"].removeprefix("whsec_"))
    signed = f"{posted.headers['webhook-id']}.{posted.headers['webhook-timestamp']}.".encode() + posted.body
    digest = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert posted.headers["webhook-signature"] == f"v1,{digest}"
    assert 24 <= len(key) <= 64
    assert not verify(new_secret(), posted.headers, posted.body)
    assert not verify(hook["secret"], posted.headers, posted.body.replace(b"told", b"TOLD"))
    assert not verify(hook["secret"], {**posted.headers, "webhook-id": "x"}, posted.body)
    late = {**posted.headers, "webhook-timestamp": str(int(time.time()) - 400)}
    assert not verify(hook["secret"], late, posted.body)
    for name in ("webhook-timestamp", "webhook-signature", "webhook-id"):
        assert not verify(hook["secret"], {**posted.headers, name: "é"}, posted.body)
        assert not verify(hook["secret"], {n: v for n, v in posted.headers.items() if n != name}, posted.body)

    (event,) = posted.events
    assert json.loads(posted.body)["webhook_id"] == hook["id"]
    assert (event["id"], event["type"]) == (message["id"], "message.stored")
    assert posted.headers["webhook-id"] == event["id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])
    assert event["data"]["message"] == message
    state = hooks.state(hook["id"])
    assert (state["lag"], state["delivered"], state["failures"], state["last_error"]) == (0, 1, 0, None)
    assert "secret" not in state


def test_a_recall_is_told_and_what_it_removed_is_not(hooks: Hooks, target: WebhookTarget) -> None:
    """A target that was away while a message was recalled never sees what it said."""
    hook = hooks.do(url=target.url)
    hooks.do(f"/{hook['id']}/pause", paused=1)
    message = hooks.send("never to be told")
    client = HttpClient(hooks.instance.base, hooks.instance.tokens[hooks.sender])
    recall = {"to_id": hooks.recipient, "id": message["id"], "chatType": "single"}
    assert client.post("/api/chat/revokeMessage", recall)[0] == 200

    hooks.do(f"/{hook['id']}/pause", paused=0)

    assert wait_until(lambda: len(target.taken) == 2, 10.0)
    stored, recalled = target.taken
    assert (stored["type"], stored["id"], stored["data"]["message"]["isremove"]) == ("message.stored", message["id"], 1)
    assert recalled["type"] == "message.recalled"
    told = recalled["data"]["message"]
    assert (told["id"], told["seq"], told["actionType"]) == (message["id"], message["seq"], "revoke")
    assert recalled["data"]["recalled_by"] == hooks.sender
    assert all(b"never to be told" not in posted.body for posted in target.posted)


def test_a_webhook_gets_what_it_asked_for(hooks: Hooks, target: WebhookTarget) -> None:
    """Refusals, and those of groups only; nothing else makes a POST, yet it does not count as lying behind."""
    group_id = make_group(hooks.instance, hooks.recipient, [hooks.recipient])
    hook = hooks.do(url=target.url, events=["message.refused"], chatType="group")
    hooks.send("stored")
    client = HttpClient(hooks.instance.base, hooks.instance.tokens[hooks.sender])
    assert client.send(hooks.sender, "to myself")[0] == 400
    assert client.send(group_id, "I am no member", "group")[0] == 400

    assert wait_until(lambda: hooks.state(hook["id"])["lag"] == 0 and bool(target.taken), 10.0)

    (event,) = target.taken
    assert event["data"] == {
        "code": "not_member",
        "chatType": "group",
        "from_id": hooks.sender,
        "to_id": group_id,
    }
    assert b"I am no member" not in target.posted[0].body


def test_what_friends_call_each_other_is_not_told(hooks: Hooks, target: WebhookTarget) -> None:
    """Targets see the names that everybody sees (C19)."""
    one, other = add_users(hooks.instance, 2)
    befriend(hooks.instance, one, other, remark="my secret name", their_remark="his secret name")
    hooks.do(url=target.url)
    status, body = HttpClient(hooks.instance.base, hooks.instance.tokens[one]).send(other, "hello")
    assert (status, body["data"]["to_name"]) == (200, "my secret name")

    assert wait_until(lambda: bool(target.taken), 10.0)

    message = target.taken[0]["data"]["message"]
    assert (message["from_name"], message["to_name"]) == (f"用户{one}", f"用户{other}")
    assert b"secret name" not in target.posted[0].body


# Nothing is lost, and nothing is out of order


def test_whatever_a_target_does_everything_comes_in_order(hooks: Hooks, target: WebhookTarget) -> None:
    """It answers 500, then too late, is gone and comes back: each event is taken in its turn, with the id it always had."""
    hook = hooks.do(url=target.url, max_events=2)
    answers = [500, 0]

    def answer(_: Any) -> int:
        status = answers.pop(0) if answers else 200
        if status == 0:
            time.sleep(_TIMEOUT_SECONDS * 1.5)
        return status

    target.answer = answer
    first = hooks.send_numbered("trouble", 3)
    assert wait_until(lambda: not answers, 15.0)
    target.close()
    later = hooks.send_numbered("while it was away", 3)
    assert wait_until(lambda: "refused" in (hooks.state(hook["id"])["last_error"] or ""), 15.0)
    assert hooks.state(hook["id"])["lag"] >= 3

    target.open()

    target.wait_for(later[-1], 20.0)
    assert target.texts == [*first, *later]
    in_order = [text_of(event) for posted in target.posted if posted.status == 200 for event in posted.events]
    assert list(dict.fromkeys(in_order)) == [*first, *later]
    tries = [posted.events[0]["id"] for posted in target.posted]
    assert len(set(tries[:3])) == 1, "a failing event holds back what follows"
    assert {len(posted.events) for posted in target.posted[1:3]} == {1}
    assert wait_until(lambda: hooks.state(hook["id"])["failures"] == 0, 5.0)
    attempts = hooks.get(f"/{hook['id']}/attempts")["attempts"]
    assert [attempt["attempt"] for attempt in attempts] == list(range(len(attempts), 0, -1))
    errors = [attempt["error"].partition(":")[0] for attempt in reversed(attempts) if attempt["error"]]
    assert errors[:2] == ["status", "timeout"]
    assert "connection" in errors[2:]
    assert {attempt["status"] for attempt in attempts} == {500, None, 200}


def test_a_killed_worker_loses_nothing(hooks: Hooks, target: WebhookTarget) -> None:
    """Killed in the middle of a POST that the target then does not take, its successor goes on with just that one."""
    is_in_the_middle, is_killed = threading.Event(), threading.Event()

    def answer(_: Any) -> int:
        if len(target.taken) < 5 or is_killed.is_set():
            return 200
        is_in_the_middle.set()
        is_killed.wait(10.0)
        return 500

    target.answer = answer
    hooks.do(url=target.url, max_events=1)
    texts = hooks.send_numbered("killed", 12)
    assert is_in_the_middle.wait(20.0)
    hooks.instance.kill("housekeeping")
    is_killed.set()

    target.wait_for(texts[-1], 30.0)

    assert target.texts == texts
    assert [text_of(event) for posted in target.posted for event in posted.events] == [*texts[:6], *texts[5:]]


def test_a_target_that_hangs_delays_nobody_else(hooks: Hooks, target: WebhookTarget) -> None:
    """While one takes each POST and never answers, the other has its events within about a second."""

    def hang(_: Any) -> int:
        time.sleep(_TIMEOUT_SECONDS * 2)
        return 200

    with WebhookTarget(hang) as hanging:
        stuck = hooks.do(url=hanging.url)
        hooks.do(url=target.url)
        for number in range(4):
            sent_at = time.monotonic()
            hooks.send(f"for both {number}")
            target.wait_for(f"for both {number}", 5.0)
            assert time.monotonic() - sent_at < 2.5  # a bell a second, and a machine that does other things too

        assert wait_until(lambda: hooks.state(stuck["id"])["failures"] >= 1, 5.0)
        assert hooks.state(stuck["id"])["lag"] == 4
        hooks.do(f"/{stuck['id']}/delete")


def test_everything_is_told_again_from_where_one_says(hooks: Hooks, target: WebhookTarget) -> None:
    """From a time, from positions, or nothing more of what lies behind: ids stay what they were."""
    hook = hooks.do(url=target.url)
    path = f"/{hook['id']}/replay"
    start = hook["positions"]
    hooks.send("before")
    target.wait_for("before")
    time.sleep(0.01)
    since_ms = time.time_ns() // 1_000_000
    time.sleep(0.01)
    hooks.send_numbered("after", 2)
    target.wait_for("after 1")
    before, *after = [event["id"] for event in target.taken]

    target.posted.clear()
    assert hooks.do(path, since=since_ms)["lag"] == 2
    target.wait_for("after 1")
    assert [event["id"] for event in target.taken] == after

    target.posted.clear()
    hooks.do(path, positions=start or {"0": 0})
    target.wait_for("after 1")
    assert [event["id"] for event in target.taken] == [before, *after]

    hooks.do(f"/{hook['id']}/pause", paused=1)
    hooks.send("passed over")
    assert hooks.do(path, since=int(time.time() * 1000) + 1_000)["lag"] == 0
    hooks.do(f"/{hook['id']}/pause", paused=0)
    hooks.send("and on")
    target.wait_for("and on")
    assert "passed over" not in target.texts
    wrongs: list[dict[str, Any]] = [
        {},
        {"since": 1, "positions": {"0": 0}},
        {"positions": {"0": 10**9}},
        {"positions": {"x": 1}},
        {"positions": {"8": 0}},  # no shard of ours
    ]
    for wrong in wrongs:
        assert hooks.call(path, **wrong)[0] == 422


def test_a_paused_webhook_waits_and_goes_on(hooks: Hooks, target: WebhookTarget) -> None:
    """Whether an administrator has paused it or the target has answered 410, nothing that came meanwhile is missing."""
    hook = hooks.do(url=target.url)
    target.answer = lambda _: 410
    hooks.send("unwanted")
    assert wait_until(lambda: hooks.state(hook["id"])["paused"] == "gone", 10.0)
    target.answer = lambda _: 200
    hooks.do(f"/{hook['id']}/pause", paused=1)
    hooks.send("paused")
    assert _value(hooks.instance, "hongyan_webhook_paused", webhook=str(hook["id"])) == 1
    assert _value(hooks.instance, "hongyan_webhook_lag", webhook=str(hook["id"])) == 2
    time.sleep(1.5)  # a bell has rung by now
    assert target.texts == []

    assert hooks.do(f"/{hook['id']}/pause", paused=0)["paused"] is None

    target.wait_for("paused")
    assert target.texts == ["unwanted", "paused"]
    assert wait_until(lambda: _value(hooks.instance, "hongyan_webhook_lag", webhook=str(hook["id"])) == 0, 5.0)
    assert _value(hooks.instance, "hongyan_webhook_events_total", webhook=str(hook["id"])) == 2
    assert _value(hooks.instance, "hongyan_webhook_failures_total", webhook=str(hook["id"])) == 1


# Secrets, targets, rights


def test_the_old_secret_signs_beside_the_new_one_for_a_while(hooks: Hooks, target: WebhookTarget) -> None:
    hook = hooks.do(url=target.url)
    rotated = hooks.do(f"/{hook['id']}/rotateSecret")
    tested = hooks.do(f"/{hook['id']}/test")
    assert (tested["delivered"], tested["status"], tested["error"]) == (True, 200, None)
    at_once = hooks.do(f"/{hook['id']}/rotateSecret", keep_hours=0)
    hooks.do(f"/{hook['id']}/test")

    both, newest = target.posted

    assert both.events[0]["type"] == "webhook.test"
    assert verify(hook["secret"], both.headers, both.body)
    assert verify(rotated["secret"], both.headers, both.body)
    assert rotated["old_secret_until"] > time.time() * 1000 + 23 * 3_600_000
    assert [verify(secret, newest.headers, newest.body) for secret in (rotated["secret"], at_once["secret"])] == [
        False,
        True,
    ]
    assert hooks.state(hook["id"])["delivered"] == 0, "a test counts as an attempt only"


def test_a_redirect_is_followed_nowhere(hooks: Hooks, target: WebhookTarget) -> None:
    """Not even to an address that may be posted to."""
    with WebhookTarget(lambda _: 307, location=target.url) as redirecting:
        hook = hooks.do(url=redirecting.url)
        tested = hooks.do(f"/{hook['id']}/test")

    assert (tested["delivered"], tested["status"], tested["error"]) == (False, 307, "redirect: 307")
    assert target.posted == []


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("http://127.0.0.1/", "webhook_target_refused"),
        ("http://localhost:8000/", "webhook_target_refused"),
        ("https://[::1]/", "webhook_target_refused"),
        ("http://[::ffff:127.0.0.1]/", "webhook_target_refused"),
        ("http://0x7f.1/", "webhook_target_refused"),
        ("http://2130706433/", "webhook_target_refused"),
        ("http://169.254.169.254/latest/meta-data", "webhook_target_refused"),
        ("http://no-such-host.invalid/", "webhook_host_unknown"),
        ("http://a..b/", "webhook_host_unknown"),
        ("ftp://example.org/", "invalid"),
        ("http://user:secret@example.org/", "invalid"),
        ("http://example.org:0/", "invalid"),
        ("http://example.org:99999/", "invalid"),
        ("http://example.org/#here", "invalid"),
        ("http://例子.测试/", "invalid"),
        ("http://example.org/ x", "invalid"),
    ],
)
def test_a_target_inside_is_refused(outside: Hooks, url: str, code: str) -> None:
    """However its address is spelled, where it is not allowed; nothing is made."""
    status, body = outside.call(url=url)

    assert (status, body["code"]) == (422 if code == "invalid" else 400, code)
    assert outside.get()["webhooks"] == []


def test_a_target_that_has_moved_inside_is_refused_at_delivery(outside: Hooks) -> None:
    """Its name was checked when the webhook was made, and resolves to loopback since."""
    with WebhookTarget() as target:
        with writing(outside.instance) as connection:
            values: dict[str, Any] = {"url": target.url.replace("127.0.0.1", "localhost"), "events": "message.stored"}
            values |= {"chat_type": "all", "max_events": 1, "secret": new_secret()}
            webhook_id = webhooks.create(connection, values, 0, 10)
        outside.send("not to be told")

        try:
            assert wait_until(lambda: outside.state(webhook_id or 0)["last_error"] == "webhook_target_refused", 10.0)
            assert outside.do(f"/{webhook_id}/test")["error"] == "webhook_target_refused"
            assert target.posted == []
            assert outside.state(webhook_id or 0)["lag"] >= 1
        finally:
            outside.do(f"/{webhook_id}/delete")


@pytest.fixture(scope="module")
def outside(instance: Instance) -> Hooks:
    """Webhooks of an instance that allows no private address."""
    return Hooks(instance)


def test_the_routes_exist_for_administrators_only(hooks: Hooks, target: WebhookTarget) -> None:
    hook = hooks.do(url=target.url)
    instance = hooks.instance
    for token in (None, instance.tokens[hooks.sender], "no.token.ofours"):
        client = HttpClient(instance.base, token)
        answers = [client.get("/api/admin/webhooks"), client.get(f"/api/admin/webhooks/{hook['id']}/attempts")]
        answers.append(client.post("/api/admin/webhooks", {"url": target.url}))
        for path in ("", "/delete", "/pause", "/rotateSecret", "/test", "/replay"):
            answers.append(client.post(f"/api/admin/webhooks/{hook['id']}{path}", {"paused": 1, "since": 0}))
        assert {(status, body["code"]) for status, body in answers} == {(404, "not_found")}
    for webhook_id in (hook["id"] + 1_000, 2**31, 10**16):
        for path in ("", "/delete", "/pause", "/rotateSecret", "/test", "/replay"):
            answer = hooks.call(f"/{webhook_id}{path}", paused=1, since=0)
            assert (answer[0], answer[1]["code"]) == (404, "not_found")
    assert hooks.state(hook["id"])["paused"] is None


def test_a_webhook_is_changed_and_what_is_not_named_stays(hooks: Hooks, target: WebhookTarget) -> None:
    hook = hooks.do(url=target.url, max_events=3)

    changed = hooks.do(f"/{hook['id']}", events='["message.recalled"]', chatType="single")

    named = {"events": ["message.recalled"], "chatType": "single"}
    assert changed == {name: value for name, value in hook.items() if name != "secret"} | named
    assert hooks.call(f"/{hook['id']}", url="http://10.0.0.1/")[1]["code"] == "webhook_target_refused"
    wrongs: list[dict[str, Any]] = [
        {"events": []},
        {"events": ["message"]},
        {"events": {}},
        {"chatType": "x"},
        {"max_events": 101},
    ]
    for wrong in wrongs:
        assert hooks.call(f"/{hook['id']}", **wrong)[0] == 422
    assert hooks.state(hook["id"]) == changed


def test_there_are_so_many_webhooks_and_no_more(hooks: Hooks, target: WebhookTarget) -> None:
    made = [hooks.do(url=target.url)["id"] for _ in range(20)]

    assert hooks.call(url=target.url)[1]["code"] == "too_many_webhooks"
    assert len(set(made)) == 20


def test_no_log_shows_a_secret_or_what_messages_say(hooks: Hooks, target: WebhookTarget) -> None:
    """Of deliveries and failures, and of what administrators do."""
    hook = hooks.do(url=target.url.replace("/hook", "/token-in-a-path"))
    target.answer = lambda _: 500
    hooks.send("geheim")
    assert wait_until(lambda: hooks.state(hook["id"])["failures"] > 0, 10.0)
    rotated = hooks.do(f"/{hook['id']}/rotateSecret")

    logs = "".join(path.read_text(errors="replace") for path in hooks.instance.log_dir.glob("*.log"))

    assert "webhook_secret_rotated" in logs
    assert "webhook_failing" in logs
    for secret in (hook["secret"], rotated["secret"], "geheim", "token-in-a-path"):
        assert secret not in logs


# The page


def test_the_page_shows_the_example_as_it_is_tested() -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```", (_ROOT / "docs" / "webhooks.md").read_text(), re.MULTILINE | re.DOTALL
    )

    assert (_ROOT / "examples" / "verify_webhook.py").read_text() in blocks


def test_a_webhook_that_fails_for_days_is_paused_and_seen(hooks: Hooks, target: WebhookTarget) -> None:
    """And logged as an error; resumed, it goes on where it stopped."""
    hook = hooks.do(url=target.url)
    target.answer = lambda _: 503
    hooks.send("for days")
    assert wait_until(lambda: hooks.state(hook["id"])["failures"] > 0, 10.0)
    with writing(hooks.instance) as connection:
        connection.execute(update(Webhook).values(failing_since_ms=1, next_try_at_ms=0))

    assert wait_until(lambda: hooks.state(hook["id"])["paused"] == "failing", 10.0)

    log = (hooks.instance.log_dir / "worker-housekeeping.log").read_text()
    assert re.search(r'"event": ?"webhook_paused".*"level": ?"error"|"level": ?"error".*"webhook_paused"', log)
    target.answer = lambda _: 200
    hooks.do(f"/{hook['id']}/pause", paused=0)
    target.wait_for("for days")


def test_positions_are_found_by_time(hooks: Hooks) -> None:
    """At the beginning of time nothing was decided, and after now nothing yet."""
    with writing(hooks.instance) as connection:
        last = shards.load_last_positions(connection)
        assert any(last.values())
        assert webhooks.find_positions(connection, last, 0) == dict.fromkeys(last, 0)
        assert webhooks.find_positions(connection, last, 2**62) == last
