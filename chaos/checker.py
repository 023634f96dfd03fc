"""The judge of a recorded run: what the contract's G1 to G4, G6 and G7 promise, checked on what clients saw. Pure.

Each broken promise is counted under one kind. A number that a receiver's view of a conversation skipped is `reordered` where
it came later, `lost` where its send was accepted and it never came, and one of the `gaps` otherwise.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeVar

from chaos.history import (
    Acked,
    Closed,
    Emptied,
    Event,
    Fault,
    Joined,
    Opened,
    Probe,
    Received,
    Reset,
    Sent,
    State,
)
from chaos.recovery import LIMIT_SECONDS, Recovery, recoveries

_SHOWN_OFFENDERS = 5
_TAKEN_SECONDS = 2.0  # an acknowledgement that the connection outlived by so long, undisturbed, has been taken
_CHECKPOINT_SECONDS = 10.0  # acknowledgements younger than this may be lost with Redis's data (they are kept every 3 s)
_SETTLED = {"stored", "delivered", "refused"}
_RETRY_REFUSALS = {"rate_limited", "too_many_sends", "overloaded"}  # what a good client may meet, and repeats
# What may end a connection without a close frame: its process is gone, or the network between.
_CUTS_CLIENTS = {"kill web", "kill master", "stop web", "drop clients", "half open", "rolling restart"}
_CUT_SECONDS = 15.0  # a stopped process or a half-open connection ends connections some heartbeats later

Place = tuple[int, str]  # user and device
E = TypeVar("E")

# Which promise a kind of finding breaks (contract section 7).
GUARANTEES = {
    "lost": "G1",
    "missed": "G2",
    "doubled": "G3",
    "redelivered": "G3",
    "reordered": "G4",
    "gaps": "G6",
    "phantom": "G5",
    "unexplained": "G6",
    "undecided": "G6",
    "silent": "G6",
    "slow": "G7",
}

# What the summary counts a kind as; all others are unexplained.
_COMMON_NAMES = {
    "lost": "lost",
    "missed": "lost",
    "doubled": "doubled",
    "redelivered": "doubled",
    "reordered": "out of order",
    "slow": "slow",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise: which, in words, and the events that show it."""

    reason: str
    events: tuple[Event, ...]

    def __str__(self) -> str:
        return "\n".join([self.reason, *(f"    {event}" for event in self.events[:_SHOWN_OFFENDERS])])


@dataclass(frozen=True, slots=True)
class DeviceFigures:
    """What one device was owed and shown.

    owed: accepted sends that it had to be shown; delivered: of them, those that it was; again: shown again on a later connection
    """

    user: int
    device: str
    sort: str  # protocol and traits, in words
    owed: int
    delivered: int
    again: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What the run did, in numbers.

    sent: sends, each counted once however often it was tried
    redelivered: sightings on a later connection of what its device had seen already
    excused: accepted with 202, without a verdict when Redis was emptied, and gone with it
    """

    sent: int
    accepted200: int
    accepted202: int
    by_socket: int
    refused: int
    unknown: int
    unknown_but_received: int
    expected_deliveries: int
    sightings: int
    redelivered: int
    excused: int
    delivery_p50_ms: float
    delivery_p99_ms: float
    delivery_max_ms: float
    codes: dict[str, int]
    closes: dict[str, int]
    resets: int
    resets_with_gap: int
    devices: tuple[DeviceFigures, ...] = ()

    def __str__(self) -> str:
        return (
            f"sends: {self.accepted200} with 200, {self.by_socket} with a sendResult, {self.accepted202} with 202,"
            f" {self.refused} refused, {self.unknown} unknown"
            f" ({self.unknown_but_received} of them received); deliveries expected: {self.expected_deliveries},"
            f" sightings: {self.sightings}, redelivered: {self.redelivered}, excused: {self.excused};"
            f" send to receipt without a fault: median {self.delivery_p50_ms:.1f} ms, p99 {self.delivery_p99_ms:.1f} ms,"
            f" max {self.delivery_max_ms:.1f} ms"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Everything the checker found: by kind, in the order of the report."""

    figures: Figures
    findings: dict[str, tuple[Finding, ...]]
    recoveries: tuple[Recovery, ...]

    @property
    def lost(self) -> tuple[Finding, ...]:
        """What was accepted and never came, to anybody or to one device."""
        return self.findings["lost"] + self.findings["missed"]

    @property
    def kinds(self) -> set[str]:
        """The kinds that have findings."""
        return {kind for kind, found in self.findings.items() if found}

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not self.kinds

    @property
    def summary(self) -> str:
        """The findings in one line, by what a user would call them."""
        counts = dict.fromkeys(("lost", "doubled", "out of order", "unexplained", "slow"), 0)
        for kind, found in self.findings.items():
            counts[_COMMON_NAMES.get(kind, "unexplained")] += len(found)
        return ", ".join(f"{count} {name}" for name, count in counts.items())

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
    """What one device first saw of one conversation, in order, each message once."""

    user: int
    device: str
    conversation: str
    sightings: tuple[Received, ...]


class _Run:
    """A history, sorted by what its events are."""

    def __init__(self, history: Iterable[Event]) -> None:
        events = list(history)
        self._events = events
        # Stable: what one read of a socket brought may share a time, and then stands in the order of the recorder.
        self.received = sorted(self._of(Received), key=lambda event: event.t)
        self.sends = _sends(self._of(Sent))
        self.joined = {(event.user, event.device): event for event in self._of(Joined)}
        self.good: defaultdict[int, list[str]] = defaultdict(list)
        for event in self._of(Joined):
            if event.kind == "good":
                self.good[event.user].append(event.device)
        self.opened = {(event.user, event.device, event.connection_no): event for event in self._of(Opened)}
        self.closed = {(event.user, event.device, event.connection_no): event for event in self._of(Closed)}
        self.acked = self._of(Acked)
        self.resets = self._of(Reset)
        self.faults = [fault for fault in self._of(Fault) if not fault.detail.startswith("not injected")]
        self.emptied = self._of(Emptied)
        self.probes = self._of(Probe)
        self.states = {event.message_id: event for event in self._of(State)}
        for sighting in self.received:
            if not sighting.is_notice and sighting.text in self.sends:
                self.sends[sighting.text].sightings.append(sighting)
        self.views = _views(self.received)

    def _of(self, kind: type[E]) -> list[E]:
        return [event for event in self._events if isinstance(event, kind)]

    def places(self, send: _Send) -> list[Place]:
        """Where a send must be shown: on each device that took part, of recipients, and of the sender but the one he used."""
        if not self.joined:
            return [(user, "") for user in send.first.recipients]
        used = {sent.device for sent in send.tries}
        own = [(send.first.sender, device) for device in self.good[send.first.sender] if device not in used]
        return [(user, device) for user in send.first.recipients for device in self.good[user]] + own

    def is_disturbed(self, start: float, end: float, after: float = 2.0) -> bool:
        """Say whether a fault, or what follows for some seconds, falls between two moments."""
        return any(fault.t_start - 0.2 <= end and fault.t_end + after >= start for fault in self.faults)


def check(history: Iterable[Event]) -> Verdict:
    """Judge a run that has become quiet: whatever was not received by now counts as lost.

    Raises ValueError: two sends of different sender or conversation share a text, so the run cannot be judged.
    """
    run = _Run(history)
    excused = {text for text, send in run.sends.items() if _is_excused(send, run)}
    lost, missed = _lost(run, excused)
    lost_texts = {finding.events[0].text for finding in lost + missed if isinstance(finding.events[0], Sent)}
    recovered = recoveries(run.faults, run.probes)
    return Verdict(
        figures=_figures(run, excused),
        findings={
            "lost": tuple(lost),
            "missed": tuple(missed),
            "doubled": tuple(chain(_doubled_on_connection(run.received), _doubled_ids(run.sends))),
            "redelivered": tuple(chain(_redelivered_below_cursor(run), _redelivered_after_pong(run))),
            "reordered": tuple(
                chain(
                    chain.from_iterable(_reordered(view, run.sends) for view in run.views), _replayed_out_of_order(run)
                )
            ),
            "gaps": tuple(
                chain(
                    _unseen_numbers(run.views, run.sends),
                    _missing_numbers(run.received, run.sends, lost_texts | excused),
                    _skipped_cursors(run),
                )
            ),
            "phantom": tuple(_phantoms(run.received, run.sends)),
            "unexplained": tuple(chain(_unexplained(run), _unexpected_answers(run))),
            "undecided": tuple(_undecided(run, excused)),
            "silent": tuple(_silent_ends(run)),
            "slow": tuple(_slow(recovered)),
        },
        recoveries=tuple(recovered),
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
    sightings: defaultdict[tuple[int, str, str], dict[str, Received]] = defaultdict(dict)
    for sighting in received:
        sightings[sighting.user, sighting.device, sighting.conversation].setdefault(sighting.message_id, sighting)
    return [_View(*place, tuple(seen.values())) for place, seen in sightings.items()]


# G1, G2: nothing accepted is lost


def _is_excused(send: _Send, run: _Run) -> bool:
    """Say whether the loss of Redis's data may have taken it: never decided, as far as anybody knows, and waiting then.

    A verdict is given only after the commit in SQL, so whoever got one, or the message, is entitled to it for good.
    """
    if not send.accepted or send.sightings or any(sent.outcome == "accepted200" for sent in send.tries):
        return False
    if any(_state(run, sent) in _SETTLED for sent in send.accepted):
        return False
    # The last acceptance counts: what was accepted anew after the emptying was not in the outbox that was emptied.
    last = max(sent.t_start for sent in send.accepted)
    return any(last <= emptied.t_end for emptied in run.emptied)


def _state(run: _Run, sent: Sent) -> str | None:
    state = run.states.get(sent.message_id or "")
    return None if state is None else state.status


def _lost(run: _Run, excused: set[str]) -> tuple[list[Finding], list[Finding]]:
    """Find what no device was ever shown, and what some were and others were not."""
    lost: list[Finding] = []
    missed: list[Finding] = []
    for text, send in run.sends.items():
        if not send.accepted or text in excused:
            continue
        # A 202 that ends in a refusal was told, if late.
        if any(_state(run, sent) == "refused" for sent in send.accepted):
            continue
        seen_by = {(sighting.user, sighting.device if run.joined else "") for sighting in send.sightings}
        unseen = [place for place in run.places(send) if place not in seen_by]
        for user, device in unseen:
            who = f"user {user}" + (f" on device {device}" if device else "")
            finding = Finding(f"accepted, never received by {who}", tuple(send.events))
            (missed if run.joined and seen_by else lost).append(finding)
    return lost, missed


# G3: nothing is shown twice


def _doubled_on_connection(received: Iterable[Received]) -> Iterator[Finding]:
    seen: dict[tuple[int, str, int, str], Received] = {}
    for sighting in received:
        if sighting.is_result:
            continue  # an answer to a send, not a showing
        place = (sighting.user, sighting.device, sighting.connection_no, sighting.message_id)
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


def _redelivered_below_cursor(run: _Run) -> Iterator[Finding]:
    """Find what came again to a protocol 2 device that came back with a cursor above it, under the same epoch."""
    reset = {(event.user, event.device, event.connection_no) for event in run.resets}
    for sighting in run.received:
        place = (sighting.user, sighting.device, sighting.connection_no)
        opened = run.opened.get(place)
        if opened is None or opened.asked_cursor is None or sighting.cursor is None or sighting.is_result:
            continue
        if opened.asked_epoch == opened.epoch and place not in reset and sighting.cursor <= opened.asked_cursor:
            yield Finding(
                f"shown again, though the client came back with cursor {opened.asked_cursor}", (opened, sighting)
            )


def _redelivered_after_pong(run: _Run) -> Iterator[Finding]:
    """Find what came again to a protocol 1 device that had acknowledged it, long enough before anything went wrong."""
    pongs: defaultdict[tuple[int, str, int], list[float]] = defaultdict(list)
    for acked in run.acked:
        joined = run.joined.get((acked.user, acked.device))
        if joined is not None and joined.protocol == 1:
            pongs[acked.user, acked.device, acked.connection_no].append(acked.t)
    last: dict[tuple[int, str, str], Received] = {}
    for sighting in run.received:
        key = (sighting.user, sighting.device, sighting.message_id)
        before = last.get(key)
        last[key] = sighting
        if before is None or before.connection_no == sighting.connection_no:
            continue
        connection = (before.user, before.device, before.connection_no)
        times = pongs.get(connection, [])
        place = bisect_left(times, before.t)
        if place == len(times):
            continue
        pong = times[place]
        closed = run.closed.get(connection)
        if closed is None or closed.t < pong + _TAKEN_SECONDS or run.is_disturbed(pong, pong + _TAKEN_SECONDS, 5.0):
            continue
        if any(pong >= emptied.t_start - _CHECKPOINT_SECONDS and pong <= emptied.t_end for emptied in run.emptied):
            continue
        yield Finding(f"shown again, {sighting.t - pong:.1f} s after the pong that acknowledged it", (before, sighting))


# G4: one order


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


def _replayed_out_of_order(run: _Run) -> Iterator[Finding]:
    """Find numbers that fall on one connection, where the message had been seen before (else `_reordered` finds it)."""
    highest: dict[tuple[int, str, int, str], Received] = {}
    seen: set[tuple[int, str, str]] = set()
    here: set[tuple[int, str, int, str]] = set()  # shown twice on one connection is another matter
    for sighting in run.received:
        known = (sighting.user, sighting.device, sighting.message_id)
        if sighting.seq is None or sighting.is_result:
            continue
        place = (sighting.user, sighting.device, sighting.connection_no, sighting.conversation)
        above = highest.get(place)
        is_again = (sighting.user, sighting.device, sighting.connection_no, sighting.message_id)
        if above is not None and above.seq is not None and sighting.seq < above.seq:
            if known in seen and is_again not in here:
                yield Finding(f"replayed to user {sighting.user} after a higher number", (above, sighting))
        else:
            highest[place] = sighting
        seen.add(known)
        here.add(is_again)


# G6: nothing is silent


def _unseen_numbers(views: Iterable[_View], sends: dict[str, _Send]) -> Iterator[Finding]:
    """Find what exists, as another recipient saw it, and was skipped for good, though nobody was told that it exists."""
    unacknowledged = defaultdict(list)
    for send in sends.values():
        if send.sightings and not send.accepted:
            unacknowledged[send.first.conversation].append(send)
    for view in views:
        highest = max((sighting.seq for sighting in view.sightings if sighting.seq is not None), default=0)
        for send in unacknowledged[view.conversation]:
            is_unseen = all((sighting.user, sighting.device) != (view.user, view.device) for sighting in send.sightings)
            if view.user in send.first.recipients and is_unseen and min(send.seqs, default=highest) < highest:
                reason = f"user {view.user} never sees number {min(send.seqs)} of {view.conversation}, others do"
                yield Finding(reason, tuple(send.events))


def _missing_numbers(
    received: Iterable[Received], sends: dict[str, _Send], unnumbered_texts: set[str]
) -> Iterator[Finding]:
    """Find numbers that nothing has, beyond those that sends without a known number can have taken."""
    numbers: defaultdict[str, set[int]] = defaultdict(set)
    for sighting in received:
        if sighting.seq is not None:
            numbers[sighting.conversation].add(sighting.seq)
    unnumbered: defaultdict[str, int] = defaultdict(int)
    for send in sends.values():
        numbers[send.first.conversation] |= send.seqs
        may_be_stored = any(sent.outcome == "unknown" for sent in send.tries) or send.first.text in unnumbered_texts
        if not send.seqs and may_be_stored:
            unnumbered[send.first.conversation] += 1
    for conversation, known in numbers.items():
        missing = set(range(min(known, default=1), max(known, default=0))) - known
        if len(missing) > unnumbered[conversation]:
            shown = ", ".join(str(number) for number in sorted(missing)[:_SHOWN_OFFENDERS])
            yield Finding(f"{len(missing)} numbers of {conversation} belong to nothing: {shown}", ())


def _skipped_cursors(run: _Run) -> Iterator[Finding]:
    """Find cursors of one connection that do not follow each other, without a reset that says so."""
    resets: defaultdict[tuple[int, str, int], list[Reset]] = defaultdict(list)
    for reset in run.resets:
        resets[reset.user, reset.device, reset.connection_no].append(reset)
    last: dict[tuple[int, str, int], int] = {}
    for place, opened in run.opened.items():
        if opened.asked_cursor is not None and opened.asked_epoch == opened.epoch:
            last[place] = opened.asked_cursor
    for sighting in run.received:
        if sighting.cursor is None or (sighting.user, sighting.device) not in run.joined:
            continue
        place = (sighting.user, sighting.device, sighting.connection_no)
        before = last.get(place)
        if before is not None and sighting.is_result and sighting.cursor <= before:
            continue  # the result of what had been shown already
        last[place] = sighting.cursor
        if before is None or sighting.cursor == before + 1:
            continue
        if not any(reset.t <= sighting.t and reset.last + 1 == sighting.cursor for reset in resets[place]):
            yield Finding(f"cursor {sighting.cursor} after {before} on one connection, and no reset", (sighting,))


def _phantoms(received: Iterable[Received], sends: dict[str, _Send]) -> Iterator[Finding]:
    for sighting in received:
        if sighting.is_notice:
            continue
        send = sends.get(sighting.text)
        if send is None:
            yield Finding("received, but nobody sent it", (sighting,))
        elif send.is_refused:
            yield Finding("received, but its sender was refused", (send.first, sighting))


def _unexplained(run: _Run) -> Iterator[Finding]:
    """Find what no single kind of failure describes: wrong readers, and numbers or ids that contradict each other."""
    for send in run.sends.values():
        for sighting in send.sightings:
            is_own = sighting.is_own and sighting.user == send.first.sender
            if sighting.user not in send.first.recipients and not is_own:
                yield Finding(f"user {sighting.user} is no recipient", (send.first, sighting))
            if sighting.conversation != send.first.conversation:
                yield Finding("received in another conversation", (send.first, sighting))
    answered = [sent for send in run.sends.values() for sent in send.tries if sent.message_id is not None]
    events: list[Sent | Received] = [*answered, *run.received]
    by_id: dict[str, Sent | Received] = {}
    by_number: dict[tuple[str, int], Sent | Received] = {}
    for event in events:
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


def _unexpected_answers(run: _Run) -> Iterator[Finding]:
    """Find answers that good clients cannot have deserved: refusals between friends, and errors that say nothing."""
    for send in run.sends.values():
        if send.first.sender not in run.good:
            continue
        for sent in send.tries:
            is_refusal = sent.outcome == "refused" and sent.code not in _RETRY_REFUSALS
            if is_refusal or (sent.code or "").startswith("http 5"):
                yield Finding(f"a friend's message was answered with {sent.code}", (sent,))
            state = run.states.get(sent.message_id or "")
            if state is not None and state.status == "refused":
                yield Finding(f"a friend's message was refused with {state.code}", (sent, state))


def _undecided(run: _Run, excused: set[str]) -> Iterator[Finding]:
    """Find accepted sends of which the server says nothing final in the end."""
    for text, send in run.sends.items():
        if text in excused:
            continue
        for sent in send.accepted:
            state = run.states.get(sent.message_id or "")
            if state is not None and state.status not in _SETTLED:
                yield Finding(f"accepted, and in the end its state is {state.status!r}", (sent, state))
                break


def _silent_ends(run: _Run) -> Iterator[Finding]:
    """Find protocol 2 connections that the server ended without a close frame, though nothing cut them."""
    cuts = [fault for fault in run.faults if fault.kind in _CUTS_CLIENTS]
    for place, closed in run.closed.items():
        joined = run.joined.get(place[:2])
        if joined is None or joined.protocol != 2 or closed.by != "server" or closed.code is not None:
            continue
        if "mute" in joined.traits:
            continue  # whoever answers no ping counts as gone, and nobody is there to be told
        if place not in run.opened:
            continue  # not greeted yet
        if not any(cut.t_start - 0.2 <= closed.t <= cut.t_end + _CUT_SECONDS for cut in cuts):
            yield Finding(f"a connection of user {closed.user} ended without a word", (run.opened[place], closed))


# G7: everything recovers


def _slow(recovered: Iterable[Recovery]) -> Iterator[Finding]:
    for recovery in recovered:
        if recovery.seconds is not None and recovery.seconds > LIMIT_SECONDS:
            yield Finding(f"slow recovery from {recovery.name}: {recovery.seconds:.1f} s", ())


def _figures(run: _Run, excused: set[str]) -> Figures:
    tries = [sent for send in run.sends.values() for sent in send.tries]
    outcomes = Counter("socket" if s.outcome == "accepted200" and s.via == "socket" else s.outcome for s in tries)
    firsts = [sighting for view in run.views for sighting in view.sightings if not sighting.is_own]
    quiet = _quiet_spans(run)
    # Whoever is away, reads slowly or answers no pings waits for his messages by his own doing.
    peculiar = {place for place, joined in run.joined.items() if joined.traits or joined.kind != "good"}
    delays = sorted(
        first.t - run.sends[first.text].started
        for first in firsts
        if first.text in run.sends
        and (first.user, first.device) not in peculiar
        and _is_within(quiet, run.sends[first.text].started, first.t)
    )
    connections = {
        (sighting.user, sighting.device, sighting.connection_no, sighting.message_id)
        for sighting in run.received
        if not sighting.is_own
    }
    codes = Counter(sent.code for sent in tries if sent.code is not None)
    closes = Counter(
        f"by {closed.by}" if closed.code is None else f"code {closed.code}" for closed in run.closed.values()
    )
    return Figures(
        sent=len(run.sends),
        accepted200=outcomes["accepted200"],
        accepted202=outcomes["accepted202"],
        by_socket=outcomes["socket"],
        refused=outcomes["refused"],
        unknown=outcomes["unknown"],
        unknown_but_received=sum(bool(send.sightings) and not send.accepted for send in run.sends.values()),
        expected_deliveries=sum(
            len(run.places(send)) for text, send in run.sends.items() if send.accepted and text not in excused
        ),
        sightings=len(run.received),
        redelivered=len(connections) - len(firsts),
        excused=len(excused),
        delivery_p50_ms=delays[len(delays) // 2] * 1000 if delays else 0.0,
        delivery_p99_ms=delays[len(delays) * 99 // 100] * 1000 if delays else 0.0,
        delivery_max_ms=delays[-1] * 1000 if delays else 0.0,
        codes=dict(sorted(codes.items())),
        closes=dict(sorted(closes.items())),
        resets=len(run.resets),
        resets_with_gap=sum(reset.first <= reset.last for reset in run.resets),
        devices=_by_device(run, excused),
    )


def _by_device(run: _Run, excused: set[str]) -> tuple[DeviceFigures, ...]:
    owed: defaultdict[Place, int] = defaultdict(int)
    delivered: defaultdict[Place, int] = defaultdict(int)
    again: defaultdict[Place, int] = defaultdict(int)
    for text, send in run.sends.items():
        connections = {(one.user, one.device, one.connection_no) for one in send.sightings}
        shown = Counter((user, device) for user, device, _ in connections)
        for place, count in shown.items():
            again[place] += count - 1
        if send.accepted and text not in excused:
            for place in run.places(send):
                owed[place] += 1
                delivered[place] += place in shown
    return tuple(
        DeviceFigures(
            *place,
            sort=", ".join([f"protocol {joined.protocol}", *joined.traits, *([joined.kind] * (joined.kind != "good"))]),
            owed=owed[place],
            delivered=delivered[place],
            again=again[place],
        )
        for place, joined in sorted(run.joined.items())
    )


def _quiet_spans(run: _Run) -> tuple[list[float], list[float]] | None:
    """Return starts and ends of the time that no fault has touched; None: no fault at all."""
    if not run.faults:
        return None
    starts, ends = [float("-inf")], []
    for fault in sorted(run.faults, key=lambda fault: fault.t_start):
        after = _CUT_SECONDS if fault.kind == "half open" else LIMIT_SECONDS / 2
        start, end = fault.t_start - 0.2, fault.t_end + after
        if start > starts[-1]:
            ends.append(start)
            starts.append(end)
        else:
            starts[-1] = max(starts[-1], end)
    ends.append(float("inf"))
    return starts, ends


def _is_within(spans: tuple[list[float], list[float]] | None, start: float, end: float) -> bool:
    if spans is None:
        return True
    place = bisect_right(spans[0], start) - 1
    return place >= 0 and end <= spans[1][place]
