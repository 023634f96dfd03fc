"""Which faults strike when: drawn from the seed alone, so that a run's plan can be read before it and repeated after it."""

from __future__ import annotations

import random
from dataclasses import dataclass

_LEAD_SECONDS = 4.0  # of undisturbed load before the first fault
_TAIL_SECONDS = 7.0  # after the last, so that its recovery is seen under load
_RECOVERY_SECONDS = 5.0  # what G7 allows: faults that follow sooner would hide a slow recovery
_PAIR_SHARE = 0.2  # of faults that strike together with another


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One way to do harm.

    needs: what must be ours or there for it (`redis`: an embedded one; `sql`, `broker`: reached over TCP; `sqlite`)
    seconds: between which bounds its duration is drawn; nothing for a kill
    """

    name: str
    meaning: str
    weight: int
    needs: frozenset[str] = frozenset()
    seconds: tuple[float, float] = (0.0, 0.0)


def _network(of: str, needs: str) -> list[FaultKind]:
    need = frozenset({needs})
    return [
        FaultKind(f"delay {of}", f"50 to 500 ms on each way between our processes and {of}", 3, need, (2.0, 4.0)),
        FaultKind(f"cut {of}", f"every connection to {of} closed, new ones refused", 3, need, (1.0, 3.0)),
        FaultKind(
            f"hole {of}", f"what is written to {of}, and its answers, held back, then lost or late", 3, need, (1.0, 4.0)
        ),
    ]


FAULT_KINDS = {
    kind.name: kind
    for kind in [
        FaultKind("kill web", "kill -9 of a web process", 6),
        FaultKind("kill master", "kill -9 of gunicorn's master", 3),
        FaultKind("kill worker", "kill -9 of a worker", 6),
        FaultKind("kill beat", "kill -9 of beat", 2),
        FaultKind("kill housekeeping", "kill -9 of the housekeeping worker", 2),
        FaultKind("kill redis", "kill -9 of the embedded Redis", 5, frozenset({"redis"})),
        FaultKind("stop web", "SIGSTOP of a web process, then SIGCONT", 4, frozenset(), (2.0, 6.0)),
        FaultKind("stop worker", "SIGSTOP of a worker, then SIGCONT", 5, frozenset(), (2.0, 6.0)),
        FaultKind("stop beat", "SIGSTOP of beat, then SIGCONT", 1, frozenset(), (2.0, 6.0)),
        FaultKind("stop redis", "SIGSTOP of the embedded Redis, then SIGCONT", 3, frozenset({"redis"}), (2.0, 6.0)),
        FaultKind("empty redis", "everything in Redis removed, the broker's database too", 3, frozenset({"redis"})),
        FaultKind("drop clients", "TCP resets of client connections", 4),
        FaultKind("half open", "client connections that carry nothing any more and do not end", 3),
        *_network("redis", "redis proxy"),
        *_network("sql", "sql proxy"),
        *_network("broker", "broker proxy"),
        FaultKind("lock sql", "SQLite's write lock held by somebody else", 3, frozenset({"sqlite"}), (1.0, 4.0)),
        FaultKind("rolling restart", "everything restarted, one after the other", 2),
    ]
}


@dataclass(frozen=True, slots=True)
class Step:
    """One fault of the plan. at: seconds after the load began, not before the slot before it is over and recovered.

    slot: steps of one slot strike together; choice: draws which process or connections
    """

    slot: int
    at: float
    kind: str
    seconds: float
    choice: int

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:6.1f} s  {self.kind}{lasting}"


def kinds_for(provided: frozenset[str]) -> list[str]:
    """Return the kinds that can be injected where this is provided."""
    return [kind.name for kind in FAULT_KINDS.values() if kind.needs <= provided]


def draw_plan(seed: int, duration: float, every: float, kinds: list[str]) -> list[Step]:
    """Draw a run's faults: each kind once in random order, after that by weight. Some strike in pairs.

    every: seconds from one slot to the next; a lasting fault gets its own time and that of a recovery on top
    """
    chance = random.Random(f"{seed}:plan")
    deck = list(kinds)
    chance.shuffle(deck)
    weights = [FAULT_KINDS[kind].weight for kind in kinds]
    steps: list[Step] = []
    at = min(_LEAD_SECONDS, duration / 4)
    slot = 0
    while True:
        slot += 1
        drawn = [deck.pop() if deck else chance.choices(kinds, weights)[0]]
        if not deck and len(kinds) > 1 and chance.random() < _PAIR_SHARE:
            second = chance.choices(kinds, weights)[0]
            if second != drawn[0] and "rolling restart" not in (second, drawn[0]):
                drawn.append(second)
        found = [
            Step(slot, at, kind, chance.uniform(*FAULT_KINDS[kind].seconds), chance.randrange(2**31)) for kind in drawn
        ]
        lasting = max(step.seconds for step in found)
        if at + lasting > duration - _TAIL_SECONDS:
            return steps
        steps += found
        at += max(every, lasting + min(every, _RECOVERY_SECONDS) if lasting else 0.0)
