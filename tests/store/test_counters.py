"""Counters on a real Redis: windows that end by themselves, and failures that lock for as long as they are recent."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from models.store import counters, keys
from models.store.connection import Client, Command, run
from tests.support.instance import wait_until

_WINDOW_MS = 60_000


@pytest.fixture
def name() -> str:
    """A name that no other test counts under."""
    return uuid.uuid4().hex


def _call(client: Client, command: Command) -> Any:
    return run(client, [command])[0]


def _fail(client: Client, name: str, *, window_ms: int = _WINDOW_MS, most: int = 3) -> int:
    return int(_call(client, counters.fail_command(name, window_ms=window_ms, most=most)))


def _locked(client: Client, name: str, *, window_ms: int = _WINDOW_MS, most: int = 3) -> int:
    return int(_call(client, counters.locked_command(name, window_ms=window_ms, most=most)))


def _hit(client: Client, name: str, *, window_ms: int = _WINDOW_MS, most: int = 3) -> int:
    return int(_call(client, counters.count_command(counters.Rate("", window_ms, most), name, "he")))


def test_hits_add_up_in_a_window_that_the_first_one_opens(client: Client, name: str) -> None:
    """Up to the most they pass; then it is told how long that window still is, which later hits do not make longer."""
    assert [_hit(client, name) for _ in range(3)] == [0, 0, 0]

    assert 0 < _hit(client, name, window_ms=10 * _WINDOW_MS) <= _WINDOW_MS
    assert 0 < client.pttl(keys.counter(f"{name}/he/")) <= _WINDOW_MS


@pytest.mark.parametrize(("window_ms", "is_kept"), [(1_000, False), (10_000, False), (60_000, True)])
def test_only_a_long_window_outlives_a_restart(keeping: Client, name: str, window_ms: int, is_kept: bool) -> None:
    """A brief one's hits are counted without the append-only file, which each of them would have to wait for."""
    _hit(keeping, name, window_ms=window_ms)  # the script itself stands in the file from its first use on
    before = keeping.info("persistence")["aof_current_size"]

    for _ in range(20):
        _hit(keeping, name, window_ms=window_ms, most=100)

    assert keeping.get(keys.counter(f"{name}/he/")) == b"21"
    assert (keeping.info("persistence")["aof_current_size"] > before) is is_kept


def test_a_window_ends(client: Client, name: str) -> None:
    """Then counting starts again at one."""
    assert _hit(client, name, window_ms=50, most=1) == 0
    assert _hit(client, name, window_ms=50, most=1) > 0

    assert wait_until(lambda: not client.exists(keys.counter(f"{name}/he/")), 5.0, 0.01)
    assert _hit(client, name, window_ms=50, most=1) == 0


def test_hits_in_parallel_are_all_counted(client: Client, name: str) -> None:
    """Of a hundred at once exactly as many pass as may."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: _hit(client, name, most=40), range(100)))

    assert answers.count(0) == 40


def test_a_counter_without_an_end_gets_one(client: Client, name: str) -> None:
    """Whatever left it there, it must not refuse for ever."""
    _call(client, ("SET", keys.counter(f"{name}/he/"), "7"))

    assert _hit(client, name) == _WINDOW_MS
    assert client.pttl(keys.counter(f"{name}/he/")) > 0


def _spend(client: Client, name: str, amount: int, *, window_ms: int = _WINDOW_MS, is_counted: bool = True) -> int:
    command = counters.spend_command(name, "he", amount, window_ms=window_ms, most=100, is_counted=is_counted)
    return int(_call(client, command))


def test_an_amount_is_taken_as_a_whole_or_not_at_all(client: Client, name: str) -> None:
    """What does not fit takes nothing, and is told how long the window still is that the first amount has opened."""
    assert _spend(client, name, 101) == _WINDOW_MS
    assert [_spend(client, name, 60), _spend(client, name, 30)] == [0, 0]

    assert 0 < _spend(client, name, 11, window_ms=10 * _WINDOW_MS) <= _WINDOW_MS
    assert _spend(client, name, 10, window_ms=10 * _WINDOW_MS) == 0
    assert 0 < client.pttl(keys.counter(f"{name}/he")) <= _WINDOW_MS
    assert client.get(keys.counter(f"{name}/he")) == b"100"


def test_asking_takes_nothing(client: Client, name: str) -> None:
    assert [_spend(client, name, 100, is_counted=False) for _ in range(3)] == [0, 0, 0]

    assert not client.exists(keys.counter(f"{name}/he"))


def test_parallel_amounts_never_exceed_the_most(client: Client, name: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        left = list(pool.map(lambda _: _spend(client, name, 7), range(50)))

    assert left.count(0) == 100 // 7
    assert client.get(keys.counter(f"{name}/he")) == b"98"


def test_so_many_failures_lock(client: Client, name: str) -> None:
    """One fewer does not, asking does not count, and forgiving opens."""
    assert _locked(client, name) == 0
    assert [_fail(client, name), _fail(client, name)] == [0, 0]
    assert _locked(client, name) == 0

    assert 0 < _fail(client, name) <= _WINDOW_MS

    assert 0 < _locked(client, name) <= _WINDOW_MS
    _call(client, counters.forgive_command(name))
    assert _locked(client, name) == 0


def test_old_failures_do_not_count(client: Client, name: str) -> None:
    """The window slides: it ends now, wherever the failures began."""
    for _ in range(3):
        _fail(client, name, window_ms=80)

    assert wait_until(lambda: _locked(client, name, window_ms=80) == 0, 5.0, 0.01)
    # The first of the three is out of the window now; the two after it go with the list, whose time ends with the last.
    assert wait_until(lambda: client.exists(keys.failures(counters._digest(name))) == 0, 5.0, 0.01)
    assert _fail(client, name) == 0


def test_what_was_typed_does_not_stand_in_redis(client: Client, name: str) -> None:
    """A password in the field for the name is seen by nobody."""
    _fail(client, name)

    assert not [key for key in client.keys(keys.failures("*")) if name.encode() in key]
    assert client.ttl(keys.failures(counters._digest(name))) > 0
