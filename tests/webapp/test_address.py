"""Whose address a request has: forwarding headers count as far as trusted proxies have written them."""

from __future__ import annotations

import pytest

from settings import SettingsError, load_settings
from webapp.address import UNKNOWN, Proxies, counted

_TRUSTED = ("127.0.0.1", "10.0.0.0/8", "2001:db8::/32")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        # nobody is believed who is no proxy
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        # one proxy, several, and what the client himself has written before them
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("127.0.0.1", "198.51.100.1, 10.1.2.3", "198.51.100.1"),
        ("127.0.0.1", "1.1.1.1, 198.51.100.1, 10.1.2.3", "198.51.100.1"),
        ("127.0.0.1", "10.9.9.9,10.1.2.3", "10.9.9.9"),
        # what is no address ends the walk at the last that is known
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.1, nonsense", "127.0.0.1"),
        ("127.0.0.1", "nonsense, 10.1.2.3", "10.1.2.3"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        # spellings
        ("127.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("127.0.0.1", "[2001:db9::1]:4711", "2001:db9::1"),
        ("127.0.0.1", '"[2001:db9::1]"', "2001:db9::1"),
        ("127.0.0.1", "2001:DB9:0:0::1", "2001:db9::1"),
        ("127.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("::ffff:127.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8::5", "198.51.100.1", "198.51.100.1"),
        ("fe80::1%eth0", None, "fe80::1"),
        # a unix socket
        ("", "198.51.100.1", UNKNOWN),
        (None, "198.51.100.1", UNKNOWN),
    ],
)
def test_the_last_hop_that_is_no_proxy_is_the_client(peer: str | None, forwarded: str | None, client: str) -> None:
    """Walking from us outwards."""
    assert Proxies(_TRUSTED).client_address(peer, forwarded) == client


def test_without_proxies_the_peer_is_the_client() -> None:
    """Nothing is trusted unless it is named."""
    assert Proxies(()).client_address("127.0.0.1", "198.51.100.1") == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "under"),
    [
        ("198.51.100.1", "198.51.100.1"),
        ("2001:db9:1:2:3:4:5:6", "2001:db9:1:2::/64"),
        ("2001:db9:1:2:ffff::1", "2001:db9:1:2::/64"),
        (UNKNOWN, UNKNOWN),
    ],
)
def test_a_subscriber_is_counted_once(address: str, under: str) -> None:
    """All addresses of an IPv6 /64 are one client's."""
    assert counted(address) == under


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRUSTED_PROXIES", "10.0.0.0/8,nonsense"),
        ("TRUSTED_PROXIES", "10.0.0.0/40"),
        ("RATE_LIMIT_SENDS", "fast"),
        ("RATE_LIMIT_AUTH", "0 per second"),
        ("RATE_LIMIT_FRAMES", "5 per second; 9 per hour"),
    ],
)
def test_a_malformed_setting_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The start is refused with the name of the variable."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path_factory.mktemp("data")))
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=name):
        load_settings()


def test_rates_and_networks_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """As the library spells them, or off."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path_factory.mktemp("data")))
    monkeypatch.setenv("TRUSTED_PROXIES", "127.0.0.1, 10.1.2.3/8,")
    monkeypatch.setenv("RATE_LIMIT_SENDS", "off")
    monkeypatch.setenv("RATE_LIMIT_AUTH", "10/minute")

    settings = load_settings()

    assert settings.trusted_proxies == ("127.0.0.1", "10.1.2.3/8")
    assert (settings.rate_limit_sends, settings.rate_limit_auth) == ("off", "10/minute")
