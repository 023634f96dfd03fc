"""A private Redis for the tests of the store: real, empty, without persistence. Each test takes ids of its own."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedded_redis import redis_server_binary
from models.errors import StoreUnavailable
from models.store.connection import Client, connect, run
from tests.support.instance import wait_until

_ids = itertools.count(1)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the private Redis answers."""
    folder = tmp_path_factory.mktemp("redis")
    socket = Path("/tmp") / f"hy-store-{folder.parent.name}-{id(folder):x}.sock"  # a socket's path must be short
    arguments = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    server = subprocess.Popen([redis_server_binary(), *arguments], stdout=subprocess.DEVNULL)
    url = f"unix://{socket}?db=0"
    client = connect(url)
    try:
        assert wait_until(lambda: _answers(client), 10.0), "the private Redis does not answer"
        yield url
    finally:
        server.terminate()
        server.wait(10)
        socket.unlink(missing_ok=True)


def _answers(client: Client) -> bool:
    try:
        return bool(run(client, [("PING",)]))
    except StoreUnavailable:
        return False


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    """A client of the private Redis, as the product makes it."""
    made = connect(redis_url)
    yield made
    made.close()


@pytest.fixture
def user_id() -> int:
    """A user of whom no other test knows."""
    return next(_ids)


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Client]:
    """A client of a Redis with an append-only file, which was started just now."""
    socket = Path("/tmp") / f"hy-aof-{id(tmp_path):x}.sock"  # a socket's path must be short
    arguments = [
        "--port",
        "0",
        "--unixsocket",
        str(socket),
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",  # else a write may stand behind a sync that is under way, and the file's size behind the write
        "always",
        "--dir",
        str(tmp_path),
    ]
    server = subprocess.Popen([redis_server_binary(), *arguments], stdout=subprocess.DEVNULL)
    client = connect(f"unix://{socket}?db=0")
    try:
        assert wait_until(lambda: _answers(client), 10.0)
        yield client
    finally:
        client.close()
        server.terminate()
        server.wait(10)
        socket.unlink(missing_ok=True)
