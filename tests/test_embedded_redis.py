"""The embedded Redis, started for real: it keeps what it answered, wherever its data lies and however it ends."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from embedded_redis import EmbeddedRedisError, check_version, redis_server_binary, write_config
from settings import Settings, load_settings
from tests.support.instance import wait_until


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the test's own with a name short enough for sockets, also in the role of the temporary folder."""
    folder = Path(tempfile.mkdtemp(prefix="hy-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("REDIS_URL", "")
    yield folder
    shutil.rmtree(folder)


def _settings(monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> Settings:
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    return load_settings()


@contextlib.contextmanager
def _running(settings: Settings) -> Iterator[tuple[subprocess.Popen[bytes], redis.Redis]]:
    process = subprocess.Popen([redis_server_binary(), write_config(settings)], stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=str(settings.redis_socket), socket_timeout=5, decode_responses=True)
    try:
        assert wait_until(lambda: _answers(client), 10.0)
        yield process, client
    finally:
        client.close()
        process.kill()
        process.wait()


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


@pytest.mark.parametrize("name", ["data", 'a "b" c\\d', "鸿雁 100%", "long" * 30])
def test_an_answered_write_survives_a_kill_and_a_stale_socket(
    monkeypatch: pytest.MonkeyPatch, short_folder: Path, name: str
) -> None:
    settings = _settings(monkeypatch, short_folder / name)
    with _running(settings) as (_, client):
        client.set("kept", "yes")
    assert settings.redis_socket.exists()

    with _running(settings) as (_, client):
        assert client.get("kept") == "yes"


def test_it_listens_for_its_owner_on_a_socket_only(monkeypatch: pytest.MonkeyPatch, short_folder: Path) -> None:
    settings = _settings(monkeypatch, short_folder / ("long" * 30))

    with _running(settings) as (_, client):
        assert client.config_get("port") == {"port": "0"}
        assert settings.redis_socket.stat().st_mode & 0o077 == 0
        assert settings.redis_socket.parent.stat().st_mode & 0o077 == 0


def test_it_neither_evicts_nor_answers_before_the_disk(monkeypatch: pytest.MonkeyPatch, short_folder: Path) -> None:
    settings = _settings(monkeypatch, short_folder / "data")

    with _running(settings) as (_, client):
        answer = client.config_get("*")

    assert isinstance(answer, dict)
    assert answer["appendonly"] == "yes"
    assert answer["appendfsync"] == "always"
    assert answer["maxmemory-policy"] == "noeviction"
    assert answer["auto-aof-rewrite-percentage"] != "0"
    assert answer["save"] == ""


@pytest.mark.parametrize("what", ["a folder open to others", "a link"])
def test_a_socket_folder_that_is_not_ours_alone_is_refused(
    monkeypatch: pytest.MonkeyPatch, short_folder: Path, what: str
) -> None:
    settings = _settings(monkeypatch, short_folder / ("long" * 30))
    folder = settings.redis_socket.parent
    if what == "a link":
        (short_folder / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(short_folder / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)

    with pytest.raises(EmbeddedRedisError, match="not a folder of ours"):
        write_config(settings)


def test_without_a_server_the_error_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")

    with pytest.raises(EmbeddedRedisError, match="REDIS_URL"):
        redis_server_binary()


@pytest.mark.parametrize(
    ("version", "is_data_of_redis_7", "refusal"),
    [
        ("6.0.16", False, "oldest that serves"),
        ("6.2.14", True, "written by Redis 7 or newer"),
        ("6.2.14", False, None),
        ("7.4.1", True, None),
        ("9.0.0", False, None),
    ],
)
def test_a_server_is_refused_that_is_too_old_for_us_or_for_the_data(
    monkeypatch: pytest.MonkeyPatch, short_folder: Path, version: str, is_data_of_redis_7: bool, refusal: str | None
) -> None:
    settings = _settings(monkeypatch, short_folder / "data")
    (settings.data_dir / "redis").mkdir()
    if is_data_of_redis_7:
        (settings.data_dir / "redis" / "appendonlydir").mkdir()
    binary = short_folder / "redis-server"
    binary.write_text(f'#!/bin/sh\necho "Redis server v={version} sha=00000000:0 malloc=libc bits=64"\n')
    binary.chmod(0o700)

    if refusal is None:
        check_version(binary, settings)
    else:
        with pytest.raises(EmbeddedRedisError, match=refusal):
            check_version(binary, settings)
