"""Does memory stay flat? `python -m tests.churn --minutes 20`: sockets come and go, and what every process holds is watched.

Both protocols; sockets that close cleanly, that are dropped, that are reset, and that just fall silent, with messages in
between. The resident memory of web processes and workers and what Redis says it uses are sampled each second. Flat means:
over the last two thirds each kind grows by less than BOUND_MB per 10,000 connects, or by less than NOISE_MB in all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import struct
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.instance import Instance, Kind
from tests.support.misbehaving import ENDS, Crowd, masked, read_answer, send_request

BOUND_MB = 1.0
NOISE_MB = 4.0  # allocators take memory in steps, and a garbage collection falls where it falls

_USERS = 60
_UNDER_WAY = 40
_SILENT_SECONDS = 20.0  # by then the server must have ended a socket that answers nothing
_KINDS: tuple[Kind, ...] = ("web", "worker", "housekeeping", "beat")
_SETTINGS = {
    "HEARTBEAT_SECONDS": "2",  # so that who has fallen silent is dropped within some seconds
    "CHATLOG_MAX_ENTRIES": "50",  # so that the logs are full soon, and grow no more
}


@dataclass(frozen=True, slots=True)
class Sample:
    """What was held at one moment. mb: by kind of process, all of a kind together."""

    at: float
    connects: int
    mb: dict[str, float]


@dataclass(slots=True)
class Verdict:
    """How each kind grew over the last two thirds: MB per 10,000 connects, and MB in all."""

    slopes: dict[str, float] = field(default_factory=dict)
    growths: dict[str, float] = field(default_factory=dict)

    @property
    def is_flat(self) -> bool:
        """Whether nothing grows."""
        return all(slope < BOUND_MB or self.growths[kind] < NOISE_MB for kind, slope in self.slopes.items())


def judge(samples: list[Sample]) -> Verdict:
    """Fit a line through the last two thirds of each kind."""
    late = samples[len(samples) // 3 :]
    verdict = Verdict()
    for kind in late[0].mb:
        points = [(sample.connects / 10_000, sample.mb[kind]) for sample in late]
        verdict.slopes[kind] = _slope(points)
        verdict.growths[kind] = verdict.slopes[kind] * (points[-1][0] - points[0][0])
    return verdict


def _slope(points: list[tuple[float, float]]) -> float:
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


class Churn:
    """Sockets of all users, coming and going at a rate."""

    def __init__(self, instance: Instance, rate: float, seed: int) -> None:
        self._crowd = Crowd(instance.port, {str(user_id): token for user_id, token in instance.tokens.items()})
        self._rate = rate
        self._chance = random.Random(seed)
        self._silent: set[asyncio.Task[None]] = set()
        self.connects = 0
        self.done: Counter[str] = Counter()

    async def run(self, until: float) -> None:
        """Connect at the rate until then, and wait for the last to leave."""
        gate = asyncio.Semaphore(_UNDER_WAY)
        under_way: set[asyncio.Task[None]] = set()
        due = time.monotonic()
        while time.monotonic() < until:
            await gate.acquire()
            task = asyncio.create_task(self._visit())
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            task.add_done_callback(lambda _: gate.release())
            due += 1 / self._rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.gather(*under_way, *self._silent, return_exceptions=True)

    async def _visit(self) -> None:
        number = self._chance.randrange(len(self._crowd.tokens))
        token = self._crowd.tokens[number][1]
        friend_id = self._crowd.tokens[number ^ 1][0]
        v = self._chance.choice((1, 2))
        end = self._chance.choice(("close", "drop", "reset", "silence"))
        try:
            reader, writer = await self._crowd.shake_hands(token, v)
        except ENDS:
            self.done["no handshake"] += 1
            return
        self.connects += 1
        self.done[f"v{v} {end}"] += 1
        try:
            if self._chance.random() < 0.3:
                await self._send(token, friend_id)
            with contextlib.suppress(TimeoutError, *ENDS):
                await asyncio.wait_for(self._read(reader, writer, v), self._chance.uniform(0.05, 0.4))
        except ENDS:
            pass
        if end == "silence" and not reader.at_eof():
            task = asyncio.create_task(self._fall_silent(reader, writer))
            self._silent.add(task)
            task.add_done_callback(self._silent.discard)
            return
        with contextlib.suppress(*ENDS):
            if end == "close":
                writer.write(masked(8, (1000).to_bytes(2, "big")))
                await asyncio.wait_for(self._read(reader, writer, v), 2.0)
            elif end == "reset":
                writer.get_extra_info("socket").setsockopt(*_RESET)
        writer.transport.abort()

    async def _send(self, token: str, to: str) -> None:
        reader, writer = await self._crowd.dial()
        writer.write(send_request(token, to, "x" * self._chance.choice((10, 200, 5_000))))
        self.done[f"send {await read_answer(reader)}"] += 1
        writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, v: int) -> None:
        """Read as a good client does: answer pings, acknowledge what came."""
        while True:
            first, length = await reader.readexactly(2)
            if length >= 126:
                length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8), "big")
            payload = await reader.readexactly(length)
            if first == 0x89:
                writer.write(masked(10, payload))
            elif first == 0x88:
                return
            elif v == 2 and b'"cursor":' in payload and b'"singleChat"' in payload[:40]:
                cursor = json.loads(payload)["cursor"]
                writer.write(masked(1, b'{"type":"ack","cursor":%d}' % cursor))
                self.done["acks"] += 1

    async def _fall_silent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Neither read nor answer any more; notice whether the server ends it."""
        try:
            await asyncio.wait_for(_swallow(reader), _SILENT_SECONDS)
            self.done["silent ones ended"] += 1
        except TimeoutError:
            self.done["silent ones left open"] += 1
        except ENDS:
            self.done["silent ones ended"] += 1
        writer.transport.abort()


_RESET = (1, 13, struct.pack("ii", 1, 0))  # SOL_SOCKET, SO_LINGER: closing resets


async def _swallow(reader: asyncio.StreamReader) -> None:
    while await reader.read(65_536):
        pass


def take_sample(instance: Instance, began: float, connects: int) -> Sample:
    """Measure every kind of process."""
    mb: dict[str, float] = {}
    for kind in _KINDS:
        total = 0.0
        for pid in instance.processes(kind):
            with contextlib.suppress(psutil.Error):
                total += psutil.Process(pid).memory_info().rss / 1e6
        mb[kind] = total
    with instance.redis() as client:
        mb["redis"] = float(client.info("memory")["used_memory"]) / 1e6
    return Sample(time.monotonic() - began, connects, mb)


def churn(instance: Instance, seconds: float, rate: float, seed: int, every: float = 1.0) -> tuple[list[Sample], Churn]:
    """Let sockets come and go on an instance that has its users; return what was measured."""
    visits = Churn(instance, rate, seed)
    began = time.monotonic()
    visitors = threading.Thread(target=lambda: asyncio.run(visits.run(began + seconds)))
    visitors.start()
    samples = []
    while time.monotonic() < began + seconds:
        samples.append(take_sample(instance, began, visits.connects))
        time.sleep(every)
    visitors.join()
    return samples, visits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=60.0, help="connects per second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument("--out", type=Path, help="where to keep the samples, as JSON lines")
    options = parser.parse_args()
    print(f"{options}", flush=True)
    with Instance(_SETTINGS) as instance:
        instance.seed(_USERS, 0)
        samples, visits = churn(instance, options.minutes * 60, options.rate, options.seed)
    if options.out is not None:
        options.out.write_text("".join(json.dumps([s.at, s.connects, s.mb]) + "\n" for s in samples))
    verdict = judge(samples)
    print(f"{visits.connects} connects in {options.minutes:g} minutes; {dict(visits.done)}")
    print(f"{'':14}{'first':>9}{'third':>9}{'last':>9}{'MB per 10,000':>16}")
    for kind, slope in verdict.slopes.items():
        marks = [samples[index].mb[kind] for index in (0, len(samples) // 3, -1)]
        print(f"{kind:14}{marks[0]:9.1f}{marks[1]:9.1f}{marks[2]:9.1f}{slope:16.2f}")
    print("flat" if verdict.is_flat else "GROWING", f"(bound {BOUND_MB} MB per 10,000 connects)")
    return 0 if verdict.is_flat else 1


if __name__ == "__main__":
    sys.exit(main())
