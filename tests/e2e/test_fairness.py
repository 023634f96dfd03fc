"""What some clients do costs the others nothing: their latency while somebody misbehaves, against the same run before it (G7).

The misbehaving are a process of their own (tests/support/misbehaving.py). The well-behaved send 100 messages a second; the 99th
percentile from send to receipt may grow by half. On a machine of two cores that also runs the test this is at the mercy of
whatever else runs, so the best of three attempts counts, and a few milliseconds of noise are allowed on top. Where the machine is
so busy that even the undisturbed phase takes more than 60 ms, an attempt says nothing about latency: then it is only checked
that the misbehaving were repelled and the others served, and the test is skipped with that said (in CI it fails).
"""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from models.store import keys
from tests.support.acting import empty_inbox, open_socket
from tests.support.client import ChatSocket, Frame, HttpClient, message_text
from tests.support.instance import Instance, wait_until
from tests.support.misbehaving import Misbehaving

pytestmark = pytest.mark.alone

_PAIRS = ((1, 2), (3, 4), (5, 6), (7, 8))
_BAD = tuple(range(21, 31))
_RATE = 100.0
_PHASE_SECONDS = 4.0
_SETTLE_SECONDS = 0.7
_ATTEMPTS = 3
_FACTOR = 1.5
_NOISE_SECONDS = 0.015
_BUSY_SECONDS = 0.06  # undisturbed, on an idle machine of two cores: 10 to 20 ms
_INBOX_ENTRIES = 10_000


@pytest.fixture(scope="module")
def shared() -> Iterator[Instance]:
    """An instance with the default bounds, but for two that would take longer than a test to reach."""
    with Instance({"SOCKET_OUTBOX_MAX_BYTES": "65536", "REQUEST_MAX_SECONDS": "2"}) as instance:
        instance.seed(30, 0)
        yield instance


@dataclass(frozen=True, slots=True)
class _Latency:
    """Seconds from send to receipt, of one phase."""

    p50: float
    p99: float
    count: int

    @classmethod
    def of(cls, samples: list[float]) -> _Latency:
        ordered = sorted(samples)
        return cls(ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)], len(ordered))

    def __str__(self) -> str:
        return f"p50 {self.p50 * 1000:.1f} ms, p99 {self.p99 * 1000:.1f} ms of {self.count}"


class _WellBehaved:
    """Four pairs: three of the senders write over their sockets, the fourth over HTTP."""

    def __init__(self, instance: Instance, stack: ExitStack) -> None:
        self._instance = instance
        self._sent: dict[str, float] = {}
        self._received: dict[str, float] = {}
        self._is_over = threading.Event()
        self._recipients = [
            stack.enter_context(ChatSocket(instance.base, instance.tokens[to], 2, on_frame=self._note))
            for _, to in _PAIRS
        ]
        self._senders = [stack.enter_context(open_socket(instance, by, 2)) for by, _ in _PAIRS[:-1]]
        self._http = HttpClient(instance.base, instance.tokens[_PAIRS[-1][0]])

    def _note(self, frame: Frame) -> None:
        if frame.message is not None:
            self._received[message_text(frame.message)] = frame.at

    def _send(self, which: int, text: str) -> None:
        self._sent[text] = time.monotonic()
        if which == len(_PAIRS) - 1:
            status, body = self._http.send(_PAIRS[which][1], text, respond_async=True)
            assert status == 202, body
            return
        data = json.dumps({"data": text, "dataType": False, "otherData": None})
        message = {
            "sendto_id": _PAIRS[which][1],
            "chatType": "single",
            "type": "text",
            "data": data,
            "clientMsgId": uuid.uuid4().hex,
        }
        self._senders[which].send_json({"type": "send", "ref": text, "message": message})

    def run(self, seconds: float) -> _Latency:
        """Send at the rate for so long, wait for everything, and return the latencies."""
        self._sent, self._received = {}, {}
        failures: list[BaseException] = []

        def pace(which: int) -> None:
            interval = len(_PAIRS) / _RATE
            due = time.monotonic() + interval * which / len(_PAIRS)
            until = due + seconds
            try:
                while due < until:
                    time.sleep(max(0.0, due - time.monotonic()))
                    self._send(which, uuid.uuid4().hex)
                    due += interval
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=pace, args=(which,)) for which in range(len(_PAIRS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures[0]
        assert wait_until(lambda: len(self._received) >= len(self._sent), 15.0), "messages are missing"
        for recipient in self._recipients:
            cursors = [frame.data["cursor"] for frame in list(recipient.frames) if "cursor" in frame.data]
            recipient.ack(max(cursors))
        return _Latency.of([self._received[text] - at for text, at in self._sent.items()])


def _fill_inbox(instance: Instance, user_id: int, sender_id: int) -> None:
    """Give a user as many entries as an inbox holds: copies of one that he was sent."""
    empty_inbox(instance, user_id)
    assert HttpClient(instance.base, instance.tokens[sender_id]).send(user_id, "x" * 300)[0] == 200
    with instance.redis() as client:
        [entry] = client.lrange(keys.inbox(user_id), 0, -1)
        client.rpush(keys.inbox(user_id), *[entry] * (_INBOX_ENTRIES - 1))
        client.hincrby(keys.cursor(user_id), "next", _INBOX_ENTRIES - 1)


def _was_repelled(kind: str, done: dict[str, int]) -> bool:
    """Whether they did what they were to do, and were answered as they should be."""
    match kind:
        case "stalled_readers":
            # Cutting them off takes some megabytes more: tests/e2e/test_bounds.py.
            return done.get("handshake 101", 0) >= 4 and done.get("send 202", 0) > 100
        case "frame_floods":
            return done.get("closed 4429", 0) > 4
        case "send_floods":
            return done.get("send 429", 0) > done.get("send 202", 0) > 0
        case "connect_floods":
            return done.get("closed 4429", 0) > 100
        case "replays":
            return done.get("replays", 0) > 1 and done.get("frames read", 0) > 1.5 * _INBOX_ENTRIES
        case "slow_heads":
            return done.get("ended", 0) > 100
        case "huge_bodies":
            return done.get("answer 413", 0) > 20
        case "strangers":
            return done.get("closed 4401", 0) > 100
    raise ValueError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "stalled_readers",
        "frame_floods",
        "send_floods",
        "connect_floods",
        "replays",
        "slow_heads",
        "huge_bodies",
        "strangers",
    ],
)
def test_others_feel_nothing_of_it(shared: Instance, kind: str) -> None:
    """The 99th percentile of the well-behaved stays within half as much again."""
    report: list[str] = []
    was_calm = False
    bad = _BAD[-2:] if kind == "replays" else _BAD[:-2]
    if kind == "replays":
        _fill_inbox(shared, *bad)
    with ExitStack() as stack:
        well_behaved = _WellBehaved(shared, stack)
        well_behaved.run(0.5)
        for _ in range(_ATTEMPTS):
            calm = well_behaved.run(_PHASE_SECONDS)
            with Misbehaving(kind, shared.port, {user_id: shared.tokens[user_id] for user_id in bad}) as misbehaving:
                time.sleep(_SETTLE_SECONDS)
                disturbed = well_behaved.run(_PHASE_SECONDS)
            report.append(f"{kind}: calm {calm}; disturbed {disturbed}; {dict(misbehaving.done)}")
            print(report[-1])
            assert _was_repelled(kind, misbehaving.done), report[-1]
            if disturbed.p99 <= max(_FACTOR * calm.p99, calm.p99 + _NOISE_SECONDS):
                return
            was_calm = was_calm or calm.p99 <= _BUSY_SECONDS
    if not was_calm and not os.environ.get("CI"):
        pytest.skip("the machine is too busy to tell: " + "; ".join(report))
    pytest.fail("\n".join(report))
