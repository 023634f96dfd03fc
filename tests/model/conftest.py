"""Fixtures of the model tests: one embedded Redis for the session, and a rig on each database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from logs import configure_logs
from models.database import Database
from tests.model.rig import RedisServer, Rig, migrate, open_rig_database, raising_greenlets

MakeRig = Callable[..., Rig]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A private Redis. Whoever uses it empties it first."""
    server = RedisServer()
    configure_logs(server.settings.log_level)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sqlite_database(redis_server: RedisServer) -> Iterator[Database]:
    """A SQLite file with the real schema. Whoever uses it deletes the rows first."""
    migrate(redis_server.settings.database_url)
    database = open_rig_database(redis_server.settings.database_url)
    yield database
    database.engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def rig_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Each database in turn."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_database")
        return
    url = str(request.getfixturevalue("postgres_url"))
    migrate(url)
    database = open_rig_database(url)
    yield database
    database.engine.dispose()


@pytest.fixture
def make_rig(redis_server: RedisServer, rig_database: Database) -> Iterator[MakeRig]:
    """Make rigs with changed settings, one after the other: each begins with everything emptied."""

    def make(*, user_count: int = 3, **changed_settings: object) -> Rig:
        made = Rig(redis_server, rig_database, **changed_settings)
        made.reset(user_count)
        return made

    with raising_greenlets() as errors:
        yield make
    assert not errors


@pytest.fixture
def rig(make_rig: MakeRig) -> Rig:
    """A rig with the usual settings."""
    return make_rig()
