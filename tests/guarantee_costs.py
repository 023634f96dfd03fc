"""What the guarantees cost on this machine, for docs/guarantees.md: `python -m tests.guarantee_costs`.

A private copy of the whole system with one pair of friends, asked one thing after the other, so that nothing is shared:
under load batches divide most of it. Prints medians; the load generator of `make bench` measures whole systems.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.support.acting import open_socket
from tests.support.client import HttpClient
from tests.support.instance import Instance, wait_until

_ENTRY = b"x" * 450  # what a text message of 100 bytes is in an outbox or inbox
_TEXT = "x" * 100
_SENDER, _READER = 1, 2


def _median_ms(times: int, action: Callable[[], object]) -> float:
    took = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


def _show(what: str, value: float, unit: str) -> None:
    print(f"{what:72} {value:9.2f} {unit}", flush=True)


def _measure_fsync(instance: Instance, times: int) -> None:
    with closing(instance.redis()) as redis:
        for policy in ("everysec", "always"):
            redis.config_set("appendfsync", policy)
            for together in (1, 32):
                with redis.pipeline(transaction=False) as pipeline:

                    def push(pipeline: object = pipeline, together: int = together) -> None:
                        for _ in range(together):
                            pipeline.rpush("measured", _ENTRY)  # type: ignore[attr-defined]
                        pipeline.execute()  # type: ignore[attr-defined]

                    each = _median_ms(times, push) / together
                _show(f"G1 one push of {together:2} at once, appendfsync {policy}", each * 1000, "µs")
        redis.delete("measured")


def _measure_verdict(instance: Instance, times: int) -> None:
    client = HttpClient(instance.base, instance.tokens[_SENDER])
    accepted = _median_ms(times, lambda: client.send(_READER, _TEXT, respond_async=True))
    decided = _median_ms(times, lambda: client.send(_READER, _TEXT))
    _show("G1 a send that is answered when it is durable (202)", accepted, "ms")
    _show("G1 a send that is answered when it is committed in SQL (200)", decided, "ms")


def _measure_space(instance: Instance, messages: int) -> None:
    client = HttpClient(instance.base, instance.tokens[_SENDER])
    before = _sizes(instance)
    for _ in range(messages):
        assert client.send(_READER, _TEXT)[0] == 200
    after = _sizes(instance)
    for what in before:
        _show(f"{what}, per one-to-one message of 100 bytes", (after[what] - before[what]) / messages, "bytes")
    with closing(instance.redis()) as redis:
        entries, used = (
            redis.llen(f"chat_getmessage_{{{_READER}}}"),
            redis.memory_usage(f"chat_getmessage_{{{_READER}}}"),
        )
    _show("G2 memory of a waiting message in the inbox of who is away", int(used or 0) / int(str(entries)), "bytes")


def _sizes(instance: Instance) -> dict[str, float]:
    with closing(sqlite3.connect(instance.data_dir / "hongyan.db")) as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = database.execute("PRAGMA page_size").fetchone()
    folder = Path(instance.data_dir / "redis")
    written = sum(path.stat().st_size for path in folder.rglob("*.aof"))
    return {"G1 SQL": pages * page_bytes, "G1 append-only file": written}


def _measure_recovery(instance: Instance) -> None:
    """From the kill of a process until a send to a connected friend is answered and shown again."""
    for kind in ("web", "worker", "redis"):
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
        _show(f"G7 kill -9 of one process ({kind}) until sending and connecting work", time.monotonic() - started, "s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=300, help="of each measured action")
    parser.add_argument("--messages", type=int, default=1_000, help="for the space they take")
    options = parser.parse_args()
    with Instance({"RATE_LIMIT_SENDS": "off"}) as instance:
        instance.seed(4, 0)
        _measure_fsync(instance, options.times)
        with open_socket(instance, _READER):
            _measure_verdict(instance, options.times)
        _measure_space(instance, options.messages)
        _measure_recovery(instance)


if __name__ == "__main__":
    main()
