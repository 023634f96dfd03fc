"""What is measured: one function for each scenario, from an idle system to figures. Growth has a module of its own."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.bench import Bench, memory_kib
from benchmarks.figures import Figures, latency_ms
from benchmarks.load import HttpRoute, Load, Route, SocketRoute
from benchmarks.wire import request

_SETTLE_SECONDS = 1.0
_OPEN_PAIRS = 50
_GROUP_SLOTS = 2
_IDLE_SECONDS = 4.0
_REPLAY_SECONDS = 60.0
_HISTORY_MESSAGES = 2_000
_HISTORY_SLOTS = 16
_BYSTANDERS, _BYSTANDER_RATE = 10, 50.0
_STORM_PARALLEL = 256


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to measure.

    users: how many must be seeded
    is_quick: part of `--quick`
    """

    name: str
    title: str
    run: Callable[[Bench], Figures]
    users: int = 300
    is_quick: bool = False
    is_growth: bool = False


# Closed loop


def _measure_slots(bench: Bench, load: Load, slots: Sequence[Sequence[Route]], unit: str = "message") -> Figures:
    bench.loop.run(_SETTLE_SECONDS)
    load.keep_sending(slots)
    bench.loop.run(bench.options.warm_seconds)
    window = bench.window(load)
    bench.loop.run(bench.options.seconds)
    figures = window.end(unit)
    load.finish()
    return figures


def closed_http(bench: Bench, in_flight: int) -> Figures:
    """Each slot is a pair of friends: one sends by the API, the other reads protocol 1."""
    pairs = bench.pairs(in_flight)
    with bench.load() as load:
        load.connect([user_id for pair in pairs for user_id in pair], 1)
        slots = [[HttpRoute(load, sender, recipient, (recipient,))] for sender, recipient in pairs]
        return _measure_slots(bench, load, slots)


def closed_socket(bench: Bench, in_flight: int) -> Figures:
    """The same over protocol 2: sends by the socket, acknowledgements by cursor."""
    pairs = bench.pairs(in_flight)
    with bench.load() as load:
        load.connect([user_id for pair in pairs for user_id in pair], 2)
        slots = [[SocketRoute(load, sender, recipient, (recipient,))] for sender, recipient in pairs]
        return _measure_slots(bench, load, slots)


def group(bench: Bench, members: int) -> Figures:
    """One member writes by the API, two messages under way; all others are connected and must show each."""
    user_ids = range(1, members + 2)
    group_id = bench.group(user_ids)
    with bench.load() as load:
        load.connect(user_ids, 1)
        slots = [[HttpRoute(load, 1, group_id, user_ids[1:], "group")] for _ in range(_GROUP_SLOTS)]
        return _measure_slots(bench, load, slots, "delivery")


# Open loop


def open_http(bench: Bench, rate: float) -> Figures:
    """Sends by the API when they are due, over 50 pairs."""
    pairs = bench.pairs(_OPEN_PAIRS)
    with bench.load() as load:
        load.connect([user_id for pair in pairs for user_id in pair], 1)
        routes = [HttpRoute(load, sender, recipient, (recipient,)) for sender, recipient in pairs]
        bench.loop.run(_SETTLE_SECONDS)

        def fire(place: int, at: float) -> None:
            load.launch(routes[place % len(routes)], at=at)

        load.offer(rate, bench.options.warm_seconds, fire)
        window = bench.window(load)
        load.offer(rate, bench.options.seconds, fire)
        figures = window.end("message")
        load.finish()
        # What came after the end was sent within the window as well.
        return dataclasses.replace(figures, latency_ms=latency_ms(load.latencies))


# Connections


def idle(bench: Bench, count: int) -> Figures:
    """Connect so many at once to fresh web processes; then nothing is said. Costs are per connection."""
    bench.fresh_web()
    with bench.load() as load:
        memory_before = memory_kib(bench)
        window = bench.window(load)
        load.connect(range(1, count + 1), 1)
        bench.loop.run(0.0)
        figures = window.end("connection", count=len(load.devices), latencies=load.connect_latencies)
        bench.loop.run(_IDLE_SECONDS)
        bench.quiet()
        memory_after = memory_kib(bench)
        silence = bench.window(load)
        bench.loop.run(_IDLE_SECONDS)
        idle_cores = sum(silence.end("second", count=1).cpu_ms.values()) / 1000 / _IDLE_SECONDS
        return dataclasses.replace(
            figures,
            kib_per_socket=(memory_after - memory_before) / max(1, len(load.devices)),
            more={"idle_cores": idle_cores},
        )


def storm(bench: Bench, count: int) -> Figures:
    """So many connections end at once and come back at once, while a few others go on writing to each other."""
    bystanders = bench.pairs(_BYSTANDERS)
    crowd = range(2 * _BYSTANDERS + 1, 2 * _BYSTANDERS + 1 + count)
    with bench.load() as load:
        load.connect([user_id for pair in bystanders for user_id in pair], 1)
        load.connect(crowd, 2)
        bench.quiet()
        routes = [HttpRoute(load, sender, recipient, (recipient,)) for sender, recipient in bystanders]
        place = 0

        def speak() -> None:
            nonlocal place
            load.launch(routes[place % len(routes)])
            place += 1
            bench.loop.later(1 / _BYSTANDER_RATE, speak)

        speak()
        bench.loop.run(_SETTLE_SECONDS)
        load.connect_latencies.clear()
        window = bench.window(load)
        for user_id in crowd:
            load.devices.pop(user_id).line.drop(is_wanted=True)
        load.connect(crowd, 2, parallel=_STORM_PARALLEL)
        figures = window.end("connection", count=count, latencies=load.connect_latencies)
        others = latency_ms(load.latencies)
        bench.loop.forget_timers()
        load.finish()
        return dataclasses.replace(
            figures,
            more={
                "seconds": figures.seconds,
                "others_p50_ms": others.get("p50", 0.0),
                "others_p99_ms": others.get("p99", 0.0),
            },
        )


# Reading what is there


def replay(bench: Bench, count: int) -> Figures:
    """Somebody comes back to so many messages that wait for him. Latency is not told: it is how long he was away."""
    sender, recipient = bench.fresh_pair()
    with bench.load() as load:
        load.connect([sender], 2)
        load.send_all([[SocketRoute(load, sender, recipient, ())]] * 128, count)
        bench.quiet()
        # Sent once more in our books only: now somebody waits for them.
        load.expect_again(recipient)
        window = bench.window(load)
        load.connect([recipient], 1)
        before = load.problems["lost"]
        load.finish(_REPLAY_SECONDS)
        figures = window.end("message", latencies=())
        is_whole = load.problems["lost"] == before
        return dataclasses.replace(figures, more={"seconds": figures.seconds} if is_whole else {})


def history(bench: Bench) -> Figures:
    """Pages of 50 from a conversation of 2,000 messages, 16 readers, in turn the newest page and one far back."""
    if "history" not in bench.kept:
        sender, recipient = bench.fresh_pair()
        with bench.load() as load:
            load.connect([sender], 2)
            load.send_all([[SocketRoute(load, sender, recipient, ())]] * 64, _HISTORY_MESSAGES)
        bench.kept["history"] = sender, recipient
    sender, recipient = bench.kept["history"]
    base = f"/api/chat/history?chatType=single&peer_id={recipient}&limit=50"
    newest = request("GET", base, bench.address, bench.tokens[sender])
    older = [
        request("GET", f"{base}&before={before}", bench.address, bench.tokens[sender])
        for before in range(100, _HISTORY_MESSAGES // 2, 50)
    ]
    with bench.load() as load:
        newest_seconds: list[float] = []
        older_seconds: list[float] = []
        is_over = False
        waiting = 0

        def read(place: int) -> None:
            nonlocal waiting
            if is_over:
                return
            times = older_seconds if place % 2 else newest_seconds
            started = time.perf_counter()
            waiting += 1

            def answered(status: int, body: bytes) -> None:
                nonlocal waiting
                waiting -= 1
                if status != 200 or body.count(b'"seq":') != 50:
                    load.problems["wrong page"] += 1
                times.append(time.perf_counter() - started)
                read(place + 1)

            load.http.ask(older[place % len(older)] if place % 2 else newest, answered)

        for slot in range(_HISTORY_SLOTS):
            read(slot)
        bench.loop.run(bench.options.warm_seconds)
        newest_seconds.clear()
        older_seconds.clear()
        window = bench.window(load)
        bench.loop.run(bench.options.seconds)
        both = [*newest_seconds, *older_seconds]
        figures = window.end(
            "request",
            count=len(both),
            latencies=both,
            newest_p50_ms=latency_ms(newest_seconds).get("p50", 0.0),
            older_p50_ms=latency_ms(older_seconds).get("p50", 0.0),
        )
        is_over = True
        bench.loop.run(5.0, lambda: waiting == 0)
        return figures


# All of it at once


def mixed(bench: Bench) -> Figures:
    """A second of it: 100 sends by the API, 100 by sockets, 2 to a group of 200, 10 pages of history, 5 reconnects."""
    user_ids = range(1, 202)
    group_id = bench.group(user_ids)
    callers, speakers = bench.pairs(100)[:50], bench.pairs(100)[50:]
    passers = range(203, 253)
    with bench.load() as load:
        load.connect([*(user_id for pair in callers for user_id in pair)], 1)
        load.connect([*(user_id for pair in speakers for user_id in pair), 201, *passers], 2)
        http = [HttpRoute(load, sender, recipient, (recipient,)) for sender, recipient in callers]
        sockets = [SocketRoute(load, sender, recipient, (recipient,)) for sender, recipient in speakers]
        to_group = HttpRoute(load, 1, group_id, user_ids[1:], "group")
        pages = [
            request(
                "GET",
                f"/api/chat/history?chatType=single&peer_id={recipient}&limit=20",
                bench.address,
                bench.tokens[sender],
            )
            for sender, recipient in callers
        ]

        def page_came(status: int, _body: bytes) -> None:
            if status != 200:
                load.problems["wrong page"] += 1

        def came_back() -> None:
            pass

        def fire(place: int, at: float) -> None:
            route = http if place % 2 else sockets
            load.launch(route[place // 2 % len(route)], at=at)
            if place % 100 == 50:
                load.launch(to_group, at=at)
            if place % 20 == 10:
                load.http.ask(pages[place // 20 % len(pages)], page_came)
            if place % 40 == 30:
                user_id = passers[place // 40 % len(passers)]
                device = load.devices.pop(user_id, None)
                if device is not None:
                    device.line.drop(is_wanted=True)
                load.begin_connecting(user_id, 2, came_back)

        bench.loop.run(_SETTLE_SECONDS)
        load.offer(200.0, bench.options.warm_seconds, fire)
        window = bench.window(load)
        load.offer(200.0, bench.options.seconds, fire)
        figures = window.end("delivery")
        load.finish()
        return dataclasses.replace(figures, latency_ms=latency_ms(load.latencies))


SCENARIOS = [
    *(
        Scenario(f"http_{n}", f"sends by HTTP, {n} in flight", partial(closed_http, in_flight=n), is_quick=n == 64)
        for n in (16, 64, 128)
    ),
    *(
        Scenario(f"ws_{n}", f"sends by websocket, {n} in flight", partial(closed_socket, in_flight=n), is_quick=n == 64)
        for n in (16, 64, 128)
    ),
    *(
        Scenario(f"open_{n}", f"sends by HTTP, {n:,} a second", partial(open_http, rate=n), is_quick=n == 300)
        for n in (100, 300, 1_000)
    ),
    *(
        Scenario(f"group_{n}", f"group of {n:,}", partial(group, members=n), users=n + 2, is_quick=n == 200)
        for n in (200, 1_000)
    ),
    *(
        Scenario(f"idle_{n}", f"{n:,} idle sockets", partial(idle, count=n), users=n, is_quick=n == 1_000)
        for n in (1_000, 5_000)
    ),
    Scenario("replay_10000", "10,000 waiting messages", partial(replay, count=10_000)),
    Scenario("history", "pages of history, 16 readers", history),
    Scenario("reconnect_2000", "2,000 sockets reconnect at once", partial(storm, count=2_000), users=2_100),
    Scenario("mixed", "all of it at once", mixed, users=300),
]
