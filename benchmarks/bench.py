"""The system under measurement, as scenarios see it: its processes, its users, its API, and the window that is measured."""

from __future__ import annotations

import gc
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from benchmarks.costs import cpu_by_kind, rss_kib
from benchmarks.dialect import HONGYAN, Dialect
from benchmarks.figures import Figures, latency_ms, per_unit_ms
from benchmarks.load import Load
from benchmarks.wire import HttpLine, Loop, request
from tests.support.instance import Instance, wait_until

# As many as anyone can send: each is counted as by default, none is refused.
ENVIRONMENT = {"RATE_LIMIT_SENDS": "1000000 per second", "RATE_LIMIT_FRAMES": "1000000 per second"}

_CALL_SECONDS = 30.0
_QUIET_CORES = 0.25  # what all processes use together while nothing happens, with room
_QUIET_SECONDS = 15.0
_LOOK_SECONDS = 0.5
_RELOAD_SECONDS = 60.0


class SetUpFailed(Exception):
    """What a scenario needs could not be made. The text says what."""


@dataclass(frozen=True, slots=True)
class Options:
    """How long a scenario measures, after how long of the same load."""

    seconds: float = 6.0
    warm_seconds: float = 2.0
    is_quick: bool = False


class System(Protocol):
    """Processes that serve on a port of this machine. tokens: of the users that were seeded, by their ids from 1"""

    port: int
    tokens: dict[int, str]

    def processes_by_kind(self) -> dict[str, list[int]]:
        """Return the ids of all its processes by kind."""
        raise NotImplementedError


class Bench:
    """A system with seeded users, as scenarios see it. kept: what they leave for their next round, by their own key"""

    dialect: Dialect = HONGYAN

    def __init__(self, system: System, options: Options) -> None:
        self._system = system
        self.options = options
        self.address = ("127.0.0.1", system.port)
        self.tokens = system.tokens
        self.loop = Loop()
        self.kept: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self._next_pair = len(self.tokens) // 2 * 2
        self.processes = system.processes_by_kind()

    def prepare(self) -> None:
        """Get ready for a measurement: what an earlier one left must not be paid for by this one."""
        self.processes = self._system.processes_by_kind()

    # Load

    @contextmanager
    def load(self) -> Iterator[Load]:
        """Open a load, and end it so that the next begins on a quiet system."""
        load = Load(self.loop, self.address, self.tokens, self._numbers, self.dialect)
        gc.collect()
        gc.disable()  # a collection among ten thousand messages under way takes longer than a delivery
        try:
            yield load
        finally:
            gc.enable()
            load.close()
            self.quiet()

    def quiet(self, seconds: float = _QUIET_SECONDS) -> None:
        """Wait until the processes have nothing left to do, but not longer than so many seconds."""
        deadline = time.monotonic() + seconds
        before = sum(cpu_by_kind(self.processes).values())
        while time.monotonic() < deadline:
            self.loop.run(_LOOK_SECONDS)
            after = sum(cpu_by_kind(self.processes).values())
            if after - before < _QUIET_CORES * _LOOK_SECONDS:
                return
            before = after

    def window(self, load: Load) -> Window:
        """Begin to measure."""
        return Window(self, load)

    def fresh_web(self) -> None:
        """Replace the processes that hold sockets, so that their memory is that of a start. Raises SetUpFailed."""
        raise NotImplementedError

    # Users and groups

    def pairs(self, count: int) -> list[tuple[int, int]]:
        """Return the first so many pairs of friends."""
        return [(2 * place + 1, 2 * place + 2) for place in range(count)]

    def fresh_pair(self) -> tuple[int, int]:
        """Return friends whom nobody has used yet, from the end of the seed."""
        self._next_pair -= 2
        return self._next_pair + 1, self._next_pair + 2

    def group(self, members: Sequence[int]) -> int:
        """Return the id of a group of these users, the first is the owner and the second his friend; made where needed."""
        raise NotImplementedError


class OwnBench(Bench):
    """One instance of ours. group_size: of group 1, without its owner, as it was seeded"""

    def __init__(self, instance: Instance, options: Options, group_size: int) -> None:
        super().__init__(instance, options)
        self._instance = instance
        self._group_size = group_size

    def fresh_web(self) -> None:
        """Have gunicorn replace its processes. Raises SetUpFailed."""
        old = set(self._instance.processes("web"))
        self._instance.kill("web-master", signal.SIGHUP)

        def are_new() -> bool:
            now = set(self._instance.processes("web"))
            return len(now) == len(old) and not now & old

        if not wait_until(are_new, _RELOAD_SECONDS):
            raise SetUpFailed("gunicorn did not replace its processes")
        self._instance.wait_ready()
        self.processes = self._instance.processes_by_kind()
        self.quiet()

    def call(self, user_id: int, method: str, path: str, **body: Any) -> Any:
        """Call the API and return the answer's `data`. Raises SetUpFailed: it refused, or did not answer."""
        return self.call_all([(user_id, method, path, body)])[0]

    def call_all(self, calls: Sequence[tuple[int, str, str, dict[str, Any]]], parallel: int = 8) -> list[Any]:
        """Make calls of (user, method, path, body), some at a time, and return the answers' `data`. Raises SetUpFailed."""
        found: list[Any] = [None] * len(calls)
        queue = list(enumerate(calls))[::-1]
        left = len(calls)
        refused: list[str] = []

        def work(line: HttpLine) -> None:
            if not queue:
                line.drop(is_wanted=True)
                return
            place, (user_id, method, path, body) = queue.pop()
            data = json.dumps(body).encode() if body else b""

            def answered(status: int, answer: bytes) -> None:
                nonlocal left
                left -= 1
                if status == 200:
                    found[place] = json.loads(answer)["data"]
                else:
                    refused.append(f"{method} {path}: {status} {answer[:300].decode(errors='replace')}")
                work(line if line.is_open else HttpLine(self.loop, self.address))

            line.ask(request(method, path, self.address, self.tokens[user_id], data), answered)

        for _ in range(min(parallel, left)):
            work(HttpLine(self.loop, self.address))
        self.loop.run(_CALL_SECONDS + len(calls) * 0.1, lambda: left == 0)
        if left or refused:
            raise SetUpFailed(refused[0] if refused else f"{left} calls were not answered, of {calls[0][2]}")
        return found

    def group(self, members: Sequence[int]) -> int:
        """Return group 1 where these are its members, else make one through the API."""
        if tuple(members) == tuple(range(1, self._group_size + 2)):
            return 1
        key = f"group {hash(tuple(members))}"
        if key not in self.kept:
            owner = members[0]
            row = self.call(owner, "POST", f"/api/chat/ismygoodfriend/{members[1]}")
            known = {one["id"] for one in self.call(owner, "GET", "/api/chat/grouplist/1?limit=50")}
            self.call(owner, "POST", "/api/chat/group/create", userIds=[row["id"]])
            found = {one["id"] for one in self.call(owner, "GET", "/api/chat/grouplist/1?limit=50")} - known
            if len(found) != 1:
                raise SetUpFailed(f"{len(found)} new groups after making one")
            group_id = found.pop()
            self.call_all(
                [
                    (user_id, "POST", "/api/chat/groupInviteUser", {"group_id": group_id, "user_id": user_id})
                    for user_id in members[2:]
                ]
            )
            self.kept[key] = group_id  # only now: what fails on the way leaves no half a group to the next round
        return int(self.kept[key])


class Window:
    """What is measured between two moments."""

    def __init__(self, bench: Bench, load: Load) -> None:
        self._bench, self._load = bench, load
        load.latencies.clear()
        self._delivered = load.delivered
        self._busy = _busy_seconds()
        self._own = time.process_time()
        self._cpu = cpu_by_kind(bench.processes)
        self._clock = time.perf_counter()

    def end(
        self, unit: str, count: int | None = None, latencies: Sequence[float] | None = None, **more: float
    ) -> Figures:
        """Return the figures. count: of units, else deliveries. latencies: in seconds, else those of deliveries"""
        seconds = time.perf_counter() - self._clock
        cpu = cpu_by_kind(self._bench.processes)
        own = time.process_time() - self._own
        busy = _busy_seconds() - self._busy
        used = sum(cpu.values()) - sum(self._cpu.values())
        found = self._load.delivered - self._delivered if count is None else count
        return Figures(
            unit=unit,
            count=found,
            seconds=seconds,
            cpu_ms=per_unit_ms(self._cpu, cpu, found),
            latency_ms=latency_ms(self._load.latencies if latencies is None else latencies),
            generator_share=own / used if used else 0.0,
            foreign_cores=max(0.0, busy - used - own) / seconds,
            more=more,
            problems=self._load.problems,  # counted on after the end: what is lost shows then
        )


def _busy_seconds() -> float:
    """Return the seconds that all processors of this machine have been busy."""
    times = psutil.cpu_times()
    return float(times.user + times.system + times.nice + getattr(times, "irq", 0.0) + getattr(times, "softirq", 0.0))


def memory_kib(bench: Bench) -> float:
    """Return the resident memory of all processes of the instance."""
    return rss_kib(bench.processes)


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[Callable[[], None]]:
    """Stop processes (SIGSTOP); yields what lets them go on, which happens at the end in any case."""
    is_stopped = True

    def go_on() -> None:
        nonlocal is_stopped
        if is_stopped:
            is_stopped = False
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield go_on
    finally:
        go_on()
