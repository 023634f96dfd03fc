"""The append-only file of a real Redis is rewritten when it is long, whatever Redis itself makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from models.store import upkeep
from models.store.connection import Client, run
from settings import load_settings
from tasks.celery_app import make_celery
from tasks.registration import register_tasks
from tests.support.instance import wait_until

_SLACK_BYTES = 200_000


def _file(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.info("persistence")
    return found


def test_a_long_file_of_few_data_is_rewritten(keeping: Client) -> None:
    """Then it is short, and nothing is due; the data are still there."""
    assert not upkeep.compact(keeping, _SLACK_BYTES)
    run(keeping, [("SET", "overwritten", f"{number} " + "x" * 1_000) for number in range(1_000)])
    assert _file(keeping)["aof_current_size"] > 5 * _SLACK_BYTES

    assert upkeep.compact(keeping, _SLACK_BYTES)

    assert wait_until(lambda: _file(keeping)["aof_current_size"] < _SLACK_BYTES, 20.0)
    assert wait_until(lambda: not _file(keeping)["aof_rewrite_in_progress"], 20.0)
    assert not upkeep.compact(keeping, _SLACK_BYTES)
    assert str(keeping.get("overwritten")).count("999 ") == 1


def test_a_long_file_of_many_data_stays(keeping: Client) -> None:
    """Writing it again would save nothing."""
    run(keeping, [("SET", f"kept {number}", "x" * 1_000) for number in range(300)])
    assert _file(keeping)["aof_current_size"] > _SLACK_BYTES

    assert not upkeep.compact(keeping, _SLACK_BYTES)


def test_what_a_redis_may_lose_is_told(keeping: Client) -> None:
    """A server as it comes keeps nothing; one that does not let us ask is taken at its operator's word."""
    assert upkeep.shortcomings(keeping) == []

    for name, value in {"appendonly": "no", "appendfsync": "everysec", "maxmemory-policy": "allkeys-lru"}.items():
        keeping.config_set(name, value)
    assert upkeep.shortcomings(keeping) == ["appendonly no", "appendfsync everysec", "maxmemory-policy allkeys-lru"]

    run(keeping, [("ACL", "SETUSER", "default", "-config")])
    assert upkeep.shortcomings(keeping) == []


def test_looking_after_it_keeps_one_connection(
    client: Client, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tasks run for as long as the worker lives. What this Redis may lose is told once."""
    for name, value in {"DATA_DIR": str(tmp_path), "REDIS_URL": redis_url, "CELERY_BROKER_URL": ""}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    with make_celery(settings) as celery, structlog.testing.capture_logs() as logged:
        register_tasks(celery, settings)
        before = client.info("stats")["total_connections_received"]

        assert [celery.tasks["compact_store"]() for _ in range(5)] == [False] * 5
        assert all("appendonly no" in celery.tasks["look_at_store"]() for _ in range(5))

        assert client.info("stats")["total_connections_received"] == before + 1

    told = [line for line in logged if line["event"] == "redis_may_lose_messages"]
    assert [line["log_level"] for line in told] == ["error"]


@pytest.mark.parametrize(("given", "task"), [("", "compact_store"), ("redis://127.0.0.1", "look_at_store")])
def test_a_redis_of_ones_own_is_looked_at_and_not_compacted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, task: str
) -> None:
    for name, value in {"DATA_DIR": str(tmp_path), "REDIS_URL": given, "CELERY_BROKER_URL": ""}.items():
        monkeypatch.setenv(name, value)

    scheduled = {each["task"] for each in make_celery(load_settings()).conf.beat_schedule.values()}

    assert scheduled & {"compact_store", "look_at_store"} == {task}
