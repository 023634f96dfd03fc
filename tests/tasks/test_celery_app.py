"""How workers and beat come back to a broker that was away."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from settings import load_settings
from tasks.celery_app import make_celery


@pytest.fixture
def nowhere() -> str:
    """The address of a broker that is away."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"amqp://guest:guest@127.0.0.1:{probe.getsockname()[1]}//"


class _Enough(Exception):
    pass


def test_a_broker_that_is_away_is_looked_for_every_second(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long: by itself kombu waits two seconds more each time, up to thirty, and gives up after a hundred times."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _seconds: None)
    celery = make_celery(replace(load_settings(), broker_url=nowhere))
    waits: list[float] = []

    def note(_error: Exception, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 150:
            raise _Enough

    with pytest.raises(_Enough):
        celery.connection_for_read().ensure_connection(note, celery.conf.broker_connection_max_retries)

    assert set(waits) == {1.0}
