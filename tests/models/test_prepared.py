"""Statements made to text once do what SQLAlchemy would do with them, errors too. PostgreSQL has them in all tests of drains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Boolean, Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError

from models import tables
from models.database import Database, among, open_database
from models.errors import DatabaseUnavailable
from models.facts import _LOCKED_VERSIONS
from models.prepared import Prepared

_THINGS = Table(
    "thing", MetaData(), Column("id", Integer, primary_key=True), Column("name", String), Column("is_on", Boolean)
)
_INSERT = Prepared(insert(_THINGS))
_SOME = Prepared(select(_THINGS.c.id, _THINGS.c.name).where(among(_THINGS.c.id, "ids")).order_by(_THINGS.c.id))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'things.db'}")
    _THINGS.metadata.create_all(database.engine)
    yield database
    database.engine.dispose()


def test_rows_go_in_and_come_out(database: Database) -> None:
    """Parameters are found by name, whatever their order, and become what their column's type makes of them."""
    with database.writing() as connection:
        _INSERT.execute(connection, [{"name": f"n{n}", "is_on": n == 2, "id": n} for n in range(1, 5)])

    with database.reading() as connection:
        assert _SOME.select(connection, {"ids": {4, 2, 9}}) == [(2, "n2"), (4, "n4")]
        assert connection.execute(select(_THINGS.c.id).where(_THINGS.c.is_on.is_(True))).scalars().all() == [2]


def test_an_error_is_sqlalchemys_and_quotes_no_value(database: Database) -> None:
    row = {"id": 1, "name": "a secret", "is_on": True}

    with pytest.raises(IntegrityError) as met, database.writing() as connection:
        _INSERT.execute(connection, [row, row])

    assert "secret" not in str(met.value)
    with database.reading() as connection:
        assert _SOME.select(connection, {"ids": [1]}) == []  # rolled back


def test_a_database_that_says_no_is_unavailable(database: Database) -> None:
    """As it is for every other statement."""
    with database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE thing")

    with pytest.raises(DatabaseUnavailable) as met, database.reading() as connection:
        _SOME.select(connection, {"ids": [1]})
    assert isinstance(met.value.__cause__, OperationalError)


def test_versions_are_found_by_their_key(database: Database) -> None:
    """They are asked for in each commit: reading the whole table would cost more with every user there is."""
    tables.Message.metadata.create_all(database.engine)
    with database.reading() as connection:
        for statement in _LOCKED_VERSIONS.values():
            text = statement._of(connection)._text
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", ("[1,2]",))]
            assert any(step.startswith("SEARCH") and "PRIMARY KEY" in step for step in plan), plan
            assert not any(step.startswith("SCAN") and "json_each" not in step for step in plan), plan
