"""The checker on whole runs: devices, connections, acknowledgements, faults. Each seeded defect is found as what it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.checker import check
from chaos.history import (
    Acked,
    Closed,
    Emptied,
    Event,
    Fault,
    History,
    Joined,
    Opened,
    Probe,
    Received,
    Reset,
    Sent,
    State,
    single_conversation,
)

_PAIR = single_conversation(1, 2)
_NOTHING: tuple[Event, ...] = ()


def _sent(number: int, **changes: object) -> Sent:
    sent = Sent(
        sender=1,
        conversation=_PAIR,
        text=f"1 writes {number}",
        recipients=(2,),
        t_start=float(number),
        t_end=number + 0.1,
        outcome="accepted200",
        message_id=f"id-{number}",
        seq=number,
        client_id=f"c-{number}",
    )
    return replace(sent, **changes)  # type: ignore[arg-type]


def _shown(number: int, user: int, device: str = "default", connection_no: int = 1, **changes: object) -> Received:
    received = Received(
        user=user,
        connection_no=connection_no,
        message_id=f"id-{number}",
        seq=number,
        conversation=_PAIR,
        text=f"1 writes {number}",
        t=number + 0.2,
        # The legacy device of user 2 speaks protocol 1, which knows no cursors.
        cursor=None if (user, device) == (2, "default") else number,
        device=device,
        is_own=user == 1,
    )
    return replace(received, **changes)  # type: ignore[arg-type]


def _clean() -> list[Event]:
    """User 1 writes ten messages from one device; his other, and both of user 2, are shown them. One reconnects each."""
    events: list[Event] = [
        Joined(1, "default", 2),
        Joined(1, "second", 2),
        Joined(2, "default", 1),
        Joined(2, "second", 2),
        Opened(1, "default", 1, 0.0, epoch="e"),
        Opened(1, "second", 1, 0.0, epoch="e"),
        Opened(2, "default", 1, 0.0),
        Opened(2, "second", 1, 0.0, epoch="e"),
    ]
    for number in range(1, 11):
        later = 2 if number > 5 else 1
        events += [
            _sent(number),
            _shown(number, 1, is_result=True),
            _shown(number, 1, "second"),
            _shown(number, 2, connection_no=later),
            _shown(number, 2, "second", later),
        ]
    events += [
        Acked(2, "default", 1, 3.3),
        Closed(2, "default", 1, 5.8, None, "server"),
        Opened(2, "default", 2, 5.9),
        Received(2, 2, "id-5", 5, _PAIR, "1 writes 5", 5.95),  # of what came after the last pong
        Closed(2, "second", 1, 5.8, 1012, "server"),
        Opened(2, "second", 2, 5.9, asked_cursor=5, asked_epoch="e", epoch="e"),
        Fault(1, "kill web", 20.0, 20.0, "4711"),
        *[Probe(place, 15 + place / 10, 15.01 + place / 10) for place in range(150)],
        *[State(f"id-{number}", 40.0, "delivered") for number in range(1, 11)],
    ]
    return events


def _place(events: list[Event], kind: type[Event], **wanted: object) -> int:
    return next(
        place
        for place, event in enumerate(events)
        if isinstance(event, kind) and all(getattr(event, name) == value for name, value in wanted.items())
    )


def _change(events: list[Event], place: int, **changes: object) -> None:
    events[place] = replace(events[place], **changes)  # type: ignore[arg-type]


def _lose_on_one_device(events: list[Event]) -> None:
    del events[_place(events, Received, user=2, device="default", message_id="id-10")]


def _lose_on_the_senders_other_device(events: list[Event]) -> None:
    del events[_place(events, Received, user=1, device="second", message_id="id-10")]


def _lose_everywhere(events: list[Event]) -> None:
    events[:] = [event for event in events if not isinstance(event, Received) or event.message_id != "id-10"]


def _show_twice_on_a_connection(events: list[Event]) -> None:
    events.append(_shown(10, 2, connection_no=2, t=30.0))


def _show_again_below_the_cursor(events: list[Event]) -> None:
    """He came back with cursor 5, so 5 must not come; nor may the cursors start there."""
    events.append(_shown(5, 2, "second", 2, t=5.95))


def _show_again_after_the_pong(events: list[Event]) -> None:
    events.append(_shown(2, 2, connection_no=2, t=5.91))


def _replay_backwards(events: list[Event]) -> None:
    events += [_shown(4, 2, connection_no=2, t=5.97)]


def _order_wrongly(events: list[Event]) -> None:
    _change(events, _place(events, Received, user=2, device="default", message_id="id-7"), t=9.5)


def _skip_a_number(events: list[Event]) -> None:
    for place, event in enumerate(list(events)):
        if isinstance(event, Sent | Received) and event.seq == 10:
            _change(events, place, seq=11)


def _skip_a_cursor(events: list[Event]) -> None:
    _change(events, _place(events, Received, user=2, device="second", message_id="id-10"), cursor=11)


def _show_what_nobody_sent(events: list[Event]) -> None:
    events.append(Received(2, 2, "x", 11, _PAIR, "nobody wrote this", 30.0))


def _leave_undecided(events: list[Event]) -> None:
    _change(events, _place(events, Sent, message_id="id-10"), outcome="accepted202", seq=None)
    _change(events, _place(events, State, message_id="id-10"), status="accepted")


def _show_to_the_wrong_user(events: list[Event]) -> None:
    events += [Joined(3, "default", 1), _shown(10, 3, cursor=None)]


def _give_two_ids(events: list[Event]) -> None:
    events += [_sent(10, message_id="another", seq=11, t_start=11.0, t_end=11.1)]


def _lose_a_202_without_excuse(events: list[Event]) -> None:
    """Redis was emptied, but before it was sent."""
    _lose_everywhere(events)
    _change(events, _place(events, Sent, message_id="id-10"), outcome="accepted202", seq=None)
    _change(events, _place(events, State, message_id="id-10"), status="missing")
    events.append(Emptied(9.0, 9.1))


def _lose_a_200_to_an_emptying(events: list[Event]) -> None:
    """A verdict survives the loss of Redis's data."""
    _lose_everywhere(events)
    events.append(Emptied(10.3, 10.4))


def _recover_slowly(events: list[Event]) -> None:
    for place, event in enumerate(list(events)):
        if isinstance(event, Probe) and 20.0 <= event.t_sent < 26.0:
            _change(events, place, t_received=None)


def _refuse_a_friend(events: list[Event]) -> None:
    events.append(_sent(11, outcome="refused", code="stranger_limit", message_id=None, seq=None))


def _answer_500(events: list[Event]) -> None:
    events.append(_sent(11, outcome="unknown", code="http 500", message_id=None, seq=None))


def _end_without_a_word(events: list[Event]) -> None:
    _change(events, _place(events, Closed, user=2, device="second"), code=None)


_DEFECTS: list[tuple[set[str], Callable[[list[Event]], None]]] = [
    ({"missed"}, _lose_on_one_device),
    ({"missed"}, _lose_on_the_senders_other_device),
    ({"lost"}, _lose_everywhere),
    ({"doubled"}, _show_twice_on_a_connection),
    ({"redelivered", "gaps"}, _show_again_below_the_cursor),
    ({"redelivered"}, _show_again_after_the_pong),
    ({"reordered"}, _replay_backwards),
    ({"reordered"}, _order_wrongly),
    ({"gaps"}, _skip_a_number),
    ({"gaps"}, _skip_a_cursor),
    ({"phantom"}, _show_what_nobody_sent),
    ({"undecided"}, _leave_undecided),
    ({"unexplained"}, _show_to_the_wrong_user),
    ({"doubled"}, _give_two_ids),
    ({"lost", "undecided"}, _lose_a_202_without_excuse),
    ({"lost"}, _lose_a_200_to_an_emptying),
    ({"slow"}, _recover_slowly),
    ({"unexplained"}, _refuse_a_friend),
    ({"unexplained"}, _answer_500),
    ({"silent"}, _end_without_a_word),
]


def test_a_clean_run_passes() -> None:
    """Four devices, two of which reconnect, and a fault that nobody felt."""
    verdict = check(_clean())

    assert verdict.ok, str(verdict)
    assert verdict.figures.expected_deliveries == 30
    assert verdict.figures.redelivered == 1
    assert verdict.figures.closes == {"by server": 1, "code 1012": 1}
    assert [recovery.seconds for recovery in verdict.recoveries] == [0.0]


@pytest.mark.parametrize(("kinds", "spoil"), _DEFECTS, ids=[spoil.__name__.strip("_") for _, spoil in _DEFECTS])
def test_a_defect_is_found_as_what_it_is(kinds: set[str], spoil: Callable[[list[Event]], None]) -> None:
    """Each seeded defect is found, and nothing else is."""
    events = _clean()
    spoil(events)

    verdict = check(events)

    assert verdict.kinds == kinds, str(verdict)


def _lose_a_202_with_redis(events: list[Event]) -> None:
    _lose_everywhere(events)
    _change(events, _place(events, Sent, message_id="id-10"), outcome="accepted202", seq=None)
    _change(events, _place(events, State, message_id="id-10"), status="missing")
    events.append(Emptied(10.3, 10.4))


def test_an_undecided_202_may_go_with_redis() -> None:
    """It was accepted before the emptying, and nobody was ever told a verdict: that, and only that, is excused."""
    events = _clean()
    _lose_a_202_with_redis(events)

    verdict = check(events)

    assert verdict.ok, str(verdict)
    assert verdict.figures.excused == 1


@pytest.mark.parametrize(
    "known",
    [
        _sent(10, t_start=10.2, t_end=10.25),
        _shown(10, 2, connection_no=2),
        State("id-10", 41.0, "stored"),
        _sent(10, outcome="accepted202", seq=None, t_start=10.6, t_end=10.7),
    ],
    ids=["a verdict", "a sighting", "a state", "a later acceptance"],
)
def test_what_was_known_of_a_202_is_no_excuse(known: Event) -> None:
    """Whoever got a verdict or the message, or was told 202 again after the emptying, is entitled to it."""
    events = _clean()
    _lose_a_202_with_redis(events)
    events.append(known)

    assert {"lost", "missed"} & check(events).kinds


def test_a_reset_explains_a_gap_and_a_new_epoch_a_redelivery() -> None:
    """Under a new epoch the tail comes again, and the reset says where the cursors go on."""
    events = _clean()
    events += [
        Closed(2, "second", 2, 30.0, 1012, "server"),
        Opened(2, "second", 3, 30.1, asked_cursor=10, asked_epoch="e", epoch="f"),
        Reset(2, "second", 3, 30.1, "f", 1, 0),
        _shown(9, 2, "second", 3, cursor=1, t=30.2),
        _shown(10, 2, "second", 3, cursor=2, t=30.2),
    ]

    verdict = check(events)

    assert verdict.ok, str(verdict)


def test_a_pong_that_may_be_lost_does_not_forbid_a_redelivery() -> None:
    """Its process was killed, or Redis emptied, before anybody can have kept it."""
    for reason in (Fault(2, "kill web", 4.0, 4.0), Emptied(6.0, 6.1)):
        events = _clean()
        _show_again_after_the_pong(events)
        events.append(reason)

        assert "redelivered" not in check(events).kinds


def test_a_flooder_is_owed_nothing() -> None:
    """Not even his messages: but what he is told must be true."""
    events: list[Event] = [Joined(1, "default", 2, "flooder"), Joined(2, "default", 2, "flooder"), _sent(1)]

    assert check(events).ok
    assert check([*events, State("id-1", 9.0, "accepted")]).kinds == {"undecided"}


def test_a_whole_run_survives_its_file(tmp_path: Path) -> None:
    """Every kind of event comes back from the file as it was."""
    history = History([*_clean(), Emptied(1.0, 2.0), Reset(1, "default", 1, 1.0, "e", 1, 0)])

    history.write(tmp_path / "run.jsonl")

    assert list(History.read(tmp_path / "run.jsonl")) == list(history)
