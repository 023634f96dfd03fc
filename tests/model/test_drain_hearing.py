"""What a drain serves of what the doorbell tells it, without a look at the lists (decision 0007)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from models.store import keys
from tasks import drain
from tests.model.conftest import MakeRig
from tests.model.rig import Rig, Worker
from tests.support.instance import wait_until

_LINGER_SECONDS = 1.0
_LOOK = "redis: GET, LRANGE"  # at the lists of the shards it holds


@pytest.fixture
def rig(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """One shard, and a drain that looks at it in any case only after an hour."""
    monkeypatch.setattr(drain, "_LOOK_SECONDS", 3_600.0)
    return make_rig(outbox_shards=1, drain_linger_seconds=_LINGER_SECONDS)


@contextmanager
def _listening(rig: Rig) -> Iterator[Worker]:
    """A drain that has settled one message, and waits for more."""
    worker = rig.worker()
    rig.accept(rig.build_send(1, 2, "first"))
    worker.start()
    assert wait_until(lambda: len(rig.rows()) == 1 and not rig.waiting(), 5.0, 0.005)
    worker.steps.names.clear()
    yield worker
    worker.join()
    assert worker.is_content
    assert rig.waiting() == []


def _decided(rig: Rig) -> list[str]:
    """Return the ids of what was decided, in order."""
    return [str(row["id"]) for row in rig.rows()]


def _wait_decided(rig: Rig, count: int) -> None:
    assert wait_until(lambda: len(rig.rows()) == count, 5.0, 0.005)


def test_what_is_heard_is_served_without_a_look(rig: Rig) -> None:
    """One by one and several at once, whatever was popped in between."""
    sends = [rig.build_send(1, 2, str(number)) for number in range(6)]
    with _listening(rig) as worker:
        for some in (sends[:1], sends[1:2], sends[2:]):
            rig.accept(*some)
            _wait_decided(rig, 1 + sends.index(some[-1]) + 1)
        names = list(worker.steps.names)

    assert _decided(rig)[1:] == [send.id for send in sends]
    assert not [name for name in names if "LRANGE" in name]
    assert [name for name in names if "append" in name]


def test_what_nobody_rang_for_comes_before_what_is_heard_behind_it(rig: Rig) -> None:
    """A gap is noticed by the places, so that nothing is popped that was not served (G1, G4)."""
    unheard, heard = rig.build_send(1, 2, "unheard"), rig.build_send(1, 2, "heard")
    with _listening(rig):
        rig.client.rpush(keys.outbox(0), unheard.encode())
        rig.accept(heard)
        _wait_decided(rig, 3)

    assert _decided(rig)[1:] == [unheard.id, heard.id]


def test_what_a_look_has_shown_is_not_served_once_more(rig: Rig) -> None:
    """What comes between the opening of the ear and the look is seen and heard; what comes next is served all the same."""
    before, between, after = (rig.build_send(1, 2, text) for text in ("before", "between", "after"))
    worker = rig.worker()
    rig.accept(before)
    assert worker.start_until_paused_at(_LOOK, "before")
    rig.accept(between)
    worker.steps.woken.set()
    _wait_decided(rig, 2)
    rig.accept(after)
    worker.wake_and_join()

    assert _decided(rig) == [before.id, between.id, after.id]
    assert rig.waiting() == []
    assert len([name for name in worker.steps.names if name == "sql: write"]) <= 1 + 3  # the fence, and each once


def test_what_is_too_long_to_tell_is_looked_at(rig: Rig) -> None:
    """A drain that is slow to hear would be cut off by what the doorbell tells; so it is told less."""
    long, short = rig.build_send(1, 2, "x" * 70_000), rig.build_send(1, 2, "short")
    with _listening(rig) as worker:
        rig.accept(long, short)
        _wait_decided(rig, 3)
        names = list(worker.steps.names)

    assert [name for name in names if "LRANGE" in name]
    assert _decided(rig)[1:] == [long.id, short.id]
