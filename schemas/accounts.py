"""Parameters of registration, login and passwords (ORIG 1.7, 6.2), the visitor's signature, and the row that a login answers."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from schemas.answers import Exact, number, text
from schemas.params import Fault, IntParam, Params, TextParam
from schemas.profile import is_address
from schemas.times import local_text, utc_text

SIGNATURE_SECONDS = 300  # how far the timestamp of a signature may be off, either way (ORIG 1.7, E8)
TRAITS = ("uniplatform", "devicemodel", "deviceos", "devicebrand")
_SIGNATURE_SECRET = "APP_SECRET"  # ORIG appends this very text
_DEVICE_ID = re.compile(r"[A-Za-z0-9_-]{36}\Z")


def _device() -> TextParam:
    return TextParam("设备", min=1, max=64, default="default", is_strict=True)


class CredentialsParams(Params):
    username = TextParam("账号", min=4, max=20)
    password = TextParam("密码", min=6, max=20)
    device = _device()


class VisitorParams(Params):
    deviceId = TextParam("设备指纹", min=36, max=200)
    timestamp = IntParam("时间戳")
    # Not strict, as in ORIG: these are statistics, and no model's long name may keep its visitors out.
    uniplatform = TextParam("平台类型", min=2, max=50, default="")
    devicemodel = TextParam("设备型号", min=1, max=50, default="")
    deviceos = TextParam("操作系统", min=1, max=50, default="")
    devicebrand = TextParam("设备品牌", min=1, max=50, default="")
    device = _device()


class VisitorCredentialsParams(Params):
    username = TextParam("账号", min=4, max=20)
    password = TextParam("密码", min=6, max=20)
    deviceId = TextParam("设备指纹", min=36, max=200)
    timestamp = IntParam("时间戳")
    device = _device()


class PasswordParams(Params):
    oldpassword = TextParam("原始密码", min=1, max=200)
    newpassword = TextParam("新密码", min=6, max=20)
    checknewpassword = TextParam("确认新密码", min=1, max=200)


class AvatarParam(TextParam):
    """An address of a picture: http or https, or a path on this server. Nothing that a page could run."""

    def _fault(self, text: str) -> Fault | None:
        fault = super()._fault(text)
        if fault is None and not is_address(text, is_path_allowed=True):
            fault = Fault(
                f"{self.label} 的值必须是 http(s) 地址或以 / 开头的路径",
                f"`{self.name}` must be an http(s) address or a path that begins with /",
            )
        return fault


class ExternalParams(Params):
    external_id = TextParam("外部用户编号", min=1, max=128)
    nickname = TextParam("昵称", min=1, max=50, default="", is_strict=True)
    avatar = AvatarParam("头像", min=1, max=1000, default="", is_strict=True)
    device = _device()


class NoParams(Params):
    """Nothing but the token."""


class Account(Exact):
    """The row of the user who has logged in, with his token. What it has of others' services is always null here."""

    id = number()
    uuid = text()
    username = text()
    nickname = text()
    avatar = text()
    uniplatform = text()
    devicemodel = text()
    deviceos = text()
    devicebrand = text()
    userset = text(description="settings, a JSON text")
    invite_confirm = number(description="0: friends are made at once, 1: after approval")
    mobile = text(null=True)
    email = text(null=True)
    status = number(description="0 disabled, 1 normal, 2 locked")
    last_login = text(null=True, description="ISO 8601")
    last_login_ip = text(null=True)
    register_time = text(description="ISO 8601")
    register_ip = text(null=True)
    is_deleted = number()
    wechat_openid = text(null=True)
    qq_openid = text(null=True)
    weibo_uid = text(null=True)
    role = text(description="`user` or `visitor`")
    is_email_verified = number()
    is_mobile_verified = number()
    order = number()
    create_time = text(description="`YYYY-MM-DD HH:mm:ss`, the server's time")
    update_time = text(description="ISO 8601")
    token = text()


# Columns of ORIG that nothing here fills, so that its clients find what they may read.
_UNFILLED = {
    "is_deleted": 0,
    "wechat_openid": None,
    "qq_openid": None,
    "weibo_uid": None,
    "is_email_verified": 0,
    "is_mobile_verified": 0,
}

CREDENTIALS_PARAMS = CredentialsParams()
VISITOR_PARAMS = VisitorParams()
VISITOR_CREDENTIALS_PARAMS = VisitorCredentialsParams()
PASSWORD_PARAMS = PasswordParams()
EXTERNAL_PARAMS = ExternalParams()
NO_PARAMS = NoParams()
ACCOUNT = Account()


def show_account(row: Mapping[str, Any], token: str) -> dict[str, Any]:
    """Give what a login answers for a user's row."""
    shown: dict[str, Any] = {**_UNFILLED, **row, "token": token}
    for name, value in row.items():
        if isinstance(value, datetime):
            shown[name] = local_text(value) if name == "create_time" else utc_text(value)
    return {name: shown[name] for name in ACCOUNT.fields}


def visitor_signature(device_id: str, timestamp_ms: int, salt: str) -> str:
    """Return what `X-Security-Sign` must hold. It keeps simple robots away and proves nothing: the salt is in every client."""
    signed = f"deviceId={device_id}&salt={salt}&timestamp={timestamp_ms}{_SIGNATURE_SECRET}"
    return hashlib.sha256(signed.encode()).hexdigest()


def is_signed(signature: str, device_id: str, timestamp_ms: int, salt: str) -> bool:
    expected = visitor_signature(device_id, timestamp_ms, salt)
    return hmac.compare_digest(signature.encode(errors="replace"), expected.encode())


def is_timely(timestamp_ms: int, now_ms: int) -> bool:
    return abs(now_ms - timestamp_ms) <= SIGNATURE_SECONDS * 1000


def is_device_id(device_id: str) -> bool:
    return _DEVICE_ID.match(device_id) is not None
