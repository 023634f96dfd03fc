"""What webhooks are told in which POST, and what follows where one fails: pure rules."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.courier import setback_after
from tasks.posting import Outcome
from tasks.webhook_events import MAX_BODY_BYTES, Wanted, take

_ALL = Wanted(frozenset(("message.stored", "message.recalled", "message.refused")), "all")
_HOUR_MS = 3_600_000


# Events


def _row(shard: int, shard_seq: int, at_ms: int, size: int = 1, **columns: Any) -> Any:
    body = json.dumps({"id": f"{shard}-{shard_seq}", "data": "x" * size})
    row = {"id": f"{shard}-{shard_seq}", "shard": shard, "shard_seq": shard_seq, "kind": "send", "verdict": "stored"}
    row |= {"code": None, "sender_id": 1, "recipient_id": 2, "group_id": None, "body": body, "body_for_sender": None}
    return SimpleNamespace(**(row | {"decided_at_ms": at_ms} | columns))


def test_events_are_by_time_and_never_against_the_order_of_a_shard() -> None:
    """The clock of the second shard's worker was put back between two decisions."""
    rows = {0: [_row(0, 1, 10), _row(0, 2, 40)], 1: [_row(1, 1, 30), _row(1, 2, 5), _row(1, 3, 50)]}

    batch = take(rows, _ALL, 10)

    assert batch.ids == ["0-1", "1-1", "1-2", "0-2", "1-3"]
    assert batch.positions == {0: 2, 1: 3}


def test_a_batch_ends_at_its_number_and_passes_over_what_nobody_asked_for() -> None:
    rows = {0: [_row(0, 1, 1, kind="notice"), _row(0, 2, 2), _row(0, 3, 3, kind="notice"), _row(0, 4, 4)]}

    assert (take(rows, _ALL, 1).ids, take(rows, _ALL, 1).positions) == (["0-2"], {0: 3})
    nothing = take({0: rows[0][:1]}, _ALL, 1)
    assert (nothing.ids, nothing.positions) == ([], {0: 1})


def test_a_batch_is_bounded_in_bytes_yet_takes_one_event_of_any_size() -> None:
    half = MAX_BODY_BYTES // 2
    large = take({0: [_row(0, 1, 1, MAX_BODY_BYTES + 1), _row(0, 2, 2)]}, _ALL, 10)
    several = take({0: [_row(0, number, number, half - 1_000) for number in (1, 2, 3)]}, _ALL, 10)

    assert (large.ids, several.ids) == (["0-1"], ["0-1", "0-2"])
    assert len(several.body(1)) <= MAX_BODY_BYTES


def test_the_same_events_have_the_same_name_and_others_another() -> None:
    """For whoever repeats nothing that he was told under a name before."""
    rows = [_row(0, number, number) for number in (1, 2, 3)]

    one, two, again, three = (take({0: rows[:count]}, _ALL, 10).message_id for count in (1, 2, 2, 3))

    assert one == "0-1"
    assert two == again
    assert len({one, two, three}) == 3
    assert not any("." in name for name in (one, two, three))


# After a failure


def _failing(failures: int, since_ms: int | None = None) -> Any:
    return SimpleNamespace(failures=failures, failing_since_ms=since_ms)


def test_waits_double_up_to_five_minutes_with_jitter() -> None:
    outcome = Outcome(500, "status: 500", 1)
    for failures, most_seconds in ((0, 1), (1, 2), (4, 16), (8, 256), (9, 300), (10_000, 300)):
        waits = [setback_after(_failing(failures), outcome, 1, 0, 120).next_try_at_ms / 1000 for _ in range(50)]
        assert most_seconds / 2 <= min(waits) < max(waits) <= most_seconds


def test_the_next_try_carries_half_and_a_single_event_stays() -> None:
    outcome = Outcome(None, "timeout: ", 1)

    assert [setback_after(_failing(0), outcome, n, 0, 120).batch_events for n in (100, 3, 1)] == [50, 1, 1]


@pytest.mark.parametrize(
    ("status", "failing_hours", "pause"),
    [(500, 119.9, None), (500, 120.0, "failing"), (None, 500.0, "failing"), (410, 0.0, "gone"), (404, 1.0, None)],
)
def test_a_target_that_is_gone_or_has_failed_for_days_is_paused(
    status: int | None, failing_hours: float, pause: str | None
) -> None:
    now_ms = 10_000 * _HOUR_MS
    hook = _failing(9, int(now_ms - failing_hours * _HOUR_MS))

    assert setback_after(hook, Outcome(status, "status", 1), 1, now_ms, 120.0).pause == pause
