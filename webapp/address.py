"""The address of whoever makes a request: forwarding headers are believed only as far as trusted proxies have written them.

Counters use `counted`, where an IPv6 client is his /64: one subscriber owns all addresses of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from flask import Request

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_IPV6_SUBSCRIBER_BITS = 64
UNKNOWN = "unknown"  # a peer without an address: a unix socket


class Proxies:
    """The proxies whose `X-Forwarded-For` counts. trusted: addresses or networks, checked by `settings.py`."""

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(text, strict=False) for text in trusted]

    def client_address(self, peer: str | None, forwarded: str | None) -> str:
        """Return the last hop that is none of the proxies; `UNKNOWN` where the peer has no address.

        peer: who is connected to us. forwarded: the content of `X-Forwarded-For`, its lines joined by commas.
        """
        address = _parse(peer or "")
        if address is None:
            return UNKNOWN
        for hop in reversed((forwarded or "").split(",")):
            if not self._is_trusted(address):
                break
            before = _parse(hop)
            if before is None:
                break  # what a proxy wrote there is no address, so the proxy is the last that we know
            address = before
        return str(address)

    def _is_trusted(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)

    def trusts(self, peer: str | None) -> bool:
        """Return whether whoever is connected to us is one of the proxies."""
        address = _parse(peer or "")
        return address is not None and self._is_trusted(address)

    def of(self, request: Request) -> str:
        """Return the address of a request's client."""
        return self.client_address(request.remote_addr, request.headers.get("X-Forwarded-For"))


def counted(address: str) -> str:
    """Return what a client's requests are counted under: his IPv4 address, the /64 of his IPv6 address."""
    parsed = _parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _IPV6_SUBSCRIBER_BITS), strict=False))
    return address


def _parse(text: str) -> _Address | None:
    """Read an address as headers have it: with a port, in brackets, an IPv4 one mapped to IPv6, with a zone."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
