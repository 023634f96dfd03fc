"""The short form of `python -m tests.churn`: half a minute of sockets that come and go leaves nothing behind (G7)."""

from __future__ import annotations

import pytest

from tests.churn import Sample, churn, judge
from tests.support.instance import Instance, wait_until

_SECONDS = 30.0
# Half a minute is mostly warming up: caches fill, allocators take their first steps. Only the twenty minutes measure finely.
_MOST_GROWTH_MB = 25.0


def test_sockets_that_come_and_go_leave_nothing_behind() -> None:
    """No presence, no open socket, no file is left of them, and no process has grown by more than warming up explains."""
    with Instance({"HEARTBEAT_SECONDS": "2", "CHATLOG_MAX_ENTRIES": "50"}) as instance:
        instance.seed(60, 0)
        samples, visits = churn(instance, _SECONDS, rate=40.0, seed=1)

        assert visits.connects > 200
        assert visits.done["silent ones left open"] == 0
        assert visits.done["silent ones ended"] > 10

        def is_empty() -> bool:
            with instance.redis() as client:
                return not list(client.scan_iter("online_*", count=1_000))

        assert wait_until(is_empty, 10.0)
    verdict = judge(samples)
    print(visits.connects, verdict, dict(visits.done))
    assert all(growth < _MOST_GROWTH_MB for growth in verdict.growths.values()), verdict


@pytest.mark.parametrize(("mb_per_connect", "is_flat"), [(0.0, True), (0.00005, True), (0.0005, False)])
def test_growth_is_told_from_noise(mb_per_connect: float, is_flat: bool) -> None:
    """5 MB per 10,000 connects is growth, half an MB is not; what was taken in the first third does not count."""
    samples = [
        Sample(float(second), second * 60, {"web": 150.0 + min(second, 300) * 0.1 + second * 60 * mb_per_connect})
        for second in range(1_200)
    ]

    assert judge(samples).is_flat is is_flat
