"""Routes to come in and to leave: registration, login, visitors, passwords, host applications (ORIG 1.7 and 6.2)."""

from __future__ import annotations

import hmac
import time
from typing import Any

from flask import Blueprint, Response, request

from schemas.accounts import (
    ACCOUNT,
    CREDENTIALS_PARAMS,
    EXTERNAL_PARAMS,
    NO_PARAMS,
    PASSWORD_PARAMS,
    TRAITS,
    VISITOR_CREDENTIALS_PARAMS,
    VISITOR_PARAMS,
    is_device_id,
    is_signed,
    is_timely,
)
from schemas.answers import truth
from schemas.params import InvalidParams, Params
from settings import Settings
from webapp.accounts import Accounts
from webapp.address import Proxies
from webapp.auth import Gatekeeper
from webapp.errors import ApiError
from webapp.http import ok, read_params
from webapp.limiting import DeviceLimit, Limits
from webapp.logins import Logins
from webapp.routes import describe

_SIGNED_FAILURES = (
    "signature_missing",
    "signature_invalid",
    "timestamp_invalid",
    "device_invalid",
    "too_many_registrations",
    "rate_limited",
)
_LOGIN_FAILURES = ("wrong_password", "account_disabled", "login_locked")


def make_blueprint(
    settings: Settings,
    gatekeeper: Gatekeeper,
    limits: Limits,
    accounts: Accounts,
    logins: Logins,
    proxies: Proxies,
) -> Blueprint:
    blueprint = Blueprint("accounts", __name__)

    def counted_address() -> str:
        """Return the client's address, counted against RATE_LIMIT_AUTH."""
        address = proxies.of(request)
        limits.count_auth(address)
        return address

    def read_signed(schema: Params, limit: DeviceLimit) -> dict[str, Any]:
        """Return the parameters of a visitor's route after the checks of ORIG 1.7.4, in its order."""
        signature = request.headers.get("X-Security-Sign")
        if not signature:
            raise ApiError("signature_missing")
        params = read_params(schema)
        if not is_signed(signature, params["deviceId"], params["timestamp"], settings.visitor_salt):
            raise ApiError("signature_invalid")
        if not is_timely(params["timestamp"], time.time_ns() // 1_000_000):
            raise ApiError("timestamp_invalid")
        if not is_device_id(params["deviceId"]):
            raise ApiError("device_invalid")
        limits.count_device(limit, params["deviceId"])
        return params

    def check_server_key() -> None:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        is_right = hmac.compare_digest(key.strip().encode(errors="replace"), settings.server_api_key.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise ApiError("server_key_invalid")

    @blueprint.post("/api/regChat")
    @describe(
        "Register and log in",
        access="anyone",
        params=CREDENTIALS_PARAMS,
        answer=ACCOUNT,
        failures=("username_taken", "rate_limited"),
    )
    def post_registration() -> Response:
        address = counted_address()
        params = read_params(CREDENTIALS_PARAMS)
        login = accounts.register(params["username"], params["password"], device=params["device"], address=address)
        return ok(login)

    @blueprint.post("/api/loginChat")
    @describe(
        "Log in",
        access="anyone",
        params=CREDENTIALS_PARAMS,
        answer=ACCOUNT,
        failures=(*_LOGIN_FAILURES, "rate_limited"),
    )
    def post_login() -> Response:
        address = counted_address()
        params = read_params(CREDENTIALS_PARAMS)
        login = accounts.log_in(params["username"], params["password"], device=params["device"], address=address)
        return ok(login)

    @blueprint.post("/api/visitorRegister")
    @describe(
        "Come in as the visitor of a device",
        access="anyone",
        params=VISITOR_PARAMS,
        answer=ACCOUNT,
        failures=("account_disabled", *_SIGNED_FAILURES),
    )
    def post_visitor() -> Response:
        address = counted_address()
        params = read_signed(VISITOR_PARAMS, "visitor_registrations")
        traits = {name: params[name] for name in TRAITS if params[name]}
        return ok(accounts.enter_visitor(params["deviceId"], traits, device=params["device"], address=address))

    @blueprint.post("/api/visitorregChat")
    @describe(
        "Register, and make the visitor of the device that user",
        access="anyone",
        params=VISITOR_CREDENTIALS_PARAMS,
        answer=ACCOUNT,
        failures=("username_taken", "account_disabled", *_SIGNED_FAILURES),
    )
    def post_visitor_registration() -> Response:
        address = counted_address()
        params = read_signed(VISITOR_CREDENTIALS_PARAMS, "visitor_registrations")
        login = accounts.register(
            params["username"],
            params["password"],
            device=params["device"],
            address=address,
            device_id=params["deviceId"],
        )
        return ok(login)

    @blueprint.post("/api/visitorloginChat")
    @describe(
        "Log in on a visitor's device",
        access="anyone",
        params=VISITOR_CREDENTIALS_PARAMS,
        answer=ACCOUNT,
        failures=(*_LOGIN_FAILURES, *_SIGNED_FAILURES),
    )
    def post_visitor_login() -> Response:
        address = counted_address()
        params = read_signed(VISITOR_CREDENTIALS_PARAMS, "visitor_logins")
        login = accounts.log_in(params["username"], params["password"], device=params["device"], address=address)
        return ok(login)

    @blueprint.post("/api/admin/tokens")
    @describe(
        "Log in a user of the host application, who is made where he is new",
        access="server",
        params=EXTERNAL_PARAMS,
        answer=ACCOUNT,
        failures=("server_key_invalid", "account_disabled"),
    )
    def post_external() -> Response:
        check_server_key()
        params = read_params(EXTERNAL_PARAMS)
        profile = {name: params[name] for name in ("nickname", "avatar") if params[name]}
        login = accounts.enter_external(
            params["external_id"], profile, device=params["device"], address=proxies.of(request)
        )
        return ok(login)

    @blueprint.post("/api/chat/logout")
    @describe("End this session", access="visitor", params=NO_PARAMS, answer=truth())
    def post_logout() -> Response:
        accounts.leave(gatekeeper.caller())
        return ok(True)

    @blueprint.post("/api/chat/refresh")
    @describe("Let this session last anew, with a new token", access="visitor", params=NO_PARAMS, answer=ACCOUNT)
    def post_refresh() -> Response:
        return ok(logins.renew(gatekeeper.caller()))

    @blueprint.post("/api/chat/setPassword")
    @describe(
        "Change the password and end the sessions of all other devices",
        access="visitor",
        params=PASSWORD_PARAMS,
        answer="修改密码成功",
        failures=(
            "visitors_excluded",
            "passwords_differ",
            "password_of_visitor",
            "password_of_nobody",
            "old_password_wrong",
            "login_locked",
        ),
    )
    def post_password() -> Response:
        caller = gatekeeper.caller()
        try:
            params = read_params(PASSWORD_PARAMS)
        except InvalidParams:
            if caller.role == "visitor":
                raise ApiError("visitors_excluded") from None  # ORIG 1.5 comes before what a visitor got wrong here
            raise
        if params["newpassword"] != params["checknewpassword"]:
            raise ApiError("passwords_differ")
        if caller.role == "visitor":
            raise ApiError("password_of_visitor")
        accounts.change_password(caller, params["oldpassword"], params["newpassword"], address=proxies.of(request))
        return ok("修改密码成功")

    return blueprint
