"""The fence of a shard: who may commit, and the positions given out under it (decision 0002)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models import shards, tables
from models.database import Database, open_database
from models.errors import FenceLost


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(f"sqlite:///{tmp_path / 'shards.db'}")
    tables.Shard.metadata.create_all(database.engine)
    yield database
    database.engine.dispose()


def test_positions_follow_each_other_under_one_fence(database: Database) -> None:
    """Each batch gets the positions after those of the batch before."""
    with database.writing() as connection:
        fence = shards.draw_fence(connection, 3)

    taken = []
    for count in (2, 5, 1):
        with database.writing() as connection:
            taken.append(shards.take_positions(connection, {3: (fence, count)})[3])

    assert taken == [0, 2, 7]
    with database.reading() as connection:
        assert shards.load_last_positions(connection) == {3: 8}


def test_an_old_fence_takes_no_position(database: Database) -> None:
    """A drain that was stopped while another took its shard is refused, and nothing of its batch is committed."""
    with database.writing() as connection:
        other, old = shards.draw_fence(connection, 2), shards.draw_fence(connection, 3)
    with database.writing() as connection:
        new = shards.draw_fence(connection, 3)

    with pytest.raises(FenceLost) as lost, database.writing() as connection:
        shards.take_positions(connection, {2: (other, 1), 3: (old, 4)})
    assert lost.value.shards == {3}

    with database.writing() as connection:
        assert shards.take_positions(connection, {2: (other, 1), 3: (new, 1)}) == {2: 0, 3: 0}


def test_a_fence_is_of_one_shard(database: Database) -> None:
    """Taking one shard over leaves the fences of the others as they are."""
    with database.writing() as connection:
        mine = shards.draw_fence(connection, 1)
        shards.draw_fence(connection, 2)

    with database.writing() as connection:
        assert shards.take_positions(connection, {1: (mine, 1)}) == {1: 0}
