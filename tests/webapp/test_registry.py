"""The registry of a process: who has left is in it no more, and nobody leaves with him (ORIG A5, A6)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from webapp.sockets.connection import Connection
from webapp.sockets.registry import Registry


def _connection(registry: Registry, user_id: int) -> Connection:
    connection = SimpleNamespace(protocol=1, user_id=user_id, number=registry.next_number())
    return cast(Connection, connection)


def test_a_connection_that_ended_is_forgotten_and_no_other() -> None:
    """Of a user's two connections the one that ended goes, at once and once; with the last one goes the user."""
    registry = Registry()
    older, newer, others = (_connection(registry, user_id) for user_id in (7, 7, 8))
    for connection in (older, newer, others):
        registry.add(connection)

    registry.remove(older)
    registry.remove(older)

    assert list(registry.of_user(7)) == [newer]
    assert registry.by_number(7, older.number) is None
    assert (len(registry), sorted(registry.user_ids())) == (2, [7, 8])

    registry.remove(newer)

    assert list(registry.of_user(7)) == []
    assert (len(registry), registry.user_ids()) == (1, [8])
