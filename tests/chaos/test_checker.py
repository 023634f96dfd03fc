"""The checker itself: a clean run passes, and each defect put into one is found as what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from chaos.checker import check
from chaos.history import History, Received, Sent, group_conversation, outcome_of, single_conversation
from chaos.history import MessageEvent as Event

_PAIR = single_conversation(1, 2)
_GROUP = group_conversation(7)
_MEMBERS = (1, 2, 3)


def _sent(sender: int, conversation: str, seq: int, t: float) -> Sent:
    members = _MEMBERS if conversation == _GROUP else (1, 2)
    return Sent(
        sender=sender,
        conversation=conversation,
        text=f"{conversation}#{seq}",
        recipients=tuple(member for member in members if member != sender),
        t_start=t,
        t_end=t + 0.5,
        outcome="accepted200",
        message_id=f"id-{conversation}-{seq}",
        seq=seq,
    )


def _received(user: int, sent: Sent, t: float, connection_no: int = 1) -> Received:
    assert sent.message_id is not None
    return Received(user, connection_no, sent.message_id, sent.seq, sent.conversation, sent.text, t)


def _clean() -> list[Event]:
    """Two talk in both directions, three in a group; user 2 loses his connection and is shown his tail again."""
    pair = [_sent(1 + number % 2, _PAIR, number + 1, float(number)) for number in range(6)]
    group = [_sent(_MEMBERS[number % 3], _GROUP, number + 1, number + 0.2) for number in range(6)]
    events: list[Event] = [*pair, *group]
    for sent in (*pair, *group):
        events += [_received(user, sent, sent.t_start + 0.1, 2 if sent.t_start >= 4 else 1) for user in sent.recipients]
    tail = next(event for event in events if isinstance(event, Received) and event.user == 2 and event.t > 2)
    return [*events, replace(tail, connection_no=2, t=4.0)]


def _index(events: list[Event], user: int, conversation: str, seq: int) -> int:
    return next(
        index
        for index, event in enumerate(events)
        if isinstance(event, Received) and (event.user, event.conversation, event.seq) == (user, conversation, seq)
    )


def _index_sent(events: list[Event], conversation: str, seq: int) -> int:
    return next(
        index
        for index, event in enumerate(events)
        if isinstance(event, Sent) and (event.conversation, event.seq) == (conversation, seq)
    )


def _change(events: list[Event], index: int, **changes: object) -> None:
    events[index] = replace(events[index], **changes)  # type: ignore[arg-type]


def _lose(events: list[Event]) -> None:
    del events[_index(events, 3, _GROUP, 2)]


def _lose_the_last(events: list[Event]) -> None:
    del events[_index(events, 1, _PAIR, 6)]


def _lose_what_has_no_number(events: list[Event]) -> None:
    _change(events, _index_sent(events, _PAIR, 2), outcome="accepted202", seq=None)
    del events[_index(events, 1, _PAIR, 2)]


def _show_twice(events: list[Event]) -> None:
    events.append(replace(events[_index(events, 3, _GROUP, 2)], t=9.0))  # type: ignore[arg-type]


def _store_twice(events: list[Event]) -> None:
    seen = events[_index(events, 1, _PAIR, 6)]
    events.append(replace(seen, message_id="another", seq=7, t=9.0))  # type: ignore[arg-type]


def _store_a_repeat_again(events: list[Event]) -> None:
    first = events[_index_sent(events, _PAIR, 6)]
    events.append(replace(first, message_id="another", seq=7, t_start=8.0, t_end=8.5))  # type: ignore[arg-type]


def _show_late(events: list[Event]) -> None:
    _change(events, _index(events, 3, _GROUP, 2), t=9.0)


def _number_against_time(events: list[Event]) -> None:
    """Numbers, and so the order that everybody sees, contradict the order of the sends."""
    for wrong, right in ((4, 5), (5, 4)):
        for index, event in enumerate(list(events)):
            if event.conversation == _GROUP and event.text == f"{_GROUP}#{right}":
                _change(events, index, seq=wrong, **({"t": 6.0 + wrong} if isinstance(event, Received) else {}))
    for user in (1, 2):
        _change(events, _index(events, user, _GROUP, 6), t=20.0)


def _skip_what_others_see(events: list[Event]) -> None:
    """Its sender got no answer, so it need not exist; but it does, and one member is never shown it."""
    _change(events, _index_sent(events, _GROUP, 2), outcome="unknown", message_id=None, seq=None)
    del events[_index(events, 3, _GROUP, 2)]


def _burn_a_number(events: list[Event]) -> None:
    for index, event in enumerate(list(events)):
        if event.conversation == _PAIR and event.seq == 6:
            _change(events, index, seq=7)


def _invent(events: list[Event]) -> None:
    events.append(Received(1, 2, "invented", 7, _PAIR, "never sent", 9.0))


def _deliver_refused(events: list[Event]) -> None:
    _change(events, _index_sent(events, _PAIR, 6), outcome="refused", message_id=None, seq=None)


def _show_to_a_stranger(events: list[Event]) -> None:
    events.append(replace(events[_index(events, 1, _PAIR, 6)], user=9))  # type: ignore[arg-type]


def _disagree_about_a_number(events: list[Event]) -> None:
    _change(events, _index_sent(events, _PAIR, 6), seq=7)


_DEFECTS: list[tuple[str, Callable[[list[Event]], None]]] = [
    ("lost", _lose),
    ("lost", _lose_the_last),
    ("lost", _lose_what_has_no_number),
    ("doubled", _show_twice),
    ("doubled", _store_twice),
    ("doubled", _store_a_repeat_again),
    ("reordered", _show_late),
    ("reordered", _number_against_time),
    ("gaps", _skip_what_others_see),
    ("gaps", _burn_a_number),
    ("phantom", _invent),
    ("phantom", _deliver_refused),
    ("unexplained", _show_to_a_stranger),
    ("unexplained", _disagree_about_a_number),
]


def test_a_clean_history_passes() -> None:
    """A history without a defect passes, and a redelivery on a later connection is counted, not blamed."""
    verdict = check(_clean())

    assert verdict.ok, str(verdict)
    assert verdict.figures.accepted200 == 12
    assert verdict.figures.expected_deliveries == 18
    assert verdict.figures.sightings == 19
    assert verdict.figures.redelivered == 1
    assert str(verdict).startswith("OK: 0 lost, 0 missed, 0 doubled")


@pytest.mark.parametrize(("kind", "spoil"), _DEFECTS, ids=[spoil.__name__.strip("_") for _, spoil in _DEFECTS])
def test_a_defect_is_found(kind: str, spoil: Callable[[list[Event]], None]) -> None:
    """Each seeded defect is found as exactly its own kind, and the report names it."""
    events = _clean()
    spoil(events)

    verdict = check(events)

    assert verdict.kinds == {kind}, str(verdict)
    assert f"  {kind}: " in str(verdict)


def test_an_unanswered_send_may_come_or_not() -> None:
    """A send without an answer is no loss when nobody receives it, and no phantom when somebody does."""
    events = _clean()
    _change(events, _index_sent(events, _PAIR, 6), outcome="unknown", message_id=None, seq=None)
    assert check(events).ok
    assert check(events).figures.unknown_but_received == 1

    del events[_index(events, 1, _PAIR, 6)]

    assert check(events).ok


def test_a_notice_takes_a_number() -> None:
    """A notice that the server made is nobody's send, and its number is not missing."""
    events = _clean()
    _burn_a_number(events)

    events += [Received(user, 2, "notice", 6, _PAIR, "you are friends now", 4.9, is_notice=True) for user in (1, 2)]

    verdict = check(events)
    assert verdict.ok, str(verdict)


def test_two_sends_may_not_share_a_text() -> None:
    """A run whose texts do not tell sends apart is refused, not judged."""
    events = _clean()
    _change(events, _index_sent(events, _PAIR, 6), text=f"{_GROUP}#1")

    with pytest.raises(ValueError, match="not one send"):
        check(events)


def test_a_history_survives_its_file(tmp_path: Path) -> None:
    """A history read from its file equals the one that was written."""
    history = History(_clean())

    history.write(tmp_path / "run.jsonl")

    assert list(History.read(tmp_path / "run.jsonl")) == list(history)


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "accepted200"),
        (202, "accepted202"),
        (400, "refused"),
        (429, "refused"),
        (503, "unknown"),
        (500, "unknown"),
    ],
)
def test_a_status_says_what_became_of_a_send(status: int, outcome: str) -> None:
    """A status promises acceptance, refusal or nothing, as the contract says."""
    assert outcome_of(status) == outcome


@st.composite
def _runs(draw: st.DrawFn) -> list[Event]:
    """Draw a clean run: some conversations, overlapping or not, and receivers that lose their connections."""
    events: list[Event] = []
    now = 0.0
    numbers = {_PAIR: 0, _GROUP: 0, single_conversation(2, 3): 0}
    connections = {1: 1, 2: 1, 3: 1}
    shown: dict[int, list[Received]] = {1: [], 2: [], 3: []}
    for _ in range(draw(st.integers(2, 25))):
        conversation = draw(st.sampled_from(sorted(numbers)))
        numbers[conversation] += 1
        users = _MEMBERS if conversation == _GROUP else tuple(map(int, conversation.split(":")[1:]))
        sender = draw(st.sampled_from(users))
        now += draw(st.sampled_from([0.1, 0.6]))  # overlapping the last, or after it
        sent = replace(
            _sent(sender, conversation, numbers[conversation], now),
            recipients=tuple(user for user in users if user != sender),
        )
        events.append(replace(sent, outcome="accepted202", seq=None) if draw(st.booleans()) else sent)
        for user in sent.recipients:
            if draw(st.integers(0, 4)) == 0:  # the connection is lost; the unacknowledged tail comes again
                connections[user] += 1
                tail = shown[user][-draw(st.integers(1, 3)) :]
                events += [replace(seen, connection_no=connections[user], t=now) for seen in tail]
            shown[user].append(_received(user, sent, now, connections[user]))
            events.append(shown[user][-1])
    return events


def _firsts(events: list[Event]) -> list[int]:
    """Where each user first saw each message."""
    seen: dict[tuple[int, str], int] = {}
    for index, event in enumerate(events):
        if isinstance(event, Received):
            seen.setdefault((event.user, event.message_id), index)
    return sorted(seen.values())


@given(events=_runs())
def test_a_drawn_clean_run_passes(events: list[Event]) -> None:
    """Whatever clean run is drawn, it passes."""
    verdict = check(events)

    assert verdict.ok, str(verdict)


@given(events=_runs(), data=st.data())
def test_a_dropped_delivery_is_lost(events: list[Event], data: st.DataObject) -> None:
    """Taking away all that one user saw of one message is noticed as a loss and as nothing else."""
    victim = events[data.draw(st.sampled_from(_firsts(events)))]
    assert isinstance(victim, Received)
    left = [
        event
        for event in events
        if not (isinstance(event, Received) and (event.user, event.text) == (victim.user, victim.text))
    ]

    verdict = check(left)

    assert verdict.kinds == {"lost"}, str(verdict)
    assert len(verdict.lost) == 1


@given(events=_runs(), data=st.data())
def test_a_repeated_delivery_is_doubled(events: list[Event], data: st.DataObject) -> None:
    """Showing one message again on its connection is noticed as a double and as nothing else."""
    index = data.draw(st.sampled_from(_firsts(events)))

    verdict = check([*events[: index + 1], events[index], *events[index + 1 :]])

    assert verdict.kinds == {"doubled"}, str(verdict)
    assert len(verdict.findings["doubled"]) == 1


@given(events=_runs(), data=st.data())
def test_shuffled_deliveries_are_reordered(events: list[Event], data: st.DataObject) -> None:
    """Changing the order in which one user first sees a conversation on a connection is noticed as that and nothing else."""
    places: dict[tuple[int, int, str], list[int]] = {}
    for index in _firsts(events):
        event = events[index]
        assert isinstance(event, Received)
        places.setdefault((event.user, event.connection_no, event.conversation), []).append(index)
    candidates = [place for place in places.values() if len(place) > 1]
    assume(candidates)
    place = data.draw(st.sampled_from(candidates))
    order = data.draw(st.permutations(place).filter(lambda drawn: list(drawn) != place))
    shuffled = list(events)
    for index, source in zip(place, order, strict=True):
        target, taken = events[index], events[source]
        assert isinstance(target, Received)
        assert isinstance(taken, Received)
        shuffled[index] = replace(taken, t=target.t)

    verdict = check(shuffled)

    assert verdict.kinds == {"reordered"}, str(verdict)
