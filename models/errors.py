"""What can go wrong where things are remembered. Foreign errors (redis, SQLAlchemy) end at this border.

Each class says what happened; whether repeating is safe stands in its docstring.
"""

from __future__ import annotations


class ModelError(Exception):
    """Root of everything `models` raises."""


class StoreUnavailable(ModelError):
    """Redis did not answer: whether the operation took place is unknown.

    Repeating is safe, but for what counts (`store/counters.py`) or takes something away (`store/tickets.py`).
    """


class Overloaded(ModelError):
    """Too much waits already: nothing was taken. Repeating is safe, and of use once the drains have caught up."""


class DatabaseUnavailable(ModelError):
    """The SQL database did not answer in time. Nothing was committed, or the commit's outcome is unknown; repeating is safe."""


class FilesUnavailable(ModelError):
    """The folder of uploads cannot be read or written: nothing was kept. Repeating is safe."""


class NoRoom(FilesUnavailable):
    """The disk of the uploads is as full as they may make it."""


class FenceLost(ModelError):
    """Another drain has taken over one of our shards: this one must not commit for it any more (decision 0002)."""

    def __init__(self, shards: frozenset[int]) -> None:
        super().__init__(f"fence lost for shards {sorted(shards)}")
        self.shards = shards


class FactsChanged(ModelError):
    """Something a batch was decided on has changed since it was read: read it again and decide again."""


class AlreadyDecided(ModelError):
    """A request of the batch, or a first contact, is already in SQL: read what stands and decide the rest again."""
