"""Which pages may connect, as a table: our own, whatever a trusted proxy calls us, and those of the setting."""

from __future__ import annotations

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request as WerkzeugRequest

from settings import SettingsError
from webapp.address import Proxies
from webapp.origins import Origins, Refusals, normal_origin

_PROXY, _STRANGER = "10.0.0.1", "203.0.113.9"


def _request(
    origin: str | None, *, host: str = "chat.test", peer: str = _STRANGER, **forwarded: str
) -> WerkzeugRequest:
    headers = {"Host": host} | {f"X-Forwarded-{name.title()}": value for name, value in forwarded.items()}
    if origin is not None:
        headers["Origin"] = origin
    environ = EnvironBuilder(path="/ws", headers=list(headers.items())).get_environ()
    return WerkzeugRequest(environ | {"REMOTE_ADDR": peer, "HTTP_HOST": host})


@pytest.mark.parametrize(
    ("request_", "is_admitted"),
    [
        (_request(None), True),
        (_request("http://chat.test"), True),
        (_request("http://chat.test:80"), True),
        (_request("http://CHAT.test"), True),
        (_request("http://chat.test", host="chat.test:80"), True),
        (_request("http://chat.test:8000", host="chat.test:8000"), True),
        (_request("http://[::1]:8000", host="[::1]:8000"), True),
        (_request("http://chat.test:8000"), False),
        (_request("https://chat.test"), False),
        (_request("http://evil.test"), False),
        (_request("http://chat.test.evil.test"), False),
        (_request("http://chat.test@evil.test"), False),
        (_request("http://chat.test/path"), False),
        (_request("null"), False),
        (_request(""), False),
        (_request("http://"), False),
        (_request("http://chat.test:port"), False),
        (_request("https://allowed.test"), True),
        (_request("https://allowed.test:443"), True),
        (_request("http://allowed.test"), False),
        (_request("https://allowed.test:8443"), False),
        (_request("http://localhost:3000"), True),
        (_request("https://chat.test", peer=_PROXY, proto="https"), True),
        (_request("https://public.test", peer=_PROXY, proto="https"), False),
        (_request("https://chat.test", peer=_STRANGER, proto="https"), False),
        (_request("http://chat.test", peer=_PROXY, proto="https"), False),
        (_request("https://chat.test", peer=_PROXY, proto="http, https"), True),
        (_request("https://chat.test", host="inner:8000", peer=_PROXY, proto="https"), False),
    ],
)
def test_origins_as_a_table(request_: WerkzeugRequest, is_admitted: bool) -> None:
    """Scheme, host and port must all be ours or listed."""
    origins = Origins(("https://allowed.test", "http://localhost:3000/"), Proxies(["10.0.0.0/8"]))

    assert origins.admits(request_) is is_admitted  # type: ignore[arg-type]


def test_a_trusted_proxy_says_what_it_was_asked_for() -> None:
    """Behind a proxy the browser knows another host than the one that reaches us."""
    request = _request("https://public.test", host="inner:8000", peer=_PROXY, proto="https")
    request.environ["HTTP_X_FORWARDED_HOST"] = "public.test"

    assert Origins((), Proxies([_PROXY])).admits(request)  # type: ignore[arg-type]
    assert not Origins((), Proxies([])).admits(request)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["*", "chat.example.com", "https://chat.example.com/path", "null", "https://*.example.com"]
)
def test_what_is_no_origin_is_refused_at_the_start(text: str) -> None:
    """A setting that cannot be meant like that names itself."""
    with pytest.raises(SettingsError, match="ALLOWED_ORIGINS"):
        Origins((text,), Proxies([]))


def test_an_origin_has_one_spelling() -> None:
    """Default ports and letter case make no difference."""
    assert normal_origin("HTTPS://Chat.Example.com") == normal_origin("https://chat.example.com:443")


def test_a_refused_origin_is_named_once_an_hour() -> None:
    """Not with each request; and a hundred that somebody made up are enough."""
    refusals = Refusals()

    assert [refusals.is_news("https://a.test", now) for now in (5.0, 6.0, 3604.0, 3605.0)] == [True, False, False, True]
    assert sum(refusals.is_news(f"https://{number}.test", 3606.0) for number in range(1_000)) == 99
    assert refusals.is_news("https://late.test", 7206.0)
