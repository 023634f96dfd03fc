"""Does a message cost more when there is more of something? The same load at 1x, 4x and 16x.

Each function measures all three sizes on one instance, in turn and close together, so that their ratio is about the size. The
process kinds that are told belong to 1x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.bench import Bench, SetUpFailed, stopped
from benchmarks.figures import Figures, grown
from benchmarks.load import HttpRoute, Load, Route, SocketRoute
from benchmarks.scenarios import Scenario

FACTORS = (1, 4, 16)
_SETTLE_SECONDS, _WARM_SECONDS = 1.0, 1.0
_USERS = 256
_IN_A_ROW = 8
_GROUPS, _GROUP_MEMBERS, _GROUP_USERS = 10, 10, 100
_HISTORY = 1_000
_INBOX = 500  # 16x is 8,000, below INBOX_MAX_ENTRIES
_OUTBOX = 500
_OUTBOX_PAIRS = 64
_ACCEPT_SECONDS = 120.0


def _in_turn(measure: Callable[[int], Figures]) -> Figures:
    """Measure 1x, 4x, 16x and back: what the machine does to all of them then weighs on none more than on another."""
    found: dict[int, list[Figures]] = {factor: [] for factor in FACTORS}
    for factor in (*FACTORS, *reversed(FACTORS)):
        found[factor].append(measure(factor))
    return grown(found)


def _measure_slots(bench: Bench, load: Load, slots: Sequence[Sequence[Route]], unit: str = "message") -> Figures:
    bench.quiet()
    load.keep_sending(slots)
    bench.loop.run(_WARM_SECONDS)
    window = bench.window(load)
    bench.loop.run(bench.options.seconds / 2)
    figures = window.end(unit)
    load.finish()
    return figures


def users(bench: Bench) -> Figures:
    """256, 1,024 and 4,096 connected users, all of whom talk; 64 messages under way.

    Each pair has sent once before, since what is read about it then is paid for once, however many there are. And each sends
    some in a row, since messages of a connection that follow each other closely share pings and acknowledgements: else
    this would be about how far apart they are.
    """

    def measure(factor: int) -> Figures:
        pairs = bench.pairs(_USERS * factor // 2)
        with bench.load() as load:
            load.connect([user_id for pair in pairs for user_id in pair], 2)
            routes = [SocketRoute(load, sender, recipient, (recipient,)) for sender, recipient in pairs]
            load.send_all([routes[slot::64] for slot in range(64)], len(routes))
            return _measure_slots(bench, load, [_in_a_row(routes[slot::64]) for slot in range(64)])

    return _in_turn(measure)


def _in_a_row(routes: Sequence[Route]) -> list[Route]:
    return [route for route in routes for _ in range(_IN_A_ROW)]


def groups(bench: Bench) -> Figures:
    """10, 40 and 160 groups of ten, of the same hundred users, who are in 1, 4 and 16 of them; 10 messages under way."""
    if "groups" not in bench.kept:
        bench.kept["groups"] = _make_groups(bench)
    made: list[tuple[int, list[int]]] = bench.kept["groups"]

    def measure(factor: int) -> Figures:
        with bench.load() as load:
            load.connect(range(1, _GROUP_USERS + 1), 2)
            routes = [
                SocketRoute(load, members[0], group_id, members[1:], "group")
                for group_id, members in made[: _GROUPS * factor]
            ]
            return _measure_slots(bench, load, [routes[slot::_GROUPS] for slot in range(_GROUPS)], "delivery")

    return _in_turn(measure)


def _make_groups(bench: Bench) -> list[tuple[int, list[int]]]:
    """Return ids and members. In each ten of groups every user is in one; neighbours differ from ten to ten."""
    pairs = bench.pairs(_GROUP_USERS // 2)
    made = []
    for tenth in range(FACTORS[-1]):
        # A step that shares no divisor with 50 visits every pair once.
        step = (1, 3, 7, 9, 11, 13, 17, 19, 21, 23, 27, 29, 31, 33, 37, 39)[tenth]
        order = [pairs[place * step % len(pairs)] for place in range(len(pairs))]
        people = [user_id for pair in order for user_id in pair]
        for start in range(0, _GROUP_USERS, _GROUP_MEMBERS):
            members = people[start : start + _GROUP_MEMBERS]
            made.append((bench.group(members), members))
    return made


def history(bench: Bench) -> Figures:
    """Conversations of 1,000, 4,000 and 16,000 messages, 16 sends under way in each. Each round adds what it sends."""
    if "growth history" not in bench.kept:
        bench.kept["growth history"] = _filled_pairs(bench, _HISTORY, is_read=True)
    return _in_turn(lambda factor: _converse(bench, bench.kept["growth history"][factor]))


def inbox(bench: Bench) -> Figures:
    """Recipients who read along and leave 500, 2,000 and 8,000 entries unacknowledged; 16 sends under way to each."""
    if "growth inbox" not in bench.kept:
        bench.kept["growth inbox"] = _filled_pairs(bench, _INBOX, is_read=False)
    return _in_turn(lambda factor: _converse(bench, bench.kept["growth inbox"][factor], _INBOX * factor))


def _filled_pairs(bench: Bench, count: int, *, is_read: bool) -> dict[int, tuple[int, int]]:
    """Return by factor a pair of friends of whom one has written so much to the other, who has read it or was away."""
    pairs = {factor: bench.fresh_pair() for factor in FACTORS}
    for factor, (sender, recipient) in pairs.items():
        with bench.load() as load:
            load.connect([sender, recipient] if is_read else [sender], 2)
            recipients = (recipient,) if is_read else ()
            load.send_all([[SocketRoute(load, sender, recipient, recipients)]] * 64, count * factor)
            if load.problems:
                raise SetUpFailed(f"while filling a conversation: {dict(load.problems)}")
    return pairs


def _converse(bench: Bench, pair: tuple[int, int], lag: int = 0) -> Figures:
    """lag: how many entries the recipient leaves unacknowledged"""
    sender, recipient = pair
    with bench.load() as load:
        load.connect([sender], 2)
        load.connect([recipient], 2, lag=lag)
        return _measure_slots(bench, load, [[SocketRoute(load, sender, recipient, (recipient,))]] * 16)


def outbox(bench: Bench) -> Figures:
    """500, 2,000 and 8,000 accepted messages wait while the workers stand still; the cost of working them off."""
    pairs = bench.pairs(_OUTBOX_PAIRS)

    def measure(factor: int) -> Figures:
        with bench.load() as load:
            load.connect([user_id for pair in pairs for user_id in pair], 1)
            bench.quiet()
            routes = [HttpRoute(load, sender, recipient, (recipient,), is_async=True) for sender, recipient in pairs]
            with stopped(bench.processes["worker"]) as go_on:
                load.accept_all(routes, _OUTBOX * factor, _ACCEPT_SECONDS)
                bench.loop.run(_SETTLE_SECONDS)
                window = bench.window(load)
                go_on()
                load.finish(_ACCEPT_SECONDS)
                return window.end("message")

    return _in_turn(measure)


def _scenario(name: str, title: str, run: Callable[[Bench], Figures], users: int) -> Scenario:
    return Scenario(f"growth_{name}", title, run, users=users, is_growth=True)


GROWTH = [
    _scenario("users", "users who talk: 256, 1,024, 4,096", users, _USERS * FACTORS[-1]),
    _scenario("groups", "groups of ten: 10, 40, 160", groups, 300),
    _scenario("history", "history of the conversation: 1,000, 4,000, 16,000", history, 300),
    _scenario("inbox", "unacknowledged entries of the recipient: 500, 2,000, 8,000", inbox, 300),
    _scenario("outbox", "requests that wait while workers stand still: 500, 2,000, 8,000", outbox, 300),
]
