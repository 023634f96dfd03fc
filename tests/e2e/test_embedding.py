"""The examples as they stand: the client of README.md, and the host application of docs/embedding.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.e2e.test_demo import log_in, run_demo
from tests.support.client import HttpClient
from tests.support.instance import Instance

_ROOT = Path(__file__).resolve().parents[2]
_DEFAULT = "127.0.0.1:8000"


@pytest.fixture(scope="module")
def here() -> Iterator[Instance]:
    """An instance for people who register: on the shared one, tests give out the ids of users."""
    with Instance({"RATE_LIMIT_AUTH": "off"}) as instance:
        yield instance


def _run(script: str, **environment: str) -> CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)


def _server_key(instance: Instance) -> str:
    return (instance.data_dir / "server_api_key").read_text().strip()


def _embed(instance: Instance, key: str) -> CompletedProcess[str]:
    script = (_ROOT / "examples" / "embed.py").read_text()
    return _run(script, SERVER_API_KEY=key, HONGYAN_URL=instance.base)


def test_the_readmes_client_talks(here: Instance) -> None:
    """After `make demo` it sends a message and receives it, as often as it is run."""
    assert run_demo(here.environment).returncode == 0
    script = (_ROOT / "examples" / "hello.py").read_text()
    assert script.count(_DEFAULT) == 2

    for _ in range(2):
        done = _run(script.replace(_DEFAULT, f"127.0.0.1:{here.port}"))

        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith(log_in(here, "demo-lina")["nickname"])
        assert "hi" in done.stdout.splitlines()[-1]


def test_a_host_application_logs_in_its_own_users(here: Instance) -> None:
    """Its two users talk over a ticket's socket; run again, they are the same users."""
    for _ in range(2):
        done = _embed(here, _server_key(here))

        assert done.returncode == 0, done.stdout + done.stderr
        assert "Customer asks: " in done.stdout.splitlines()[-1]


def test_a_host_application_without_the_key_is_told(here: Instance) -> None:
    done = _embed(here, "wrong")

    assert done.returncode == 1
    assert "server_key_invalid" in done.stderr


def test_an_embedded_user_is_one_user(here: Instance) -> None:
    """The same external id gives the same user, with the name that the host application gave last."""
    headers = {"Authorization": f"Bearer {_server_key(here)}"}
    found = []
    for nickname in ("Old name", "New name"):
        params = {"external_id": "embedding-test", "nickname": nickname}
        status, body = HttpClient(here.base, None).call("POST", "/api/admin/tokens", params, headers)
        assert status == 200, body
        found.append((body["data"]["id"], body["data"]["nickname"]))

    assert found[0][0] == found[1][0]
    assert [nickname for _, nickname in found] == ["Old name", "New name"]


@pytest.mark.parametrize(("page", "example"), [("README.md", "hello.py"), ("docs/embedding.md", "embed.py")])
def test_a_page_shows_the_example_as_it_is_tested(page: str, example: str) -> None:
    """The code block of the page is the file, word for word."""
    blocks = re.findall(r"^```python\n(.*?)^```", (_ROOT / page).read_text(), re.MULTILINE | re.DOTALL)

    assert (_ROOT / "examples" / example).read_text() in blocks


def test_the_example_of_embedding_is_short() -> None:
    assert len((_ROOT / "examples" / "embed.py").read_text().splitlines()) < 40
