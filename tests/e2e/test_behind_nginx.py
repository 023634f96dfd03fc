"""What docs/operations.md tells of nginx is all that it takes: requests, websockets, origins and addresses pass as they should.

Skipped where there is no nginx, in CI too: what is tested is the page more than the program.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import InstanceFactory
from tests.support.client import ChatSocket, HttpClient
from tests.support.instance import Instance, free_ports, wait_until
from tests.support.websocket import HandshakeRefused

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
_NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


class _Proxied:
    def __init__(self, instance: Instance, base: str, folder: Path) -> None:
        self.instance, self.base, self.folder = instance, base, folder


@pytest.fixture
def proxied(fresh_instance: InstanceFactory, tmp_path: Path) -> Iterator[_Proxied]:
    """An instance, and an nginx before it that is configured word for word as the page says, but for its addresses."""
    if _NGINX is None:
        pytest.skip("no nginx")
    instance = fresh_instance(TRUSTED_PROXIES="127.0.0.1")
    instance.seed(2, 0)
    (port,) = free_ports(1)
    (told,) = re.findall("```nginx\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    for original, ours in (
        ("listen 80;", f"listen 127.0.0.1:{port};"),
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{instance.port};"),
        ("/var/log/nginx/hongyan.log", f"{tmp_path}/access.log"),
    ):
        assert told.count(original) == 1
        told = told.replace(original, ours)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in kinds)
    config = tmp_path / "nginx.conf"
    config.write_text(f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\n{folders}{told}}}\n")
    errors = tmp_path / "errors.log"
    server = subprocess.Popen([_NGINX, "-e", errors, "-c", config, "-g", "daemon off; master_process off;"])
    base = f"http://127.0.0.1:{port}"
    try:
        assert wait_until(lambda: _answers(base), 10.0), errors.read_text()
        yield _Proxied(instance, base, tmp_path)
    finally:
        server.terminate()
        server.wait(10)


def _answers(base: str) -> bool:
    try:
        return HttpClient(base, None).get("/readyz")[0] == 200
    except OSError:
        return False


def test_nginx_as_the_page_configures_it(proxied: _Proxied) -> None:
    """Sends, websockets of its own origin only, refusals in the envelope, no scrape by strangers, no token in its log."""
    base, tokens = proxied.base, proxied.instance.tokens
    with ChatSocket(base, tokens[2], 2, origin=base) as socket:
        socket.wait_for(lambda frame: frame.data.get("type") == "hello")
        assert HttpClient(base, tokens[1]).send(2, "through nginx")[0] == 200
        socket.wait_for_text("through nginx")
    with pytest.raises(HandshakeRefused):
        ChatSocket(base, tokens[2], 2, origin="http://elsewhere.example")

    status, body = HttpClient(base, tokens[1]).send(
        2, "x" * 300_000
    )  # of more than twice BODY_MAX_BYTES nginx may say 502
    assert (status, body["code"]) == (413, "too_large")
    assert HttpClient(base, None).get("/metrics")[0] == 401
    log = (proxied.folder / "access.log").read_text()
    assert "GET /ws" in log
    assert tokens[2] not in log
