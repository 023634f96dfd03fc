"""The append-only file of a real Redis is rewritten when it is long, whatever Redis itself makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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


def test_looking_after_it_keeps_one_connection(
    client: Client, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task runs every ten seconds for as long as the worker lives."""
    for name, value in {"DATA_DIR": str(tmp_path), "REDIS_URL": redis_url, "CELERY_BROKER_URL": ""}.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    with make_celery(settings) as celery:
        register_tasks(celery, settings)
        before = client.info("stats")["total_connections_received"]

        assert [celery.tasks["compact_store"]() for _ in range(5)] == [False] * 5

        assert client.info("stats")["total_connections_received"] == before + 1
