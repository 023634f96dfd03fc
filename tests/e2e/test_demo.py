"""`make demo` on a running instance: what it makes, that a repeat makes nothing, and what it says where nothing runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.support.client import HttpClient
from tests.support.instance import Instance

_ROOT = Path(__file__).resolve().parents[2]
_PASSWORD = "hongyan-demo"


@pytest.fixture(scope="module")
def here() -> Iterator[Instance]:
    """An instance for people who register: on the shared one, tests give out the ids of users."""
    with Instance({"RATE_LIMIT_AUTH": "off"}) as instance:
        yield instance


def run_demo(environment: dict[str, str]) -> CompletedProcess[str]:
    """Run what `make demo` runs."""
    command = [sys.executable, "demo.py"]
    return subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=120)


def log_in(instance: Instance, username: str) -> dict[str, Any]:
    """Log in with the password that the demo prints."""
    account = {"username": username, "password": _PASSWORD, "device": "test"}
    status, body = HttpClient(instance.base, None).post("/api/loginChat", account)
    assert status == 200, body
    assert isinstance(body["data"], dict)
    return body["data"]


def _texts(client: HttpClient, chat_type: str, peer_id: int) -> list[str]:
    """Return what people have said in a conversation."""
    status, body = client.get(f"/api/chat/history?chatType={chat_type}&peer_id={peer_id}&limit=50")
    assert status == 200, body
    return [json.loads(m["data"])["data"] for m in body["data"]["messages"] if m["type"] == "text"]


def test_the_demo_fills_a_running_system_once(here: Instance) -> None:
    """It makes users, friends, a group and some chat; repeated it finds them, and nobody is told anything twice."""
    first = run_demo(here.environment)
    assert first.returncode == 0, first.stderr
    assert "made" in first.stdout
    lina, wang = log_in(here, "demo-lina"), log_in(here, "demo-wang")
    client = HttpClient(here.base, lina["token"])
    said = _texts(client, "single", wang["id"])
    _, body = client.get("/api/chat/grouplist/1?limit=100")
    groups = [(group["id"], group["name"]) for group in body["data"]]
    assert len(said) == 3
    assert [name for _, name in groups] == ["鸿雁读书会"]
    assert len(_texts(client, "group", groups[0][0])) == 3

    again = run_demo(here.environment)

    assert again.returncode == 0, again.stderr
    assert not [line for line in again.stdout.splitlines() if line.strip().startswith("made")]
    assert _PASSWORD in again.stdout
    assert f"{here.base}/docs" in again.stdout  # the address alone has nothing to show
    assert _texts(client, "single", wang["id"]) == said
    _, body = client.get("/api/chat/grouplist/1?limit=100")
    assert [(group["id"], group["name"]) for group in body["data"]] == groups


def test_the_demo_says_that_nothing_runs(here: Instance) -> None:
    """Where no system answers, the error names the address and the remedy."""
    done = run_demo({**here.environment, "PORT": "1"})

    assert done.returncode == 1
    assert "http://127.0.0.1:1" in done.stderr
    assert "make run" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_says_that_something_else_runs(here: Instance) -> None:
    """A port that another program has is told apart from one that nobody has."""
    done = run_demo({**here.environment, "PORT": str(here.flower_port)})

    assert done.returncode == 1
    assert "no Hongyan" in done.stderr


def test_the_demo_is_refused_in_production(here: Instance) -> None:
    done = run_demo({**here.environment, "HONGYAN_ENV": "production", "JWT_SECRET": "0123456789abcdef" * 2})

    assert done.returncode == 1
    assert "production" in done.stderr
