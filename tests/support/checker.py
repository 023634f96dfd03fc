"""The judge of a recorded run: what the contract's G1 to G4 promise, checked on what clients saw. Pure.

Each broken promise is counted under one kind. A number that a receiver's view of a conversation skipped is `reordered` where
it came later, `lost` where its send was accepted and it never came, and one of the `gaps` otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from tests.support.history import Event, Received, Sent

_SHOWN_OFFENDERS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise: which, in words, and the events that show it."""

    reason: str
    events: tuple[Event, ...]

    def __str__(self) -> str:
        return "\n".join([self.reason, *(f"    {event}" for event in self.events[:_SHOWN_OFFENDERS])])


@dataclass(frozen=True, slots=True)
class Figures:
    """What the run did, in numbers. Redelivered: sightings on a later connection of what its user had seen already."""

    accepted200: int
    accepted202: int
    refused: int
    unknown: int
    unknown_but_received: int
    expected_deliveries: int
    sightings: int
    redelivered: int
    delivery_p50_ms: float
    delivery_max_ms: float

    def __str__(self) -> str:
        return (
            f"sends: {self.accepted200} with 200, {self.accepted202} with 202, {self.refused} refused, {self.unknown} unknown"
            f" ({self.unknown_but_received} of them received); deliveries expected: {self.expected_deliveries},"
            f" sightings: {self.sightings}, redelivered: {self.redelivered};"
            f" send to receipt: median {self.delivery_p50_ms:.1f} ms, max {self.delivery_max_ms:.1f} ms"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Everything the checker found."""

    figures: Figures
    lost: tuple[Finding, ...]
    doubled: tuple[Finding, ...]
    reordered: tuple[Finding, ...]
    gaps: tuple[Finding, ...]
    phantom: tuple[Finding, ...]
    unexplained: tuple[Finding, ...]

    @property
    def findings(self) -> dict[str, tuple[Finding, ...]]:
        """The findings by kind, in the order of the report."""
        return {
            "lost": self.lost,
            "doubled": self.doubled,
            "reordered": self.reordered,
            "gaps": self.gaps,
            "phantom": self.phantom,
            "unexplained": self.unexplained,
        }

    @property
    def kinds(self) -> set[str]:
        """The kinds that have findings."""
        return {kind for kind, found in self.findings.items() if found}

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.kinds

    def __str__(self) -> str:
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in self.findings.items())
        lines = [f"{'OK' if self.ok else 'BROKEN'}: {counts}", str(self.figures)]
        for kind, found in self.findings.items():
            lines += [f"  {kind}: {finding}" for finding in found[:_SHOWN_OFFENDERS]]
            if len(found) > _SHOWN_OFFENDERS:
                lines.append(f"  {kind}: … and {len(found) - _SHOWN_OFFENDERS} more")
        return "\n".join(lines)


@dataclass(slots=True)
class _Send:
    """All tries of one send, found by its text, and everything seen of it."""

    tries: list[Sent]
    sightings: list[Received] = field(default_factory=list)

    @property
    def first(self) -> Sent:
        return self.tries[0]

    @property
    def accepted(self) -> list[Sent]:
        return [sent for sent in self.tries if sent.is_accepted]

    @property
    def is_refused(self) -> bool:
        return all(sent.outcome == "refused" for sent in self.tries)

    @property
    def started(self) -> float:
        return min(sent.t_start for sent in self.tries)

    @property
    def acknowledged(self) -> float:
        """When its sender first knew that it was accepted; infinity where he never did."""
        return min((sent.t_end for sent in self.accepted), default=float("inf"))

    @property
    def events(self) -> Iterator[Sent | Received]:
        return chain(self.tries, self.sightings)

    @property
    def seqs(self) -> set[int]:
        return {event.seq for event in self.events if event.seq is not None}


@dataclass(frozen=True, slots=True)
class _View:
    """What one user first saw of one conversation, in order, each message once."""

    user: int
    conversation: str
    sightings: tuple[Received, ...]


def check(history: Iterable[Event]) -> Verdict:
    """Judge a run that has become quiet: whatever was not received by now counts as lost.

    Raises ValueError: two sends of different sender or conversation share a text, so the run cannot be judged.
    """
    events = list(history)
    # Stable: what one read of a socket brought may share a time, and then stands in the order of the recorder.
    received = sorted((event for event in events if isinstance(event, Received)), key=lambda event: event.t)
    sends = _sends(event for event in events if isinstance(event, Sent))
    for sighting in received:
        if not sighting.is_notice and sighting.text in sends:
            sends[sighting.text].sightings.append(sighting)
    views = _views(received)
    lost = list(_lost(sends))
    lost_texts = {finding.events[0].text for finding in lost}
    return Verdict(
        figures=_figures(sends, received, views),
        lost=tuple(lost),
        doubled=tuple(chain(_doubled_on_connection(received), _doubled_ids(sends))),
        reordered=tuple(chain.from_iterable(_reordered(view, sends) for view in views)),
        gaps=tuple(chain(_unseen_numbers(views, sends), _missing_numbers(received, sends, lost_texts))),
        phantom=tuple(_phantoms(received, sends)),
        unexplained=tuple(_unexplained(received, sends)),
    )


def _sends(tries: Iterable[Sent]) -> dict[str, _Send]:
    sends: dict[str, _Send] = {}
    for sent in tries:
        send = sends.setdefault(sent.text, _Send([]))
        if send.tries and (send.first.sender, send.first.conversation) != (sent.sender, sent.conversation):
            raise ValueError(f"not one send: {send.first} and {sent}")
        send.tries.append(sent)
    return sends


def _views(received: Iterable[Received]) -> list[_View]:
    sightings: defaultdict[tuple[int, str], dict[str, Received]] = defaultdict(dict)
    for sighting in received:
        sightings[sighting.user, sighting.conversation].setdefault(sighting.message_id, sighting)
    return [_View(user, conversation, tuple(seen.values())) for (user, conversation), seen in sightings.items()]


def _lost(sends: dict[str, _Send]) -> Iterator[Finding]:
    for send in sends.values():
        if send.accepted:
            seen_by = {sighting.user for sighting in send.sightings}
            for user in send.first.recipients:
                if user not in seen_by:
                    yield Finding(f"accepted, never received by user {user}", tuple(send.events))


def _doubled_on_connection(received: Iterable[Received]) -> Iterator[Finding]:
    seen: dict[tuple[int, int, str], Received] = {}
    for sighting in received:
        place = (sighting.user, sighting.connection_no, sighting.message_id)
        if place in seen:
            reason = f"twice on connection {sighting.connection_no} of user {sighting.user}"
            yield Finding(reason, (seen[place], sighting))
        else:
            seen[place] = sighting


def _doubled_ids(sends: dict[str, _Send]) -> Iterator[Finding]:
    for send in sends.values():
        by_id = {event.message_id: event for event in send.events if event.message_id is not None}
        if len(by_id) > 1:
            yield Finding(f"one send, {len(by_id)} message ids", tuple(by_id.values()))


def _reordered(view: _View, sends: dict[str, _Send]) -> Iterator[Finding]:
    """Find what came too late: after a higher number, or after what was sent when it had been accepted already."""
    highest: tuple[int, Received] | None = None
    latest: tuple[float, Received] | None = None
    for sighting in view.sightings:
        send = None if sighting.is_notice else sends.get(sighting.text)
        if highest is not None and sighting.seq is not None and sighting.seq < highest[0]:
            reason = f"user {view.user} sees number {sighting.seq} of {view.conversation} after {highest[0]}"
            yield Finding(reason, (highest[1], sighting))
        elif latest is not None and send is not None and send.acknowledged < latest[0]:
            reason = f"user {view.user} sees it after what was sent {latest[0] - send.acknowledged:.3f} s after its acceptance"
            yield Finding(reason, (latest[1], sighting))
        if sighting.seq is not None and (highest is None or sighting.seq > highest[0]):
            highest = (sighting.seq, sighting)
        if send is not None and send.accepted and (latest is None or send.started > latest[0]):
            latest = (send.started, sighting)


def _unseen_numbers(views: Iterable[_View], sends: dict[str, _Send]) -> Iterator[Finding]:
    """Find what exists, as another recipient saw it, and was skipped for good, though nobody was told that it exists."""
    unacknowledged = defaultdict(list)
    for send in sends.values():
        if send.sightings and not send.accepted:
            unacknowledged[send.first.conversation].append(send)
    for view in views:
        highest = max((sighting.seq for sighting in view.sightings if sighting.seq is not None), default=0)
        for send in unacknowledged[view.conversation]:
            is_unseen = all(sighting.user != view.user for sighting in send.sightings)
            if view.user in send.first.recipients and is_unseen and min(send.seqs, default=highest) < highest:
                reason = f"user {view.user} never sees number {min(send.seqs)} of {view.conversation}, others do"
                yield Finding(reason, tuple(send.events))


def _missing_numbers(received: Iterable[Received], sends: dict[str, _Send], lost_texts: set[str]) -> Iterator[Finding]:
    """Find numbers that nothing has, beyond those that sends without a known number can have taken."""
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for sighting in received:
        if sighting.seq is not None:
            numbers[sighting.conversation].add(sighting.seq)
    unnumbered: defaultdict[str, int] = defaultdict(int)
    for send in sends.values():
        numbers[send.first.conversation] |= send.seqs
        may_be_stored = any(sent.outcome == "unknown" for sent in send.tries) or send.first.text in lost_texts
        if not send.seqs and may_be_stored:
            unnumbered[send.first.conversation] += 1
    for conversation, known in numbers.items():
        missing = set(range(min(known, default=1), max(known, default=0))) - known
        if len(missing) > unnumbered[conversation]:
            shown = ", ".join(str(number) for number in sorted(missing)[:_SHOWN_OFFENDERS])
            yield Finding(f"{len(missing)} numbers of {conversation} belong to nothing: {shown}", ())


def _phantoms(received: Iterable[Received], sends: dict[str, _Send]) -> Iterator[Finding]:
    for sighting in received:
        if sighting.is_notice:
            continue
        send = sends.get(sighting.text)
        if send is None:
            yield Finding("received, but nobody sent it", (sighting,))
        elif send.is_refused:
            yield Finding("received, but its sender was refused", (send.first, sighting))


def _unexplained(received: Iterable[Received], sends: dict[str, _Send]) -> Iterator[Finding]:
    """Find what no single kind of failure describes: wrong readers, and numbers or ids that contradict each other."""
    for send in sends.values():
        for sighting in send.sightings:
            if sighting.user not in send.first.recipients:
                yield Finding(f"user {sighting.user} is no recipient", (send.first, sighting))
            if sighting.conversation != send.first.conversation:
                yield Finding("received in another conversation", (send.first, sighting))
    answered: list[Event] = [sent for send in sends.values() for sent in send.tries if sent.message_id is not None]
    by_id: dict[str, Event] = {}
    by_number: dict[tuple[str, int], Event] = {}
    for event in [*answered, *received]:
        if event.seq is None:
            if isinstance(event, Received):
                yield Finding("received without a number", (event,))
            continue
        same_id = by_id.setdefault(event.message_id or "", event)
        if same_id.seq != event.seq or same_id.text != event.text:
            yield Finding("one id, two numbers or texts", (same_id, event))
        same_number = by_number.setdefault((event.conversation, event.seq), event)
        if same_number.message_id != event.message_id:
            yield Finding("one number, two messages", (same_number, event))


def _figures(sends: dict[str, _Send], received: list[Received], views: list[_View]) -> Figures:
    outcomes = [sent.outcome for send in sends.values() for sent in send.tries]
    firsts = [sighting for view in views for sighting in view.sightings]
    delays = sorted(first.t - sends[first.text].started for first in firsts if first.text in sends)
    connections = {(sighting.user, sighting.connection_no, sighting.message_id) for sighting in received}
    return Figures(
        accepted200=outcomes.count("accepted200"),
        accepted202=outcomes.count("accepted202"),
        refused=outcomes.count("refused"),
        unknown=outcomes.count("unknown"),
        unknown_but_received=sum(bool(send.sightings) and not send.accepted for send in sends.values()),
        expected_deliveries=sum(len(send.first.recipients) for send in sends.values() if send.accepted),
        sightings=len(received),
        redelivered=len(connections) - len(firsts),
        delivery_p50_ms=delays[len(delays) // 2] * 1000 if delays else 0.0,
        delivery_max_ms=delays[-1] * 1000 if delays else 0.0,
    )
