"""Accounts over HTTP: who comes in, with what, and what ends when he leaves (ORIG 1.7 and 6.2, contract section 3)."""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import jwt
import pytest
from sqlalchemy import func, select, update

from models.profiles import UserInfo
from models.sessions import ChatSession
from models.store import keys
from models.users import User
from schemas.accounts import ACCOUNT, visitor_signature
from tests.conftest import InstanceFactory
from tests.support.client import ChatSocket, HttpClient
from tests.support.instance import Instance
from tests.support.relations import writing

Answer = tuple[int, Any]

_PARALLEL = 12
_PASSWORD = "secret-1"
_LONG_SECONDS = 2_000_000  # a session lasts 2,592,000


@pytest.fixture(scope="module")
def here() -> Iterator[Instance]:
    """An instance where many may register from one address."""
    with Instance({"RATE_LIMIT_AUTH": "off"}) as instance:
        yield instance


@pytest.fixture
def either(fresh_instance: InstanceFactory, database_url: str) -> Instance:
    """An instance on each database in turn."""
    return fresh_instance(DATABASE_URL=database_url, RATE_LIMIT_AUTH="off")


def _name() -> str:
    return f"u{secrets.token_hex(6)}"


def _call(instance: Instance, path: str, body: dict[str, Any], **headers: str) -> Answer:
    return HttpClient(instance.base, None, timeout=30.0).call("POST", path, body, headers)


def _register(instance: Instance, username: str, password: str = _PASSWORD, **more: Any) -> Answer:
    return _call(instance, "/api/regChat", {"username": username, "password": password, **more})


def _log_in(instance: Instance, username: str, password: str = _PASSWORD, **more: Any) -> Answer:
    return _call(instance, "/api/loginChat", {"username": username, "password": password, **more})


def _signed(
    instance: Instance,
    path: str,
    device_id: str,
    *,
    off_ms: int = 0,
    salt: str = "hongyan",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Answer:
    timestamp = time.time_ns() // 1_000_000 + off_ms
    if headers is None:
        headers = {"X-Security-Sign": visitor_signature(device_id, timestamp, salt)}
    body = {"deviceId": device_id, "timestamp": timestamp, **more}
    return HttpClient(instance.base, None, timeout=30.0).call("POST", path, body, headers)


def _visit(instance: Instance, device_id: str, **more: Any) -> Answer:
    return _signed(instance, "/api/visitorRegister", device_id, **more)


def _ok(answer: Answer) -> dict[str, Any]:
    status, body = answer
    assert status == 200, body
    assert body["msg"] == "ok"
    account: dict[str, Any] = body["data"]
    return account


def _refused(answer: Answer) -> tuple[int, str, str]:
    status, body = answer
    assert body["msg"] == "fail", body
    return status, body["code"], body["data"]


def _mine(instance: Instance, token: str) -> HttpClient:
    return HttpClient(instance.base, token)


def _works(instance: Instance, token: str) -> bool:
    """Whether a token admits."""
    status, body = _mine(instance, token).get("/api/chat/conversations")
    assert status == 200 or body["code"] in ("token_invalid", "user_disabled"), body
    return bool(status == 200)


def _at_once(call: Callable[[int], Answer], count: int = _PARALLEL) -> list[Answer]:
    start = threading.Barrier(count)

    def run(number: int) -> Answer:
        start.wait()
        return call(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def _change(instance: Instance, user_id: int, **columns: Any) -> None:
    with writing(instance) as connection:
        connection.execute(update(User).where(User.id == user_id).values(**columns))


# Registration and login


def test_who_registers_is_logged_in(here: Instance) -> None:
    """The answer is the user's row without password and fingerprint, with a token that works at once."""
    name = _name()

    account = _ok(_register(here, name))

    assert set(account) == set(ACCOUNT.fields)
    assert not {"password", "devicefingeruuid"} & set(account)
    assert (account["username"], account["role"], account["status"]) == (name, "user", 1)
    assert account["avatar"] == "/static/media/user.jpg"
    assert account["last_login_ip"] == account["register_ip"] == "127.0.0.1"
    assert account["last_login"].endswith("Z")
    assert len(account["create_time"]) == len("2026-01-31 23:59:59")
    assert _works(here, account["token"])
    assert jwt.decode(account["token"], options={"verify_signature": False}).keys() == {
        "id", "uuid", "role", "sid", "device", "iat", "exp"
    }  # fmt: skip


def test_a_username_is_given_once(here: Instance) -> None:
    """The second who wants it is told so."""
    name = _name()
    _ok(_register(here, name))

    assert _refused(_register(here, name, "another1")) == (400, "username_taken", "该账号已存在，请换一个账号注册")


def test_several_register_without_a_device(here: Instance) -> None:
    """No fingerprint is no fingerprint: it cannot be taken (E10)."""
    assert len({_ok(_register(here, _name()))["id"] for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"password": _PASSWORD}, "账号不能为空"),
        ({"username": "abcd"}, "密码不能为空"),
        ({"username": "abc", "password": _PASSWORD}, "账号 的长度 必须 在 4 和 20 之间"),
        ({"username": "a" * 21, "password": _PASSWORD}, "账号 的长度 必须 在 4 和 20 之间"),
        ({"username": "abcd", "password": "12345"}, "密码 的长度 必须 在 6 和 20 之间"),
        ({"username": "ab\0cd", "password": _PASSWORD}, "账号 的值包含非法字符"),
        ({"username": "abcd", "password": _PASSWORD, "device": "d" * 65}, "设备 的长度 必须 在 1 和 64 之间"),
    ],
)
@pytest.mark.parametrize("path", ["/api/regChat", "/api/loginChat"])
def test_malformed_parameters_are_told(here: Instance, path: str, body: dict[str, Any], text: str) -> None:
    """In ORIG's words, or in English."""
    assert _refused(_call(here, path, body)) == (422, "invalid", text)

    status, answer = HttpClient(here.base, None).call("POST", path, body, {"Accept-Language": "en"})
    assert (status, answer["code"]) == (422, "invalid")
    assert answer["data"].isascii(), answer


def test_a_login_does_not_tell_which_was_wrong(here: Instance) -> None:
    """Unknown account and wrong password read the same (E16); who knows a disabled one's password is told the truth."""
    name = _name()
    account = _ok(_register(here, name))
    wrong = (400, "wrong_password", "账户或密码错误")

    assert _refused(_log_in(here, name, "secret-2")) == wrong
    assert _refused(_log_in(here, _name(), "secret-2")) == wrong
    assert _ok(_log_in(here, name))["id"] == account["id"]

    _change(here, account["id"], status=0)
    assert _refused(_log_in(here, name, "secret-2")) == wrong
    assert _refused(_log_in(here, name)) == (400, "account_disabled", "账号不存在或者被禁用")


def test_a_hash_of_the_original_is_accepted_once(here: Instance) -> None:
    """Who logs in with it gets an argon2id hash in its place (E3)."""
    name = _name()
    account = _ok(_register(here, name))

    def stored() -> str:
        with writing(here) as connection:
            return str(connection.execute(select(User.password).where(User.id == account["id"])).scalar_one())

    assert stored().startswith("$argon2id$")
    original = hashlib.sha256(_PASSWORD.encode()).hexdigest()
    _change(here, account["id"], password=original)

    assert _refused(_log_in(here, name, "secret-2"))[1] == "wrong_password"
    assert _refused(_call(here, "/api/loginChat", {"username": name, "password": original[:20]}))[1] == "wrong_password"
    assert stored() == original
    _ok(_log_in(here, name))
    assert stored().startswith("$argon2id$")
    _ok(_log_in(here, name))


def test_expired_and_invalid_tokens_have_texts_of_their_own(here: Instance) -> None:
    """And neither is an error of ours (E4)."""
    account = _ok(_register(here, _name()))
    claims = jwt.decode(account["token"], options={"verify_signature": False})
    secret = (here.data_dir / "jwt_secret").read_text().strip()
    expired = jwt.encode({**claims, "exp": int(time.time()) - 1}, secret, "HS256")

    def refusal(token: str | None) -> tuple[int, str, str]:
        return _refused(HttpClient(here.base, token).post("/api/chat/refresh"))

    assert refusal(None) == (400, "token_missing", "您没有权限访问即时通讯接口")
    assert refusal(expired) == (400, "token_expired", "Token已过期！请重新获取令牌")
    assert refusal("nonsense") == (400, "token_invalid", "Token 令牌不合法！")
    assert claims["exp"] - claims["iat"] == 2_592_000  # it ends (E2)


# Sessions


def test_each_device_has_a_session(here: Instance) -> None:
    """A login elsewhere ends nothing, another on the same device ends the one before (E5)."""
    name = _name()
    first = _ok(_register(here, name, device="phone"))["token"]
    other = _ok(_log_in(here, name, device="desk"))["token"]
    assert _works(here, first)
    assert _works(here, other)

    second = _ok(_log_in(here, name, device="phone"))["token"]

    assert _works(here, second)
    assert not _works(here, first)
    assert _works(here, other)


def test_a_sixth_device_ends_the_least_recent(here: Instance) -> None:
    """Five devices have sessions, those that were seen last."""
    name = _name()
    tokens = [_ok(_register(here, name, device="d0"))["token"]]
    for number in range(1, 5):
        tokens.append(_ok(_log_in(here, name, device=f"d{number}"))["token"])
    with ChatSocket(here.base, tokens[0], 2) as socket:
        socket.wait_for(lambda frame: frame.data.get("type") == "hello")
        tokens.append(_ok(_log_in(here, name, device="d5"))["token"])

        assert [_works(here, token) for token in tokens] == [True, False, True, True, True, True]


def test_logging_out_ends_this_session(here: Instance) -> None:
    """The token is dead at once, the other device's is not."""
    name = _name()
    token = _ok(_register(here, name))["token"]
    other = _ok(_log_in(here, name, device="desk"))["token"]

    assert _mine(here, token).post("/api/chat/logout") == (200, {"msg": "ok", "data": True})

    assert not _works(here, token)
    assert _works(here, other)
    assert _refused(_mine(here, token).post("/api/chat/logout"))[1] == "token_invalid"


def test_redis_knows_a_session_from_its_login_on(here: Instance) -> None:
    """So that a token which was never used sends while SQL is away, of whoever has come in."""
    device_id = str(uuid.uuid4())
    name = _name()
    logins = [
        _ok(_register(here, name, device="desk")),
        _ok(_log_in(here, name, device="phone")),
        _ok(_log_in(here, name, device="phone")),
        _ok(_visit(here, device_id)),
        _ok(_visit(here, device_id)),
    ]

    last = {(claims["id"], claims["device"]): claims["sid"] for claims in map(_claims, logins)}

    with closing(here.redis()) as client:
        for (user_id, device), session_id in last.items():
            assert client.hget(keys.sessions(user_id), device) == session_id


def _claims(login: dict[str, Any]) -> dict[str, Any]:
    return dict(jwt.decode(login["token"], options={"verify_signature": False}))


def _nearly_over(instance: Instance, token: str) -> str:
    """Let a session end in a minute, and return a token that does."""
    claims = jwt.decode(token, options={"verify_signature": False})
    claims["exp"] = int(time.time()) + 60
    with writing(instance) as connection:
        mine = ChatSession.session_id == claims["sid"]
        connection.execute(update(ChatSession).where(mine).values(expires_at_ms=claims["exp"] * 1_000))
    return jwt.encode(claims, (instance.data_dir / "jwt_secret").read_text().strip(), algorithm="HS256")


def _session_ends_at(instance: Instance, claims: dict[str, Any]) -> float:
    """Return when a token's session ends, in seconds since 1970."""
    with writing(instance) as connection:
        mine = ChatSession.session_id == claims["sid"]
        return float(connection.execute(select(ChatSession.expires_at_ms).where(mine)).scalar_one()) / 1_000


def test_refreshing_renews_the_session(here: Instance) -> None:
    """It lasts as long as a new one, and answers like a login; the sockets of the device stay open, and it is the same session."""
    token = _nearly_over(here, _ok(_register(here, _name(), device="desk"))["token"])
    with ChatSocket(here.base, token, 2) as socket:
        socket.wait_for(lambda frame: frame.data.get("type") == "hello")

        account = _ok(_mine(here, token).post("/api/chat/refresh"))

        assert set(account) == set(ACCOUNT.fields)
        assert _works(here, account["token"])
        before, after = (jwt.decode(each, options={"verify_signature": False}) for each in (token, account["token"]))
        assert (after["sid"], after["device"]) == (before["sid"], "desk")
        assert after["exp"] > before["exp"]
        assert after["exp"] - time.time() > _LONG_SECONDS
        assert _session_ends_at(here, after) - time.time() > _LONG_SECONDS
        assert not socket.has_ended_within(0.5)


def test_an_ended_session_cannot_be_refreshed(here: Instance) -> None:
    """Nor one of a disabled user, who is told why."""
    name = _name()
    account = _ok(_register(here, name))
    old = account["token"]
    token = _ok(_log_in(here, name))["token"]

    assert _refused(_mine(here, old).post("/api/chat/refresh"))[1] == "token_invalid"
    assert _works(here, token)

    chief = _name()
    administrator = _ok(_register(here, chief))["token"]
    here.run_flask("admin", "grant", chief)
    assert _mine(here, administrator).post(f"/api/admin/users/{account['id']}/status", {"status": 0})[0] == 200
    disabled = (400, "user_disabled", "当前用户不存在或者已被禁用")
    assert _refused(_mine(here, token).post("/api/chat/refresh")) == disabled


def test_a_new_password_ends_the_other_devices(here: Instance) -> None:
    """It has 6 to 20 signs like the first one, and the session that set it goes on (E18)."""
    name = _name()
    token = _ok(_register(here, name))["token"]
    other = _ok(_log_in(here, name, device="desk"))["token"]

    def change(old: str, new: str, check: str | None = None) -> Answer:
        body = {"oldpassword": old, "newpassword": new, "checknewpassword": new if check is None else check}
        return _mine(here, token).post("/api/chat/setPassword", body)

    assert _refused(change(_PASSWORD, "12345")) == (422, "invalid", "新密码 的长度 必须 在 6 和 20 之间")
    assert _refused(change(_PASSWORD, "secret-2", "secret-3"))[::2] == (400, "新密码与确认新密码不一致")
    assert _refused(change("wrong", "secret-2"))[::2] == (400, "原始密码错误，无法修改密码")
    assert _works(here, other)

    assert change(_PASSWORD, "secret-2") == (200, {"msg": "ok", "data": "修改密码成功"})

    assert _works(here, token)
    assert not _works(here, other)
    assert _refused(_log_in(here, name))[1] == "wrong_password"
    _ok(_log_in(here, name, "secret-2", device="desk"))


# Visitors


def test_a_device_is_one_visitor(here: Instance) -> None:
    """He comes in without a name or password, and is the same the next time; what the device says of itself is kept."""
    device_id = str(uuid.uuid4())

    first = _ok(_visit(here, device_id, uniplatform="h5", devicemodel="m1"))
    second = _ok(_visit(here, device_id, devicemodel="m2", deviceos="os"))

    assert (first["id"], first["role"]) == (second["id"], "visitor")
    assert first["username"] == f"VIS{device_id[:8]}"
    assert [second[name] for name in ("uniplatform", "devicemodel", "deviceos")] == ["h5", "m2", "os"]
    assert device_id not in str(second)
    assert not _works(here, first["token"])
    assert _works(here, second["token"])
    assert _refused(_mine(here, second["token"]).post("/api/chat/searchUser", {"keyword": "a"})) == (
        400,
        "visitors_excluded",
        "您没有权限访问，请先注册或登录",
    )
    assert _refused(_mine(here, second["token"]).post("/api/chat/setPassword"))[:2] == (400, "visitors_excluded")
    passwords = {"oldpassword": "1", "newpassword": "secret-2", "checknewpassword": "secret-2"}
    assert _refused(_mine(here, second["token"]).post("/api/chat/setPassword", passwords))[::2] == (
        400,
        "您未登录，无法修改密码",
    )
    assert _mine(here, second["token"]).post("/api/chat/logout") == (200, {"msg": "ok", "data": True})
    assert not _works(here, second["token"])


def test_what_a_device_says_of_itself_keeps_nobody_out(here: Instance) -> None:
    """A model whose name is too long for its column counts as none said; the rest is kept (ORIG 1.2)."""
    visitor = _ok(_visit(here, str(uuid.uuid4()), uniplatform="x", devicemodel="m" * 51, devicebrand="b" * 50))

    assert [visitor[name] for name in ("uniplatform", "devicemodel", "devicebrand")] == ["", "", "b" * 50]


# Contract section 3: ORIG 1.5's list, and what is new; uploads are to come.
_VISITORS_ROUTES = {
    "POST /api/chat/socket/sendmessage",
    "POST /api/chat/chatGetmessageOffLine",
    "GET /api/chat/grouplist/{page}",
    "GET /api/chat/groupinfo/{id}",
    "POST /api/chat/groupnickname",
    "POST /api/chat/groupDeleteOrQuit",
    "GET /api/chat/groupQrcode/{id}",
    "POST /api/chat/uploadStreamSingleToServerDiy/{diydir}",
    "POST /api/chat/uploadAliyun",
    "POST /api/chat/revokeMessage",
    "POST /api/chat/updateUserinfo",
    "POST /api/chat/groupInviteUser",
    "POST /api/chat/getUserSetInfo",
    "POST /api/chat/applyfriend",
    "POST /api/chat/autoAddFriendAndAgree",
    "POST /api/chat/ismygoodfriend/{id}",
    "POST /api/chat/userset",
    "POST /api/chat/deletegoodfriend/{id}",
    "POST /api/chat/ticket",
    "POST /api/chat/refresh",
    "POST /api/chat/logout",
    "GET /api/chat/history",
    "GET /api/chat/conversations",
    "POST /api/chat/read",
    "GET /api/chat/messages/{message_id}",
    "POST /api/chat/block/{user_id}",
    "GET /api/chat/requests",
    "POST /api/chat/requests/{user_id}",
}


def test_a_visitor_may_call_what_the_contract_lists(here: Instance) -> None:
    """Every route says for itself whether visitors may call it, by its path and method and not by a beginning (E17)."""
    described = _mine(here, "").get("/openapi.json")[1]["paths"]
    routes = [(method.upper(), path) for path, item in described.items() for method in item]
    token = _ok(_visit(here, str(uuid.uuid4())))["token"]
    codes: dict[str, str] = {}

    # Logging out ends the session, so it comes last.
    for method, path in sorted(routes, key=lambda route: route[1].endswith("/logout")):
        if path.startswith("/api/"):
            body: dict[str, Any] | None = {} if method == "POST" else None
            answer = _mine(here, token).call(method, re.sub(r"{\w+}", "1", path), body)
            codes[f"{method} {path}"] = str(answer[1].get("code", "ok"))

    of_users = {route: code for route, code in codes.items() if route.split()[1].startswith("/api/chat/")}
    assert len(of_users) > len(_VISITORS_ROUTES)
    assert {route for route, code in of_users.items() if code != "visitors_excluded"} == _VISITORS_ROUTES
    assert not {"token_missing", "token_invalid", "unavailable"} & set(of_users.values())
    of_others = {route: code for route, code in codes.items() if route.split()[1].startswith("/api/admin/")}
    assert of_others.pop("POST /api/admin/tokens") == "server_key_invalid"
    assert set(of_others.values()) == {"not_found"}


def test_a_visitors_route_wants_its_signature(here: Instance) -> None:
    """Header, signature, time and device id are checked in this order; a time in the future is none either (E8, E14)."""
    device_id = str(uuid.uuid4())

    assert _refused(_visit(here, device_id, headers={})) == (400, "signature_missing", "非法访问")
    assert _refused(_call(here, "/api/visitorRegister", {}))[2] == "非法访问"
    assert _refused(_call(here, "/api/visitorRegister", {}, **{"X-Security-Sign": "x"})) == (
        422,
        "invalid",
        "设备指纹不能为空",
    )
    assert _refused(_visit(here, device_id, salt="other")) == (400, "signature_invalid", "非法签名")
    assert _refused(_visit(here, device_id, headers={"X-Security-Sign": "0" * 64}))[2] == "非法签名"
    for off_ms in (-301_000, 301_000, 10**15):
        assert _refused(_visit(here, device_id, off_ms=off_ms)) == (400, "timestamp_invalid", "请求已过期")
    for malformed in ("x" * 37, "é" * 36, "x" * 35 + "/"):
        assert _refused(_visit(here, malformed)) == (400, "device_invalid", "无效标识")
    _ok(_visit(here, device_id, off_ms=-290_000))
    _ok(_visit(here, device_id, off_ms=290_000))


def test_names_of_visitors_do_not_collide(here: Instance) -> None:
    """Two devices whose ids begin alike are two visitors (E12)."""
    start = secrets.token_hex(4)

    accounts = [_ok(_visit(here, start + secrets.token_hex(14))) for _ in range(3)]

    assert len({account["id"] for account in accounts}) == len({account["username"] for account in accounts}) == 3
    assert all(account["username"].startswith(f"VIS{start}") for account in accounts)


def test_a_visitor_becomes_a_user(here: Instance) -> None:
    """He keeps his id; the session that the fingerprint alone has opened ends, on every device."""
    device_id, name = str(uuid.uuid4()), _name()
    visitor = _ok(_visit(here, device_id))
    elsewhere = _ok(_visit(here, device_id, device="other"))

    user = _ok(_signed(here, "/api/visitorregChat", device_id, username=name, password=_PASSWORD))

    assert (user["id"], user["username"], user["role"]) == (visitor["id"], name, "user")
    assert [_works(here, each["token"]) for each in (visitor, elsewhere, user)] == [False, False, True]
    assert _ok(_log_in(here, name))["id"] == visitor["id"]
    assert _ok(_signed(here, "/api/visitorloginChat", device_id, username=name, password=_PASSWORD))["role"] == "user"


def test_a_device_opens_no_registered_account(here: Instance) -> None:
    """The device of one who has registered gets a fresh visitor, the same one again and again (E6)."""
    device_id = str(uuid.uuid4())
    user = _ok(_signed(here, "/api/visitorregChat", device_id, username=_name(), password=_PASSWORD))
    visitor = _ok(_visit(here, device_id))
    upgraded = _ok(_signed(here, "/api/visitorregChat", device_id, username=_name(), password=_PASSWORD))

    fresh = _ok(_visit(here, device_id))
    again = _ok(_visit(here, device_id))

    assert upgraded["id"] == visitor["id"] != user["id"]
    assert fresh["id"] == again["id"]
    assert len({user["id"], upgraded["id"], fresh["id"]}) == 3
    assert fresh["role"] == "visitor"
    assert _works(here, user["token"])
    assert _works(here, upgraded["token"])


def test_registering_overwrites_no_registered_account(here: Instance) -> None:
    """On a device whose visitor has registered, the next one who registers is somebody else (E11)."""
    device_id, first, second = str(uuid.uuid4()), _name(), _name()
    _ok(_visit(here, device_id))
    one = _ok(_signed(here, "/api/visitorregChat", device_id, username=first, password=_PASSWORD))

    two = _ok(_signed(here, "/api/visitorregChat", device_id, username=second, password="secret-2"))

    assert one["id"] != two["id"]
    assert _ok(_log_in(here, first))["id"] == one["id"]
    assert _ok(_log_in(here, second, "secret-2"))["id"] == two["id"]
    assert _refused(_signed(here, "/api/visitorregChat", device_id, username=first, password=_PASSWORD))[1] == (
        "username_taken"
    )


def test_too_many_visits_of_a_device_are_refused(here: Instance) -> None:
    """Five an hour, from whatever address; another device is not concerned."""
    device_id = str(uuid.uuid4())
    for _ in range(5):
        _ok(_visit(here, device_id))

    assert _refused(_visit(here, device_id)) == (429, "too_many_registrations", "请求过于频繁，请1个小时后再试")
    _ok(_visit(here, str(uuid.uuid4())))


# Host applications


def _external(instance: Instance, key: str | None = None, **body: Any) -> Answer:
    key = (instance.data_dir / "server_api_key").read_text().strip() if key is None else key
    return _call(instance, "/api/admin/tokens", body, Authorization=f"Bearer {key}")


def test_a_host_application_logs_its_users_in(here: Instance) -> None:
    """The same external id is the same user; his profile follows what the host says, and stays where it says nothing."""
    external_id = f"host|{secrets.token_hex(4)}"

    first = _ok(_external(here, external_id=external_id, nickname="小明", avatar="https://example.org/a.png"))
    second = _ok(_external(here, external_id=external_id, nickname="明", device="desk"))

    assert (first["id"], first["nickname"], first["role"]) == (second["id"], "小明", "user")
    assert (second["nickname"], second["avatar"]) == ("明", "https://example.org/a.png")
    assert set(first) == set(ACCOUNT.fields)
    assert _works(here, first["token"])
    assert _works(here, second["token"])
    _change(here, first["id"], status=0)
    assert _refused(_external(here, external_id=external_id))[1] == "account_disabled"


def test_a_host_application_needs_its_key(here: Instance) -> None:
    """Without it nothing is looked at."""
    for key in ("", "wrong", "é", _ok(_register(here, _name()))["token"]):
        assert _refused(_external(here, key, external_id="x"))[:2] == (401, "server_key_invalid")
    assert _refused(_call(here, "/api/admin/tokens", {"external_id": "x"}))[:2] == (401, "server_key_invalid")
    for wrong in (
        {},
        {"external_id": "x" * 129},
        {"external_id": "x", "nickname": "n" * 51},
        {"external_id": "x", "avatar": "javascript:alert(1)"},
        {"external_id": "x", "avatar": "/" * 1001},
    ):
        assert _refused(_external(here, **wrong))[:2] == (422, "invalid")


# Races, on each database


def test_races_leave_one_of_each(either: Instance) -> None:
    """One username, one visitor of a device, one user of an external id, one session of a device, whoever is in parallel."""
    name, device_id, external_id = _name(), str(uuid.uuid4()), secrets.token_hex(8)

    registered = Counter(status for status, _ in _at_once(lambda _: _register(either, name)))
    visits = _at_once(lambda _: _visit(either, device_id), 5)
    externals = _at_once(lambda number: _external(either, external_id=external_id, device=f"d{number % 3}"))
    starts = secrets.token_hex(4)
    others = _at_once(lambda number: _visit(either, f"{starts}{number:028d}"))
    logins = _at_once(lambda _: _log_in(either, name))

    assert registered == {200: 1, 400: _PARALLEL - 1}
    assert len({_ok(visit)["id"] for visit in visits}) == 1
    assert len({_ok(external)["id"] for external in externals}) == 1
    assert len({_ok(other)["id"] for other in others}) == len({_ok(other)["username"] for other in others}) == _PARALLEL
    assert sum(_works(either, _ok(login)["token"]) for login in logins) == 1
    assert sum(_works(either, _ok(visit)["token"]) for visit in visits) == 1
    with writing(either) as connection:
        users = connection.execute(select(func.count()).select_from(User)).scalar_one()
        assert users == 1 + 1 + 1 + _PARALLEL
        assert connection.execute(select(func.count()).select_from(UserInfo)).scalar_one() == users


def test_a_visitor_is_upgraded_once(either: Instance) -> None:
    """Of several who register on one device at once one becomes its visitor's user; the others are users of their own."""
    device_id = str(uuid.uuid4())
    visitor = _ok(_visit(either, device_id))
    names = [_name() for _ in range(4)]

    answers = _at_once(
        lambda number: _signed(
            either, "/api/visitorregChat", device_id, username=names[number], password=_PASSWORD, device=f"d{number}"
        ),
        4,
    )

    ids = [_ok(answer)["id"] for answer in answers]
    assert len(set(ids)) == 4
    assert ids.count(visitor["id"]) == 1
    assert [_ok(_log_in(either, name))["id"] for name in names] == ids


# Logs


def _raw(instance: Instance, request: str) -> None:
    """Send what need not be HTTP, and read what comes."""
    with socket.create_connection(("127.0.0.1", instance.port), timeout=10.0) as connection:
        connection.sendall(request.encode())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):
            pass


def test_no_log_holds_a_secret(here: Instance) -> None:
    """Tokens right and wrong, wherever they come in, tickets, passwords and texts: none is in any log (G8)."""
    name, password, text = _name(), f"pw{secrets.token_hex(8)}", f"text {secrets.token_hex(8)}"
    _refused(_log_in(here, name, password))
    account = _ok(_register(here, name, password))
    _ok(_log_in(here, name, password, device="desk"))
    right = account["token"]
    wrong = jwt.encode({"id": 1}, "another secret, long enough for HS256")
    ticket = _ok(_mine(here, right).post("/api/chat/ticket"))["ticket"]
    path = "/api/chat/conversations"
    for token in (right, wrong):
        anonymous = HttpClient(here.base, None)
        anonymous.call("GET", path, None, {"token": token})
        anonymous.call("GET", path, None, {"Authorization": f"Bearer {token}"})
        anonymous.get(f"{path}?token={token}")
        anonymous.post("/api/chat/refresh", {"token": token})
        anonymous.get(f"/nowhere?token={token}")
        for v in (1, 2):
            with ChatSocket(here.base, token, v) as chat:
                chat.send_json({"type": "ping", "token": token})
                chat.wait_for(
                    lambda frame: frame.data.get("type") in ("pong", "error", "system") or "msg" in frame.data
                )
        _raw(here, f"GET {path}?token={token} HTTP/9.9\r\n\r\n")
        _raw(here, f"GET {path}?token={token}\r\n\r\n")
        _raw(here, f"GE(T {path}?token={token} HTTP/1.1\r\nHost: x\r\n\r\n")
        _raw(here, f"POST {path}?token={token} HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\ntoken: {token}\r\n\r\n")
        _raw(here, f"GET /ws?token={token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    for _ in range(2):  # used up by the first
        with ChatSocket(here.base, None, 2, query={"ticket": ticket}) as chat:
            chat.wait_for(lambda frame: True)
    _mine(here, right).send(10**6, text)
    _external(here, "no-such-key-0123456789", external_id="x")

    logs = "".join(log.read_text(errors="replace") for log in here.log_dir.iterdir())

    key = (here.data_dir / "server_api_key").read_text().strip()
    secret_parts = [password, text, ticket, key, "no-such-key-0123456789"]
    secret_parts += [part for token in (right, wrong) for part in token.split(".")[1:]]
    assert [part for part in secret_parts if part in logs] == []
    assert "logged_in" in logs
