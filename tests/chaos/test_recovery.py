"""The time a recovery took, from faults and probes made up by hand."""

from __future__ import annotations

import pytest

from chaos.history import Fault, Probe
from chaos.recovery import recoveries


def _probes(bad: tuple[float, float] | None = None, until: float = 30.0) -> list[Probe]:
    """Ten a second, all delivered after 10 ms but for those sent between two moments, which come 3 s late."""
    probes = []
    for number in range(int(until * 10)):
        sent = number / 10
        is_bad = bad is not None and bad[0] <= sent < bad[1]
        probes.append(Probe(number, sent, sent + (3.0 if is_bad else 0.01)))
    return probes


def test_recovery_counts_from_the_kill() -> None:
    """A kill at 10 s after which probes were late until 12 s took two seconds."""
    (recovery,) = recoveries([Fault(1, "kill redis", 10.0, 10.0)], _probes((10.0, 12.0)))

    assert recovery.seconds == pytest.approx(2.0, abs=0.11)


def test_recovery_counts_from_the_end_of_what_lasted() -> None:
    """While Redis is cut off nothing can arrive; what counts is how long after."""
    (recovery,) = recoveries([Fault(1, "cut redis", 10.0, 13.0)], _probes((10.0, 14.5)))

    assert recovery.seconds == pytest.approx(1.5, abs=0.11)


def test_what_was_not_felt_took_no_time() -> None:
    (recovery,) = recoveries([Fault(1, "kill beat", 10.0, 10.0)], _probes())

    assert recovery.seconds == 0.0


def test_faults_that_strike_together_recover_together() -> None:
    """Two faults of a slot have one recovery, from the end of the later."""
    faults = [Fault(1, "kill worker", 10.0, 10.0), Fault(1, "stop web", 10.0, 14.0)]

    (recovery,) = recoveries(faults, _probes((10.0, 15.0)))

    assert recovery.name == "kill worker + stop web"
    assert recovery.seconds == pytest.approx(1.0, abs=0.11)


def test_a_recovery_hidden_by_the_next_fault_is_not_guessed() -> None:
    """Late probes up to the next fault say nothing about when it would have been over."""
    faults = [Fault(1, "kill worker", 10.0, 10.0), Fault(2, "kill web", 12.0, 12.0)]

    first, second = recoveries(faults, _probes((10.0, 13.0)))

    assert first.seconds is None
    assert second.seconds == pytest.approx(1.0, abs=0.11)


def test_no_recovery_for_long_is_at_least_that_long() -> None:
    """Nothing delivered from the fault to the next, six seconds later, is a slow recovery, not an unknown one."""
    faults = [Fault(1, "kill worker", 10.0, 10.0), Fault(2, "kill web", 17.0, 17.0)]

    first, _ = recoveries(faults, _probes((10.0, 18.0)))

    assert first.seconds is not None
    assert first.seconds > 5.0


def test_what_was_not_injected_has_no_recovery() -> None:
    assert recoveries([Fault(1, "kill web", 10.0, 10.0, "not injected: 0 of 1 processes")], _probes()) == []
