"""Processor time and memory are those of the processes named, as they themselves would tell."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from benchmarks.costs import Gone, cpu_by_kind, cpu_seconds, rss_kib

# Does what it is told, one line each: works for so many seconds of its own processor time, in a thread, and tells its total.
_CHILD = """
import mmap, sys, threading, time
def work(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
held = []
for line in sys.stdin:
    what, amount = line.split()
    if what == "work":
        thread = threading.Thread(target=work, args=(float(amount),))
        thread.start()
        thread.join()
    elif what == "hold":
        held.append(b"x" * int(amount))
    else:  # ask for memory and not touch it
        held.append(mmap.mmap(-1, int(amount)))
    print(time.process_time(), flush=True)
"""


class _Child:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, what: str, amount: float) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what} {amount}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def child() -> Iterator[_Child]:
    made = _Child()
    yield made
    made.end()


def test_the_time_of_a_process_is_that_of_its_threads_too_even_ended_ones(child: _Child) -> None:
    told_before = child.do("work", 0.0)
    before = cpu_seconds(child.process.pid)

    told = child.do("work", 0.2) - told_before

    spent = cpu_seconds(child.process.pid) - before
    assert told >= 0.2
    assert spent == pytest.approx(told, abs=0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a clock for each process")
def test_less_than_a_tick_of_the_kernel_is_seen(child: _Child) -> None:
    child.do("work", 0.0)
    before = cpu_seconds(child.process.pid)

    child.do("work", 0.003)

    assert 0.003 <= cpu_seconds(child.process.pid) - before < 0.01


def test_waiting_costs_nothing(child: _Child) -> None:
    child.do("work", 0.0)
    before = cpu_seconds(child.process.pid)

    time.sleep(0.2)

    assert cpu_seconds(child.process.pid) - before < 0.02


def test_kinds_are_summed_apart(child: _Child) -> None:
    other = _Child()
    try:
        spent = {"web": child.do("work", 0.1) + other.do("work", 0.1), "redis": time.process_time()}

        found = cpu_by_kind({"web": [child.process.pid, other.process.pid], "redis": [os.getpid()], "beat": []})

        assert found["web"] == pytest.approx(spent["web"], abs=0.05)
        assert found["redis"] == pytest.approx(spent["redis"], abs=0.5)
        assert found["beat"] == 0.0
    finally:
        other.end()


def test_memory_is_that_which_is_held(child: _Child) -> None:
    child.do("work", 0.0)
    processes = {"web": [child.process.pid]}
    before = rss_kib(processes)

    child.do("reserve", 50 * 1024 * 1024)
    child.do("hold", 20 * 1024 * 1024)

    assert rss_kib(processes) - before == pytest.approx(20 * 1024, rel=0.1)


def test_a_process_that_ended_is_no_zero(child: _Child) -> None:
    child.end()

    with pytest.raises(Gone):
        cpu_by_kind({"web": [child.process.pid]})
    with pytest.raises(Gone):
        rss_kib({"web": [child.process.pid]})
