"""The batcher: group commit without a timer, patience with a store that is away, and no end by a bug."""

from __future__ import annotations

import time
from collections.abc import Sequence

import gevent
import pytest
from gevent.event import Event

from models.errors import StoreUnavailable
from models.store.batching import Batcher


class _Store:
    """Answers each item with its double; its round trips are as slow, and fail as often, as a test wants."""

    def __init__(self) -> None:
        self.trips: list[list[int]] = []
        self.is_open = Event()
        self.is_open.set()
        self.failures: list[Exception] = []
        self.is_away = False

    def handle(self, items: Sequence[int]) -> list[int]:
        self.trips.append(list(items))
        self.is_open.wait()
        if self.is_away:
            raise StoreUnavailable("away")
        if self.failures:
            raise self.failures.pop(0)
        return [item * 2 for item in items]


@pytest.fixture
def store() -> _Store:
    return _Store()


def _batcher(store: _Store, patience_seconds: float = 1.0) -> Batcher[int, int]:
    batcher: Batcher[int, int] = Batcher(store.handle, patience_seconds=patience_seconds)
    batcher.start()
    return batcher


def _call_all(batcher: Batcher[int, int], items: Sequence[int]) -> list[int | Exception]:
    """Call for all items at once and return the answers, or the errors."""

    def call(item: int) -> int | Exception:
        try:
            return batcher.call(item)
        except StoreUnavailable as error:
            return error

    callers = [gevent.spawn(call, item) for item in items]
    gevent.joinall(callers, timeout=10, raise_error=True)
    return [caller.get() for caller in callers]


def test_a_lone_call_waits_for_nobody(store: _Store) -> None:
    """Without others each call is a round trip of its own, at once."""
    batcher = _batcher(store)
    began = time.monotonic()

    assert [batcher.call(number) for number in range(20)] == [number * 2 for number in range(20)]

    assert store.trips == [[number] for number in range(20)]
    assert time.monotonic() - began < 0.5


def test_calls_during_a_round_trip_share_the_next(store: _Store) -> None:
    """What is asked for while a round trip is under way goes out together, in order, and each gets its own answer."""
    batcher = _batcher(store)
    store.is_open.clear()
    first = gevent.spawn(batcher.call, 1)
    gevent.idle()
    others = [gevent.spawn(batcher.call, number) for number in range(2, 100)]
    gevent.idle()
    assert batcher.waiting_count == 98

    store.is_open.set()
    gevent.joinall([first, *others], timeout=5, raise_error=True)

    assert store.trips == [[1], [*range(2, 100)]]
    assert [caller.value for caller in others] == [number * 2 for number in range(2, 100)]


def test_a_crowd_is_split_into_bounded_round_trips(store: _Store) -> None:
    """A round trip carries 512 items at most."""
    batcher = _batcher(store)

    answers = _call_all(batcher, range(1_500))

    assert answers == [number * 2 for number in range(1_500)]
    assert max(map(len, store.trips)) <= 512
    assert [item for trip in store.trips for item in trip] == [*range(1_500)]


def test_a_short_absence_is_noticed_by_nobody(store: _Store) -> None:
    """While the store is away within the patience, the same items are tried again, and then answered."""
    batcher = _batcher(store)
    store.failures = [StoreUnavailable("restarting")] * 3

    assert _call_all(batcher, [1, 2, 3]) == [2, 4, 6]

    assert len(store.trips) == 4
    assert store.trips[0] == store.trips[1][: len(store.trips[0])]


def test_patience_ends(store: _Store) -> None:
    """Who has waited as long as the patience lasts is told, soon after; later callers get their own patience."""
    batcher = _batcher(store, patience_seconds=0.3)
    store.is_away = True
    began = time.monotonic()

    answers = _call_all(batcher, [1, 2])

    seconds = time.monotonic() - began
    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    assert 0.3 <= seconds < 1.5
    assert batcher.waiting_count == 0
    store.is_away = False
    assert batcher.call(5) == 10


def test_the_order_survives_a_failure(store: _Store) -> None:
    """Items that are put back go out before those that came later."""
    batcher = _batcher(store)
    store.failures = [StoreUnavailable("once")]
    store.is_open.clear()
    answered: list[int] = []
    for number in (1, 2):
        batcher.submit(number, lambda answer, error, number=number: answered.append(number))  # type: ignore[misc]
    gevent.idle()
    batcher.submit(3, lambda answer, error: answered.append(3))
    store.is_open.set()

    with gevent.Timeout(5):
        while len(answered) < 3:
            gevent.sleep(0.01)

    assert answered == [1, 2, 3]
    assert store.trips[-1] == [1, 2, 3]


def test_a_bug_ends_nothing_but_its_batch(store: _Store) -> None:
    """An error that nobody expects fails its own callers, and the next ones are served."""
    batcher = _batcher(store)
    store.failures = [TypeError("a bug")]

    assert isinstance(_call_all(batcher, [1])[0], StoreUnavailable)
    assert batcher.call(2) == 4


def test_a_long_queue_is_given_up_as_a_whole() -> None:
    """While a store hangs, nobody waits longer than the patience lasts: also those who came behind a full round trip."""

    class Hanging(_Store):
        def handle(self, items: Sequence[int]) -> list[int]:
            self.trips.append(list(items))
            gevent.sleep(0.2)
            raise StoreUnavailable("hangs")

    hanging = Hanging()
    batcher = _batcher(hanging, patience_seconds=0.3)

    answers = _call_all(batcher, range(3_000))

    assert {type(answer) for answer in answers} == {StoreUnavailable}
    # One round trip after the other, each with a patience of its own, would be six times as many.
    assert len(hanging.trips) <= 4
    assert batcher.waiting_count == 0


def test_an_error_of_one_item_is_its_own() -> None:
    """An answer that is an error fails its caller, at once and alone."""
    trips: list[list[int]] = []

    def handle(items: Sequence[int]) -> list[int | StoreUnavailable]:
        trips.append(list(items))
        return [StoreUnavailable("refused") if item == 2 else item for item in items]

    batcher: Batcher[int, int] = Batcher(handle, patience_seconds=5.0)
    batcher.start()

    told: dict[int, tuple[int | None, StoreUnavailable | None]] = {}
    for item in (1, 2, 3):
        batcher.submit(item, lambda answer, error, item=item: told.update({item: (answer, error)}))  # type: ignore[misc]

    with gevent.Timeout(5):
        while len(told) < 3:
            gevent.sleep(0.01)

    assert (told[1], told[3]) == ((1, None), (3, None))
    assert told[2][0] is None
    assert isinstance(told[2][1], StoreUnavailable)
    assert trips == [[1, 2, 3]]


@pytest.mark.parametrize("is_away", [False, True])
def test_who_fails_on_his_answer_costs_the_others_nothing(store: _Store, is_away: bool) -> None:
    """A `done` that raises ends neither the others' answers nor the batcher, whatever it is told."""
    batcher = _batcher(store, patience_seconds=0.1)
    store.is_away = is_away

    def fail(_answer: int | None, _error: StoreUnavailable | None) -> None:
        raise TypeError("a bug")

    batcher.submit(1, fail)
    assert isinstance(_call_all(batcher, [2])[0], StoreUnavailable if is_away else int)

    store.is_away = False
    with gevent.Timeout(5):
        assert batcher.call(3) == 6


def test_too_few_answers_end_nothing_but_their_batch() -> None:
    """Whose answer is whose is not known then: all of the batch are told, and the next ones are served."""
    answers = [[2], [4]]
    batcher: Batcher[int, int] = Batcher(lambda items: answers.pop(0), patience_seconds=1.0)
    batcher.start()

    assert {type(answer) for answer in _call_all(batcher, [1, 1])} == {StoreUnavailable}
    with gevent.Timeout(5):
        assert batcher.call(2) == 4
