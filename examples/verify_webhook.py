"""Verifies that a webhook comes from Hongyan, with nothing but Python's own library (docs/webhooks.md)."""

import base64
import hmac
import time
from collections.abc import Mapping


def verify(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Say whether a POST was signed with our secret within five minutes. headers: names in lower case; body: as it came."""
    sent_at = headers.get("webhook-timestamp", "")
    if not sent_at.isdecimal() or abs(time.time() - int(sent_at[:15])) > 300:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers.get('webhook-id', '')}.{sent_at}.".encode() + body
    expected = b"v1," + base64.b64encode(hmac.digest(key, signed, "sha256"))
    return any(hmac.compare_digest(expected, given.encode()) for given in headers.get("webhook-signature", "").split())
