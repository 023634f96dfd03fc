"""QR codes that lead to a group or a user (ORIG 6.4 groupQrcode): what they say, and their picture."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Literal

import orjson
import segno

from webapp.origins import normal_origin
from webapp.uri import encode_uri_component

_PAGE = "/pages/setpageInfo/setpageInfo"
# No query, fragment, user or blanks: what is put behind it must stay the path of this very page.
_ADDRESS = re.compile(r"(?P<origin>https?://[a-z0-9.\-]+(:\d{1,5})?|https?://\[[0-9a-f:]+\](:\d{1,5})?)(/[\w.~%\-/]*)?")
_MAX_LINK = 800  # characters: 46 ms of work, and about as fine a picture as telephones read


def is_allowed(address: str, allowed_origins: Sequence[str], own_host: str) -> bool:
    """Return whether a code may lead to this address: one of the allowed origins, or this very server (F18)."""
    match = _ADDRESS.fullmatch(address.lower())
    if match is None:
        return False
    own = (f"{scheme}://{own_host}" for scheme in ("http", "https"))
    allowed = {normal_origin(each.strip().rstrip("/").lower()) for each in (*allowed_origins, *own)}
    return normal_origin(match["origin"]) in allowed - {None}


def link(address: str, chat_type: Literal["single", "group"], subject_id: int, name: str, avatar: str) -> str:
    """Give the link that opens the page where one joins the group or befriends the user."""
    title = "群介绍" if chat_type == "group" else f"加用户[{name}]为好友"
    query = f"action=autoAddGroup&title={encode_uri_component(title)}&id={subject_id}&chatType={chat_type}&name={encode_uri_component(name)}"
    found = f"{address}#{_PAGE}?{query}"
    with_avatar = f"{found}&avatar={encode_uri_component(avatar)}"
    return with_avatar if avatar and len(with_avatar) <= _MAX_LINK else found


def card(subject_id: int, name: str) -> str:
    """Give the text that tells the group or user itself, for readers that are no web page."""
    return orjson.dumps({"id": subject_id, "name": name}).decode()


def picture(text: str) -> bytes:
    """Draw a QR code as PNG. It takes up to a tenth of a second of pure computation."""
    code = segno.make_qr(text, error="m", mode="byte", encoding="utf-8", boost_error=False)
    drawn = io.BytesIO()
    code.save(drawn, kind="png", scale=6, border=4)
    return drawn.getvalue()
