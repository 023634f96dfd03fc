"""Links as the original's pages read them."""

from __future__ import annotations

from urllib.parse import quote


def encode_uri_component(text: str) -> str:
    """Percent-encode as JavaScript's encodeURIComponent does, which built the original's links."""
    return quote(text, safe="!~*'()")
