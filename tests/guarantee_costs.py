"""What the guarantees cost on this machine: `python -m tests.guarantee_costs`; `--publish` puts it into docs/guarantees.md.

A private copy of the whole system with one pair of friends, asked one thing after the other, so that nothing is shared:
under load batches divide most of it. Medians; the load generator of `make bench` measures whole systems.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.report import between
from benchmarks.run import machine
from models.store import keys
from tests.support.acting import open_socket
from tests.support.client import HttpClient
from tests.support.instance import Instance, Kind, wait_until
from tests.support.revision import this_revision

_ENTRY = b"x" * 450  # what a text message of 100 bytes is in an outbox or inbox
_TEXT = "x" * 100
_SENDER, _READER = 1, 2
_PAGE = Path(__file__).resolve().parents[1] / "docs" / "guarantees.md"
_BEGIN, _END = "<!-- costs: written by python -m tests.guarantee_costs --publish -->", "<!-- end of costs -->"

Row = tuple[str, str]  # what, and what it costs


def _median_ms(times: int, action: Callable[[], object]) -> float:
    took = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


def _measure_fsync(instance: Instance, times: int) -> list[Row]:
    took: dict[tuple[str, int], float] = {}
    with closing(instance.redis()) as redis:
        for policy in ("everysec", "always"):
            redis.config_set("appendfsync", policy)
            for together in (1, 32):
                with redis.pipeline(transaction=False) as pipeline:

                    def push(pipeline: object = pipeline, together: int = together) -> None:
                        for _ in range(together):
                            pipeline.rpush("measured", _ENTRY)  # type: ignore[attr-defined]
                        pipeline.execute()  # type: ignore[attr-defined]

                    took[policy, together] = _median_ms(times, push) / together
        redis.delete("measured")
    return [
        (what, f"{took['always', together]:.3f} ms against {took['everysec', together]:.3f} ms")
        for what, together in (
            ("a push to Redis alone, synced (`always`), against `everysec`", 1),
            ("the same, one of 32 that come together", 32),
        )
    ]


def _measure_verdict(instance: Instance, times: int) -> list[Row]:
    client = HttpClient(instance.base, instance.tokens[_SENDER])
    accepted = _median_ms(times, lambda: client.send(_READER, _TEXT, respond_async=True))
    decided = _median_ms(times, lambda: client.send(_READER, _TEXT))
    return [
        ("a send answered when it is durable (202)", f"{accepted:.1f} ms"),
        ("a send answered when it is committed in SQL (200)", f"{decided:.1f} ms"),
    ]


def _measure_space(instance: Instance, messages: int) -> list[Row]:
    client = HttpClient(instance.base, instance.tokens[_SENDER])
    before = _sizes(instance)
    for _ in range(messages):
        assert client.send(_READER, _TEXT)[0] == 200
    after = _sizes(instance)
    with closing(instance.redis()) as redis:
        inbox = keys.inbox(_READER)
        entry_bytes = int(redis.memory_usage(inbox) or 0) / int(str(redis.llen(inbox)))
    rows = [(what, f"{(after[what] - before[what]) / messages:,.0f} bytes") for what in before]
    return [*rows, ("memory of a message that waits in an inbox", f"{entry_bytes:,.0f} bytes")]


def _sizes(instance: Instance) -> dict[str, float]:
    with closing(sqlite3.connect(instance.data_dir / "hongyan.db")) as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    folder = Path(instance.data_dir / "redis")
    written = sum(path.stat().st_size for path in folder.rglob("*.aof"))
    return {
        "space of a one-to-one message of 100 bytes in SQL, indexes included": pages * page_bytes,
        "bytes written to the append-only file for it: outbox, two inboxes, two logs, positions; rewritten away later": written,
    }


def _measure_recovery(instance: Instance) -> list[Row]:
    """From the kill of a process until a send to a friend is answered and his socket opens."""
    rows = []
    killed: dict[Kind, str] = {"web": "a web process; the other one serves", "worker": "a worker", "redis": "Redis"}
    for kind, what in killed.items():
        instance.wait_ready()
        instance.kill(kind)
        started = time.monotonic()
        client = HttpClient(instance.base, instance.tokens[_SENDER], timeout=2.0)

        def is_back(client: HttpClient = client) -> bool:
            try:
                if client.send(_READER, _TEXT)[0] != 200:
                    return False
                with open_socket(instance, _READER):
                    return True
            except Exception:  # whatever the outage looks like from outside
                return False

        assert wait_until(is_back, 30.0)
        seconds = time.monotonic() - started
        rows.append((f"`kill -9` of {what}: until sending and connecting work", f"{seconds:.1f} s"))
    return rows


def _as_table(rows: Sequence[Row]) -> str:
    where = machine()
    intro = (
        f"{time.strftime('%Y-%m-%d')}, {this_revision()}, {where['cores']} cores ({where['processor']}), Python {where['python']},"
        f" load average {where['load_at_start'][0]:g} before the start:"
    )
    return "\n".join([intro, "", "| what it costs | |", "|---|---|", *(f"| {what} | {cost} |" for what, cost in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=300, help="of each measured action")
    parser.add_argument("--messages", type=int, default=1_000, help="for the space they take")
    parser.add_argument("--publish", action="store_true", help="put the table into docs/guarantees.md")
    options = parser.parse_args()
    with Instance({"RATE_LIMIT_SENDS": "off"}) as instance:
        instance.seed(4, 0)
        rows = _measure_fsync(instance, options.times)
        with open_socket(instance, _READER):
            rows += _measure_verdict(instance, options.times)
        rows += _measure_space(instance, options.messages)
        rows += _measure_recovery(instance)
    table = _as_table(rows)
    print(table)
    if options.publish:
        _PAGE.write_text(between(_PAGE, _BEGIN, _END, table))


if __name__ == "__main__":
    main()
