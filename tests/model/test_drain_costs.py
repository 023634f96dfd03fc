"""What a settled batch costs: round trips to Redis and statements to SQL, counted, so that nobody adds one unawares."""

from __future__ import annotations

import pytest

from models.requests import Request
from tests.model.conftest import MakeRig
from tests.model.rig import GROUP_ID, Rig
from tests.support.statements import statements_to

# Of one batch in the steady state, whatever it holds: append group logs, append inboxes, publish and pop.
_ROUND_TRIPS_PER_BATCH = 3
# Versions of users and groups; positions of a shard, both versions again, insert of its rows.
_STATEMENTS_PER_BATCH = 6
# Of a drain, however much it settles: answer the bell, look, take leases, look again; then the look that finds nothing, and
# the release of the leases.
_ROUND_TRIPS_PER_DRAIN = 6
# Notices left behind; make sure that the shard has a row, draw its fence; newest seqs of the conversations.
_STATEMENTS_PER_DRAIN = 4


def _mixed(rig: Rig, count: int) -> list[Request]:
    requests = []
    for i in range(count):
        requests.append(rig.build_send(1, 2, str(i)))
        requests.append(rig.build_send(2, GROUP_ID, str(i), chat_type="group"))
    return requests


@pytest.mark.parametrize("count", [1, 50])
def test_a_batch_costs_the_same_whatever_it_holds(make_rig: MakeRig, count: int) -> None:
    """In the steady state a drain over one batch makes a fixed number of round trips and statements."""
    rig = make_rig(outbox_shards=1, drain_lease_seconds=60.0)
    worker = rig.worker()
    for user_id in (1, 2, 3):
        rig.web.connect(user_id, "a", 2)
    rig.accept(*_mixed(rig, 1))
    assert worker.run()
    rig.accept(*_mixed(rig, count))
    worker.steps.run_on()

    with statements_to(rig.database) as statements:
        assert worker.run()

    round_trips = [name for name in worker.steps.names if name.startswith("redis")]
    assert len(round_trips) <= _ROUND_TRIPS_PER_DRAIN + _ROUND_TRIPS_PER_BATCH, round_trips
    assert len(statements) <= _STATEMENTS_PER_DRAIN + _STATEMENTS_PER_BATCH, statements
    assert len(rig.rows()) == 2 + 2 * count


def test_each_further_batch_costs_little_more(make_rig: MakeRig) -> None:
    """A drain that settles ten batches pays for ten, and once for itself: besides a batch's own cost only one look."""
    rig = make_rig(outbox_shards=1, drain_lease_seconds=60.0, drain_batch_requests=10)
    worker = rig.worker()
    for user_id in (1, 2, 3):
        rig.web.connect(user_id, "a", 2)
    rig.accept(*_mixed(rig, 1))
    assert worker.run()
    rig.accept(*_mixed(rig, 50))
    worker.steps.run_on()

    with statements_to(rig.database) as statements:
        assert worker.run()

    round_trips = [name for name in worker.steps.names if name.startswith("redis")]
    assert len(round_trips) <= _ROUND_TRIPS_PER_DRAIN + 10 * (_ROUND_TRIPS_PER_BATCH + 1) - 1, round_trips
    assert len(statements) <= _STATEMENTS_PER_DRAIN + 10 * _STATEMENTS_PER_BATCH, statements


def test_leases_that_were_just_taken_are_not_renewed(make_rig: MakeRig) -> None:
    """The first verdict of a stay does not wait for a write that a quarter of a lease later is early enough."""
    rig = make_rig(outbox_shards=1, drain_lease_seconds=60.0)
    worker = rig.worker()
    rig.accept(*_mixed(rig, 1))

    assert worker.run()

    assert sum("take_lease" in name for name in worker.steps.names) == 1, worker.steps.names
