"""A drain with more to do than one process can calls another and gives it half of its shards (docs/decisions/0001)."""

from __future__ import annotations

import time

import pytest

from models.requests import shard_of
from models.store import outbox
from tasks import drain
from tests.model.conftest import MakeRig
from tests.model.rig import Rig, Worker
from tests.support.instance import wait_until

_COUNT = 120


@pytest.fixture
def busy(make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """An outbox with conversations in several shards, and drains to whom every batch is a slow one."""
    monkeypatch.setattr(drain, "_SLOW_BATCH_SECONDS", 0.0)
    monkeypatch.setattr(drain, "_SLOW_BATCH_CPU_SHARE", 0.0)
    rig = make_rig(user_count=6, outbox_shards=4)
    pairs = [(1, 2), (3, 2), (4, 2), (5, 2), (6, 2)]
    requests = [rig.build_send(*pairs[i % len(pairs)], str(i)) for i in range(_COUNT)]
    assert len({shard_of(request.conversation, 4) for request in requests}) > 2
    rig.accept(*requests)
    return rig


def _decided(worker: Worker) -> int:
    return worker._drain._counts["decided"]


def test_a_drain_with_too_much_to_do_gives_half_of_its_shards_to_another(busy: Rig) -> None:
    """Both decide, each request once, and who reads along sees each conversation in order."""
    shown = busy.web.connect(2, "a", 2)
    first = busy.worker(drain_batch_requests=2)
    helper = busy.worker(drain_batch_requests=2, drain_linger_seconds=1.0)

    def ring() -> None:
        helper.start()
        assert wait_until(lambda: outbox.has_idle_drain(busy.client, range(busy.settings.outbox_shards)), 5.0)

    first._drain.run(ring)
    helper.join()
    busy.deliver()

    assert _decided(first) > 0
    assert _decided(helper) > 0
    assert _decided(first) + _decided(helper) == len(busy.rows()) == _COUNT
    assert busy.waiting() == []
    texts = [int(frame["data"]["data"]) for frame in shown.texts("singleChat")]
    assert sorted(texts) == list(range(_COUNT))
    for sender in range(5):
        mine = [text for text in texts if text % 5 == sender]
        assert mine == sorted(mine)


def test_a_drain_to_whom_nobody_comes_does_it_all_itself(busy: Rig) -> None:
    """It calls once, keeps its shards, and loses no time."""
    rings: list[float] = []
    alone = busy.worker(drain_batch_requests=2)

    started = time.monotonic()
    alone._drain.run(lambda: rings.append(time.monotonic()))

    assert _decided(alone) == _COUNT
    assert busy.waiting() == []
    assert len(rings) == 1
    assert time.monotonic() - started < 5.0


def test_what_a_helper_does_not_take_is_taken_back(busy: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain that was there and is gone when it is given shards leaves them to whoever looks next."""
    monkeypatch.setattr(outbox, "has_idle_drain", lambda *_: True)
    deserted = busy.worker(drain_batch_requests=2, drain_linger_seconds=1.0)

    deserted._drain.run()

    assert _decided(deserted) == _COUNT
    assert busy.waiting() == []


def test_a_drain_with_shards_of_its_own_is_not_idle(make_rig: MakeRig) -> None:
    """Two who are both busy would give shards back and forth."""
    client = make_rig(outbox_shards=4).client
    doorbells = [outbox.Doorbell(client) for _ in range(3)]
    for doorbell in doorbells[:2]:
        doorbell.open()
    outbox.take_leases(client, [0, 1], "one", 10_000)
    assert outbox.has_idle_drain(client, range(4))

    outbox.take_leases(client, [2], "other", 10_000)
    assert not outbox.has_idle_drain(client, range(4))

    doorbells[2].open()
    assert outbox.has_idle_drain(client, range(4))
    for doorbell in doorbells:
        doorbell.close()
