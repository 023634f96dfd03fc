"""Administrators over HTTP: who is one, what a status change does at once, and the icons that every notice names."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import InstanceFactory
from tests.support.acting import open_socket, show_marker, sign
from tests.support.client import HttpClient
from tests.support.instance import Instance, wait_until
from tests.support.relations import add_users, befriend, make_group, start_session

_DISABLED_TEXT = "当前用户不存在或者已被禁用"
_ICONS = (
    *("user.jpg", "group.png", "kefu.png"),
    *(f"img/{name}.png" for name in ("grouplist", "friendList", "whoCanChatMe", "myQrcode1", "search")),
    *(f"img/{name}.png" for name in ("qunliaoNoticeIcon", "applyAddMeFriendSet", "setPassword", "AskAndAnswerSet")),
)


@pytest.fixture(scope="module")
def administrator(instance: Instance) -> int:
    """A user whom the command has made an administrator while the system runs."""
    (user_id,) = add_users(instance)
    instance.run_flask("admin", "grant", f"added{user_id}")
    return user_id


def _call(instance: Instance, caller: int, path: str, **params: Any) -> tuple[int, Any]:
    return HttpClient(instance.base, instance.tokens[caller]).post(f"/api/admin/{path}", params)


def _code(answer: tuple[int, Any]) -> tuple[int, str]:
    return answer[0], answer[1].get("code", answer[1]["data"])


def _send(instance: Instance, sender_id: int, to: int, *, group: bool = False) -> str:
    """Send a message; return `ok` or the code of the refusal."""
    client = HttpClient(instance.base, instance.tokens[sender_id])
    status, body = client.send(to, "hello", "group" if group else "single")
    return "ok" if status == 200 else str(body["code"])


# Who may


def test_the_routes_exist_for_administrators_only(instance: Instance, administrator: int) -> None:
    """Everybody else gets 404, whatever he sends: users, visitors, who is disabled, and who has no token that is good."""
    (user,) = add_users(instance)
    (visitor,) = add_users(instance, role="visitor")
    (disabled,) = add_users(instance)
    assert _code(_call(instance, administrator, f"users/{disabled}/status", status=0)) == (200, "ok")
    over = sign(instance, administrator, "default", "of-no-session")
    expired = sign(instance, administrator, "default", "of-no-session", ttl_seconds=-1)
    for path in (f"users/{user}/status", "relations/status", "groups/1/status", "users/x/status"):
        for caller in (user, visitor, disabled):
            assert _code(_call(instance, caller, path, status=7)) == (404, "not_found")
        for token in (None, "no.token.ofours", over, expired):
            assert _code(HttpClient(instance.base, token).post(f"/api/admin/{path}")) == (404, "not_found")
    assert _code(_call(instance, administrator, f"users/{user}/status", status=1)) == (200, "ok")


def test_a_revoked_administrator_is_a_user_at_once(instance: Instance) -> None:
    """His session goes on, but not as an administrator's."""
    one, other = add_users(instance, 2)
    instance.run_flask("admin", "grant", f"added{one}")
    assert _code(_call(instance, one, f"users/{other}/status", status=1)) == (200, "ok")

    instance.run_flask("admin", "revoke", f"added{one}")

    assert _code(_call(instance, one, f"users/{other}/status", status=1)) == (404, "not_found")


def test_an_administrator_cannot_disable_himself(instance: Instance, administrator: int) -> None:
    for status in (0, 2):
        answer = _call(instance, administrator, f"users/{administrator}/status", status=status)
        assert _code(answer) == (400, "cannot_disable_self")
    assert _code(_call(instance, administrator, f"users/{administrator}/status", status=1)) == (200, "ok")


@pytest.mark.parametrize("unknown", [2**31 - 1, 2**31, 10**16])
def test_what_does_not_exist_is_not_found(instance: Instance, administrator: int, unknown: int) -> None:
    (stranger,) = add_users(instance)
    for path, params in (
        (f"users/{unknown}/status", {}),
        (f"groups/{unknown}/status", {}),
        ("relations/status", {"user_id": stranger, "friend_id": unknown}),
        ("relations/status", {"user_id": unknown, "friend_id": stranger}),
        ("relations/status", {"user_id": stranger, "friend_id": administrator}),  # no friends
    ):
        assert _code(_call(instance, administrator, path, status=0, **params)) == (404, "not_found")


@pytest.mark.parametrize("bad", ["", 3, -1, "x", None, [1], {"a": 1}, 10**30, "\0", True])
def test_a_bad_parameter_is_told(instance: Instance, administrator: int, bad: Any) -> None:
    (user,) = add_users(instance)
    for path in (f"users/{user}/status", "groups/1/status", "relations/status"):
        params = {"user_id": user, "friend_id": user, "status": bad}
        assert _code(_call(instance, administrator, path, **params)) == (422, "invalid")
    for path in ("users/x/status", "users/0/status", "users/-1/status", "users/%00/status", "groups/1e3/status"):
        assert _code(_call(instance, administrator, path, status=0)) == (422, "invalid")


# What it does


@pytest.mark.parametrize("status", [0, 2])
def test_a_disabled_user_is_out_at_once(instance: Instance, administrator: int, status: int) -> None:
    """His sockets close on every device, his next request says why, and enabling him revives no session (A13, A15)."""
    user, friend = add_users(instance, 2)
    befriend(instance, user, friend)
    tablet = start_session(instance, user, device="tablet")
    with open_socket(instance, user, 1) as old, open_socket(instance, user, 2, token=tablet) as new:
        show_marker(instance, friend, user, new)

        assert _code(_call(instance, administrator, f"users/{user}/status", status=status)) == (200, "ok")

        assert old.wait_closed() == 1000
        assert new.wait_closed() == 4403
    for token in (instance.tokens[user], tablet):
        answer = HttpClient(instance.base, token).get("/api/chat/conversations")
        assert (answer[0], answer[1]["code"], answer[1]["data"]) == (400, "user_disabled", _DISABLED_TEXT)
    assert _send(instance, friend, user) == "recipient_unavailable"

    assert _code(_call(instance, administrator, f"users/{user}/status", status=1)) == (200, "ok")

    for token in (instance.tokens[user], tablet):
        assert _code(HttpClient(instance.base, token).get("/api/chat/conversations")) == (400, "token_invalid")
    assert _send(instance, friend, user) == "ok"
    instance.tokens[user] = start_session(instance, user)
    assert _send(instance, user, friend) == "ok"


def test_logins_that_race_with_disabling_leave_no_session(fresh_instance: InstanceFactory, database_url: str) -> None:
    """Whoever gets a token while he is disabled cannot use it, neither then nor after he is enabled again."""
    instance = fresh_instance(DATABASE_URL=database_url, RATE_LIMIT_AUTH="off")
    instance.seed(2, 0)
    instance.run_flask("admin", "grant", "seed1")
    anybody = HttpClient(instance.base, None)
    account = {"username": "racer", "password": "a password"}
    status, body = anybody.post("/api/regChat", {**account, "device": "first"})
    assert status == 200, body
    user, tokens = body["data"]["id"], [body["data"]["token"]]
    refusals: list[str] = []
    may_go_on = threading.Event()
    may_go_on.set()

    def log_in_again_and_again(number: int) -> None:
        while may_go_on.is_set():
            status, body = anybody.post("/api/loginChat", {**account, "device": f"device {number}"})
            if status != 200:
                refusals.append(body["code"])
                return
            token = body["data"]["token"]
            tokens.append(token)
            # What admits a token remembers its session: that too races with the end.
            HttpClient(instance.base, token).get("/api/chat/conversations")

    def conversations(token: str) -> tuple[int, str]:
        return _code(HttpClient(instance.base, token).get("/api/chat/conversations"))

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(log_in_again_and_again, number) for number in range(4)]
        try:
            assert wait_until(lambda: len(tokens) > 8, 30.0)
            assert _code(_call(instance, 1, f"users/{user}/status", status=0)) == (200, "ok")
            assert {conversations(token) for token in list(tokens)} == {(400, "user_disabled")}
            assert wait_until(lambda: len(refusals) == 4, 30.0)
        finally:
            may_go_on.clear()
        for each in running:
            each.result()

    assert set(refusals) == {"account_disabled"}
    assert {conversations(token) for token in tokens} == {(400, "user_disabled")}
    assert _code(_call(instance, 1, f"users/{user}/status", status=1)) == (200, "ok")
    assert {conversations(token) for token in tokens} == {(400, "token_invalid")}


def test_disabling_twice_is_disabling(instance: Instance, administrator: int) -> None:
    """A repeat answers the same, so that one whose outcome is unknown can be repeated."""
    (user,) = add_users(instance)
    for _ in range(2):
        assert _code(_call(instance, administrator, f"users/{user}/status", status=0)) == (200, "ok")


def test_a_disabled_friend_row_stops_both(instance: Instance, administrator: int) -> None:
    """Either row is enough (P4), and the next message after the answer knows it."""
    one, other = add_users(instance, 2)
    befriend(instance, one, other)
    for owner, friend in ((one, other), (other, one)):
        assert (_send(instance, one, other), _send(instance, other, one)) == ("ok", "ok")
        row = {"user_id": owner, "friend_id": friend}
        assert _code(_call(instance, administrator, "relations/status", status=0, **row)) == (200, "ok")
        assert (_send(instance, one, other), _send(instance, other, one)) == ("relation_disabled",) * 2
        assert _code(_call(instance, administrator, "relations/status", status=1, **row)) == (200, "ok")
    assert (_send(instance, one, other), _send(instance, other, one)) == ("ok", "ok")


@pytest.mark.parametrize("status", [0, 2])
def test_a_disabled_group_takes_no_message(instance: Instance, administrator: int, status: int) -> None:
    owner, member = add_users(instance, 2)
    group_id = make_group(instance, owner, [member])
    assert _send(instance, member, group_id, group=True) == "ok"

    assert _code(_call(instance, administrator, f"groups/{group_id}/status", status=status)) == (200, "ok")

    assert _send(instance, member, group_id, group=True) == "group_unavailable"
    assert _send(instance, owner, group_id, group=True) == "group_unavailable"
    assert _code(_call(instance, administrator, f"groups/{group_id}/status", status=1)) == (200, "ok")
    assert _send(instance, member, group_id, group=True) == "ok"


def test_what_administrators_do_is_logged(instance: Instance, administrator: int) -> None:
    """Who, what and whom."""
    (user,) = add_users(instance)
    _call(instance, administrator, f"users/{user}/status", status=2)

    def logged() -> list[dict[str, Any]]:
        lines = (instance.log_dir / "web.log").read_text().splitlines()
        events = [json.loads(line) for line in lines if '"user_status_set"' in line]
        return [event for event in events if event["user_id"] == user]

    assert wait_until(lambda: bool(logged()), 5.0)
    (event,) = logged()
    assert (event["administrator_id"], event["status"]) == (administrator, 2)


# Icons


@pytest.mark.parametrize("name", _ICONS)
def test_an_icon_is_served(instance: Instance, name: str) -> None:
    """Every icon that the original's notices name is an image of ours, 128 pixels square, which a client may keep."""
    with urllib.request.urlopen(f"{instance.base}/static/media/{name}", timeout=10) as response:
        kind, caching, etag, image = (
            response.headers["Content-Type"],
            response.headers["Cache-Control"],
            response.headers["ETag"],
            response.read(),
        )

    assert kind == ("image/jpeg" if name.endswith(".jpg") else "image/png")
    assert int(re.search(r"max-age=(\d+)", caching)[1]) >= 7 * 24 * 3_600  # type: ignore[index]
    if kind == "image/png":
        assert image[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(image[16:20]), int.from_bytes(image[20:24])) == (128, 128)
    else:
        assert image[:3] == b"\xff\xd8\xff"
    again = urllib.request.Request(f"{instance.base}/static/media/{name}", headers={"If-None-Match": etag})
    with pytest.raises(urllib.error.HTTPError) as unchanged:
        urllib.request.urlopen(again, timeout=10)
    assert unchanged.value.code == 304


@pytest.mark.parametrize(
    "name", ["nothing.png", "img", "img/", "../../__init__.py", "%2e%2e/%2e%2e/__init__.py", "a%00.png", "x" * 3_000]
)
def test_no_other_file_is_served_as_an_icon(instance: Instance, name: str) -> None:
    status, body = HttpClient(instance.base, None).get(f"/static/media/{name}")

    assert (status, body["code"]) == (404, "not_found")


def test_a_greeting_names_an_icon_that_is_there(instance: Instance) -> None:
    """What the greetings name can be fetched as it stands."""
    (user,) = add_users(instance)
    with open_socket(instance, user, 1) as socket:
        socket.wait_for(lambda frame: "redirect-search" in json.dumps(frame.data))
        named = {frame.data["data"]["from_avatar"] for frame in socket.frames if frame.data["type"] == "singleChat"}
    for path in filter(None, named):
        with urllib.request.urlopen(instance.base + path, timeout=10) as response:
            assert response.status == 200
