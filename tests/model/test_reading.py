"""How far a read marker is raised, whatever a client says that it has read."""

from __future__ import annotations

from typing import cast

import pytest

from models import read_markers
from models.database import Database
from tests.model.rig import Rig
from webapp.reading import Reading, ReadMarks
from webapp.sockets.signals import Outgoing, SignalPost


class _Post:
    def __init__(self) -> None:
        self.told: list[Outgoing] = []

    def tell(self, signals: list[Outgoing]) -> None:
        self.told += signals


@pytest.mark.parametrize(("seq", "marker"), [(0, 0), (1, 1), (2, 2), (3, 2), (2**31, 2), (10**16, 2)])
def test_a_marker_stands_at_a_message_that_there_is(rig: Rig, seq: int, marker: int) -> None:
    """Also where the number is greater than a column of PostgreSQL holds."""
    rig.accept(rig.build_send(1, 2, "a"), rig.build_send(1, 2, "b"))
    rig.drain()
    post, database = _Post(), Database(rig.database.engine)
    database.is_sqlite = False  # so that `offload` calls directly

    marks = ReadMarks(database, cast(SignalPost, post))
    assert marks._handle([Reading(2, "a", "single", 1, seq)]) == [None]

    with rig.database.reading() as connection:
        assert read_markers.load(connection, 2).get("single:1:2", 0) == marker
    assert [outgoing.level for outgoing in post.told] == ([marker, marker] if marker else [])
