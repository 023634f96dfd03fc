"""Fixtures that more than one folder of tests needs: whole instances, and the servers that some tests want beside them.

A server that is missing skips its tests locally and fails them in CI, so that nothing is skipped there in silence.
"""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Generator, Iterator
from typing import NoReturn
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.support.instance import Instance

_POSTGRES_SERVER = os.environ.get("TEST_POSTGRES_SERVER", "postgresql://postgres@127.0.0.1:5432")
_RABBITMQ_SERVER = os.environ.get("TEST_RABBITMQ_SERVER", "amqp://guest:guest@127.0.0.1:5672")
_SHARED_USERS = 60
_SHARED_GROUP = 20


class InstanceFactory:
    """Starts instances, and remembers which."""

    def __init__(self) -> None:
        self.started: list[Instance] = []

    def __call__(self, **environment: str) -> Instance:
        """Start an instance with these environment variables. Raises InstanceFailed."""
        instance = Instance(environment)
        self.started.append(instance)
        instance.start()
        return instance


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def instance() -> Iterator[Instance]:
    """One instance for all tests that behave: friends 2i-1 and 2i, group 1 of users 1 to 21. Take users from `friends`."""
    with Instance() as shared:
        shared.seed(_SHARED_USERS, _SHARED_GROUP)
        yield shared


@pytest.fixture(scope="session")
def _pairs() -> Iterator[tuple[int, int]]:
    """Hand out the pairs outside the group first."""
    outside = [(user_id, user_id + 1) for user_id in range(_SHARED_GROUP + 3, _SHARED_USERS, 2)]
    return itertools.cycle(outside)


@pytest.fixture
def friends(_pairs: Iterator[tuple[int, int]]) -> tuple[int, int]:
    """Two friends on the shared instance that no other test uses at this time."""
    return next(_pairs)


@pytest.fixture
def fresh_instance() -> Iterator[InstanceFactory]:
    """Start instances of one's own, given extra environment variables by name. All are stopped at the end of the test."""
    factory = InstanceFactory()
    yield factory
    for instance in factory.started:
        try:
            instance.stop()
        finally:
            instance.delete()


@pytest.fixture
def postgres_url() -> Iterator[str]:
    """A database of one's own on a real PostgreSQL, as SQLAlchemy spells it."""
    name = f"hongyan_test_{uuid.uuid4().hex[:12]}"
    try:
        connection = psycopg.connect(f"{_POSTGRES_SERVER}/postgres", autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        _missing(f"no PostgreSQL answers at {_POSTGRES_SERVER}: {error}")
    with connection:
        connection.execute(f'CREATE DATABASE "{name}"')
        try:
            yield f"{_POSTGRES_SERVER.replace('postgresql://', 'postgresql+psycopg://')}/{name}"
        finally:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each database in turn; empty = SQLite in the data folder."""
    return str(request.getfixturevalue("postgres_url")) if request.param == "postgresql" else ""


@pytest.fixture
def rabbitmq_url() -> Iterator[str]:
    """A real RabbitMQ, in a virtual host of one's own where `rabbitmqctl` can make one.

    Elsewhere the default one serves: tests run one after the other, and a bell left over from another test is harmless.
    """
    parts = urlsplit(_RABBITMQ_SERVER)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 5672), timeout=3) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            if not probe.recv(1):
                _missing(f"what answers at {_RABBITMQ_SERVER} speaks no AMQP 0-9-1")
    except OSError as error:
        _missing(f"no RabbitMQ answers at {_RABBITMQ_SERVER}: {error}")
    name = f"hongyan_test_{uuid.uuid4().hex[:12]}"
    is_own = _rabbitmqctl("add_vhost", name) and _rabbitmqctl(
        "set_permissions", "-p", name, parts.username or "guest", ".*", ".*", ".*"
    )
    try:
        yield f"{_RABBITMQ_SERVER}/{name}" if is_own else f"{_RABBITMQ_SERVER}//"
    finally:
        if is_own:
            _rabbitmqctl("delete_vhost", name)


def _rabbitmqctl(*arguments: str) -> bool:
    if shutil.which("rabbitmqctl") is None:
        return False
    return subprocess.run(["rabbitmqctl", "--quiet", *arguments], capture_output=True, timeout=30).returncode == 0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failed test what the instances it used have logged."""
    report = yield
    if report.failed and report.when == "call" and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            used = value.started if isinstance(value, InstanceFactory) else [value]
            for instance in used:
                if isinstance(instance, Instance):
                    report.sections.append((f"logs of {instance.data_dir}", instance.log_tails()))
    return report
