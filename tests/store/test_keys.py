"""`docs/redis.md` has a row for every key, with type, owner, lifetime and bound."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from models.store import keys

_TABLE = (Path(__file__).resolve().parents[2] / "docs" / "redis.md").read_text()
_ROWS = {
    cells[0].strip("`"): cells[1:]
    for line in _TABLE.splitlines()
    if line.startswith("| `") and (cells := [cell.strip() for cell in line.strip("|").split("|")])
}
# What a function's parameters are called in the table.
_PLACES = {"shard": "<n>", "user_id": "<uid>", "owner_id": "<uid>", "peer_id": "<peer>", "group_id": "<gid>"}
_PLACES |= {"process_id": "<process>", "ticket": "<ticket>", "webhook_id": "<webhook>"}
_PLACES["name"] = "<name>"


class _Place(str):
    """Stands in a key for a number."""


def _names() -> dict[str, str]:
    names = {}
    for name, value in vars(keys).items():
        if inspect.isfunction(value):
            arguments = [_Place(_PLACES[parameter]) for parameter in inspect.signature(value).parameters]
            names[name] = value(*arguments)
        elif name.isupper():
            names[name] = value
    return names


def test_every_key_is_documented_and_nothing_else() -> None:
    """The table and the module name the same keys."""
    assert set(_ROWS) == set(_names().values())


@pytest.mark.parametrize("name", sorted(_ROWS))
def test_a_row_says_type_owner_lifetime_and_bound(name: str) -> None:
    """Each key has all that an operator wants to know."""
    kind, owner, lifetime, bound, meaning = _ROWS[name]

    assert kind in ("string", "list", "hash", "set", "zset", "channel")
    assert all((owner, lifetime, bound, meaning))


def test_keys_of_an_owner_share_a_hash_tag() -> None:
    """All keys of a user, a group or a shard are in one slot, so that a script may touch them together."""
    tags = {name: re.findall(r"\{(.*?)\}", key) for name, key in _names().items()}

    assert {name for name, found in tags.items() if found == ["<uid>"]} == {
        "inbox", "cursor", "online", "sessions", "single_log", "dead_entries"
    }  # fmt: skip
    assert {name for name, found in tags.items() if found == ["g<gid>"]} == {"group_log", "group_cursor"}
    assert {name for name, found in tags.items() if found == ["s<n>"]} == {
        "outbox",
        "popped",
        "dead",
        "lease",
        "doorbell",
    }
    assert {name for name, found in tags.items() if not found} == {
        "process_channel", "ticket", "counter", "failures", "ANNOUNCED", "BELL", "DOORBELL", "PROBE", "WORKER_SEEN"
    }  # fmt: skip
