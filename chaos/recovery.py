"""How long after a fault everything worked again, as the prober saw it (G7). Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from chaos.history import Fault, Probe

GOOD_SECONDS = 1.0  # a probe delivered within this says that everything works
LIMIT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Recovery:
    """The recovery from the faults of one slot. since: from when it counts.

    seconds: to the first moment from which on probes were good; None: the next fault, or the end, came before
    """

    kinds: tuple[str, ...]
    since: float
    seconds: float | None

    @property
    def name(self) -> str:
        """The fault, or what struck together."""
        return " + ".join(self.kinds)


def recoveries(faults: Iterable[Fault], probes: Iterable[Probe]) -> list[Recovery]:
    """Return the recovery from each slot's faults, in order.

    It counts from the kill for a process of ours, and from the end of what lasted for everything else. Where faults follow so
    soon that a recovery cannot be seen, it is judged together with the next.
    """
    slots: dict[int, list[Fault]] = {}
    for fault in sorted(faults, key=lambda fault: (fault.t_start, fault.slot)):
        if not fault.detail.startswith("not injected"):
            slots.setdefault(fault.slot, []).append(fault)
    ordered = sorted(slots.values(), key=lambda slot: min(fault.t_start for fault in slot))
    sent = sorted(probes, key=lambda probe: probe.t_sent)
    times = [probe.t_sent for probe in sent]
    found = []
    for index, slot in enumerate(ordered):
        since = max(fault.t_end for fault in slot)
        is_last = index + 1 == len(ordered)
        until = float("inf") if is_last else min(fault.t_start for fault in ordered[index + 1])
        # A probe that the next fault may have met says nothing about this one.
        window = sent[bisect_left(times, since) : bisect_left(times, until - GOOD_SECONDS)]
        seconds: float | None = None
        if window:
            late = [place for place, probe in enumerate(window) if _delay(probe) > GOOD_SECONDS]
            if not late:
                seconds = 0.0
            elif late[-1] + 1 < len(window):
                seconds = window[late[-1] + 1].t_sent - since
            elif window[-1].t_sent - since > LIMIT_SECONDS:
                seconds = window[-1].t_sent - since  # at least
        found.append(Recovery(tuple(sorted(fault.kind for fault in slot)), since, seconds))
    return found


def _delay(probe: Probe) -> float:
    return float("inf") if probe.t_received is None else probe.t_received - probe.t_sent
