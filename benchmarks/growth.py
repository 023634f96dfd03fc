"""Does a message cost more when there is more of something? The same load at 1x, 4x and 16x, one after the other.

Each function measures all three sizes on one instance, within a minute of each other, so that their ratio is about the size.
The process kinds that are told belong to 1x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.bench import Bench, stopped
from benchmarks.figures import Figures
from benchmarks.load import HttpRoute, SocketRoute
from benchmarks.scenarios import Scenario

FACTORS = (1, 4, 16)
_SETTLE_SECONDS = 1.0
_USERS = 256
_GROUPS, _GROUP_MEMBERS, _GROUP_USERS = 10, 10, 100
_HISTORY = 1_000
_INBOX = 500  # 16x is 8,000, below INBOX_MAX_ENTRIES
_OUTBOX = 500
_OUTBOX_PAIRS = 64
_ACCEPT_SECONDS = 120.0


def _grown(found: Sequence[Figures]) -> Figures:
    """Join the figures of the three sizes into one."""
    costs = [sum(figures.cpu_ms.values()) for figures in found]
    problems: dict[str, int] = {}
    for figures in found:
        for name, count in figures.problems.items():
            problems[name] = problems.get(name, 0) + count
    more = {f"cpu_ms_{factor}x": cost for factor, cost in zip(FACTORS, costs, strict=True)}
    more |= {f"growth_{factor}x": cost / costs[0] for factor, cost in zip(FACTORS[1:], costs[1:], strict=True)}
    return Figures(
        unit=found[0].unit,
        count=sum(figures.count for figures in found),
        seconds=sum(figures.seconds for figures in found),
        cpu_ms=found[0].cpu_ms,
        latency_ms={},
        generator_share=max(figures.generator_share for figures in found),
        foreign_cores=max(figures.foreign_cores for figures in found),
        more=more,
        problems=problems,
    )


def users(bench: Bench) -> Figures:
    """256, 1,024 and 4,096 connected users, all of whom talk; 64 messages under way."""
    found = []
    for factor in FACTORS:
        pairs = bench.pairs(_USERS * factor // 2)
        with bench.load() as load:
            load.connect([user_id for pair in pairs for user_id in pair], 2)
            bench.quiet()
            routes = [SocketRoute(load, sender, recipient, (recipient,)) for sender, recipient in pairs]
            load.keep_sending([routes[slot::64] for slot in range(64)])
            bench.loop.run(bench.options.warm_seconds)
            window = bench.window(load)
            bench.loop.run(bench.options.seconds)
            found.append(window.end("message"))
            load.finish()
    return _grown(found)


def groups(bench: Bench) -> Figures:
    """10, 40 and 160 groups of ten, of the same hundred users, who are in 1, 4 and 16 of them; 10 messages under way."""
    if "groups" not in bench.kept:
        bench.kept["groups"] = _make_groups(bench)
    made: list[tuple[int, list[int]]] = bench.kept["groups"]
    found = []
    for factor in FACTORS:
        with bench.load() as load:
            load.connect(range(1, _GROUP_USERS + 1), 2)
            bench.quiet()
            routes = [
                SocketRoute(load, members[0], group_id, members[1:], "group")
                for group_id, members in made[: _GROUPS * factor]
            ]
            load.keep_sending([routes[slot::_GROUPS] for slot in range(_GROUPS)])
            bench.loop.run(bench.options.warm_seconds)
            window = bench.window(load)
            bench.loop.run(bench.options.seconds)
            found.append(window.end("delivery"))
            load.finish()
    return _grown(found)


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
    pairs = _filled_conversations(bench)
    return _three_conversations(bench, pairs, (0, 0, 0))


def inbox(bench: Bench) -> Figures:
    """Recipients who read along and leave 500, 2,000 and 8,000 entries unacknowledged; 16 sends under way to each."""
    if "inbox" not in bench.kept:
        bench.kept["inbox"] = [bench.fresh_pair() for _ in FACTORS]
        for (sender, recipient), factor in zip(bench.kept["inbox"], FACTORS, strict=True):
            with bench.load() as load:
                load.connect([sender], 2)
                load.send_all([[SocketRoute(load, sender, recipient, ())]] * 64, _INBOX * factor)
    return _three_conversations(bench, bench.kept["inbox"], [_INBOX * factor for factor in FACTORS])


def _filled_conversations(bench: Bench) -> list[tuple[int, int]]:
    if "growth history" not in bench.kept:
        pairs = [bench.fresh_pair() for _ in FACTORS]
        for (sender, recipient), factor in zip(pairs, FACTORS, strict=True):
            with bench.load() as load:
                load.connect([sender, recipient], 2)
                load.send_all([[SocketRoute(load, sender, recipient, (recipient,))]] * 64, _HISTORY * factor)
        bench.kept["growth history"] = pairs
    found: list[tuple[int, int]] = bench.kept["growth history"]
    return found


def _three_conversations(bench: Bench, pairs: Sequence[tuple[int, int]], lags: Sequence[int]) -> Figures:
    found = []
    for (sender, recipient), lag in zip(pairs, lags, strict=True):
        with bench.load() as load:
            load.connect([sender], 2)
            load.connect([recipient], 2, lag=lag)
            bench.quiet()
            load.keep_sending([[SocketRoute(load, sender, recipient, (recipient,))]] * 16)
            bench.loop.run(bench.options.warm_seconds)
            window = bench.window(load)
            bench.loop.run(bench.options.seconds)
            found.append(window.end("message"))
            load.finish()
    return _grown(found)


def outbox(bench: Bench) -> Figures:
    """500, 2,000 and 8,000 accepted messages wait while the workers stand still; the cost of working them off."""
    pairs = bench.pairs(_OUTBOX_PAIRS)
    found = []
    for factor in FACTORS:
        with bench.load() as load:
            load.connect([user_id for pair in pairs for user_id in pair], 1)
            bench.quiet()
            with stopped(bench.processes["worker"]) as go_on:
                routes = [
                    HttpRoute(load, sender, recipient, (recipient,), is_async=True) for sender, recipient in pairs
                ]
                load.accept_all(routes, _OUTBOX * factor, _ACCEPT_SECONDS)
                bench.loop.run(_SETTLE_SECONDS)
                window = bench.window(load)
                go_on()
                load.finish(_ACCEPT_SECONDS)
                found.append(window.end("message", latencies=()))
    return _grown(found)


def _scenario(name: str, title: str, run: Callable[[Bench], Figures], users: int) -> Scenario:
    return Scenario(f"growth_{name}", title, run, users=users, is_long=True, is_growth=True)


GROWTH = [
    _scenario("users", "users who talk: 256, 1,024, 4,096", users, _USERS * FACTORS[-1]),
    _scenario("groups", "groups of ten: 10, 40, 160", groups, 300),
    _scenario("history", "history of the conversation: 1,000, 4,000, 16,000", history, 300),
    _scenario("inbox", "unacknowledged entries of the recipient: 500, 2,000, 8,000", inbox, 300),
    _scenario("outbox", "requests that wait while workers stand still: 500, 2,000, 8,000", outbox, 300),
]
