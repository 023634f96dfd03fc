"""Where webhooks may be posted: no address inside of our own network but those that the operator allows.

A name is resolved here and nowhere else: whoever connects is given the addresses that were looked at, since a name may
resolve to another one a moment later (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading
from collections.abc import Sequence
from typing import Literal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Reason = Literal["webhook_host_unknown", "webhook_target_refused"]

# A name server that does not answer is given up by the system some 30 s later; nobody waits for that here.
_LOOK_UP_SECONDS = 5.0
# Not `is_global`: of a Python that is a year old it does not know all of these, and it takes multicast for global.
# IANA's registries of special-purpose addresses, and multicast.
_REFUSED_4 = [
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' address translation
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and the metadata of clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
]
# All that is public lies here; loopback, private, link-local and multicast addresses lie elsewhere.
_UNICAST_6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_6 = [
    ipaddress.IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "3fff::/20")  # with Teredo in the first
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class TargetRefused(Exception):
    """Nothing may be posted there: the code says why."""

    def __init__(self, code: Reason) -> None:
        super().__init__(code)
        self.code = code


def find_addresses(host: str, port: int, allowed: Sequence[str]) -> list[str]:
    """Return the addresses of a host, as they are to be connected to. Raises TargetRefused.

    allowed: networks, of which private addresses too may be used. Where one of several addresses is refused, all are:
    which one is used would be up to chance.
    """
    addresses = _look_up(host, port)
    if not addresses:
        raise TargetRefused("webhook_host_unknown")
    networks = [ipaddress.ip_network(text, strict=False) for text in allowed]
    if not all(is_allowed(ipaddress.ip_address(address), networks) for address in addresses):
        raise TargetRefused("webhook_target_refused")
    return addresses


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Return whether an address is public, or in one of the networks; of IPv4 inside of IPv6 that is what counts."""
    inner = _inner(address)
    if inner is not None:
        return is_allowed(inner, allowed)
    if any(address in network for network in allowed):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_4)
    return address in _UNICAST_6 and not any(address in network for network in _REFUSED_6)


def _inner(address: Address) -> Address | None:
    """Return the address of IPv4 to which one of IPv6 leads: mapped, 6to4 or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _look_up(host: str, port: int) -> list[str]:
    """Return a host's addresses, none where it is unknown or nobody says in time."""
    answers: queue.Queue[list[str]] = queue.Queue()
    try:
        host.encode("idna")
    except UnicodeError:
        return []  # an empty label, or one that is too long: in a web process gevent would log it as a crash of its own

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            found = []
        answers.put(list(dict.fromkeys(str(address[0]) for *_, address in found)))

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=_LOOK_UP_SECONDS)
    except queue.Empty:
        return []
