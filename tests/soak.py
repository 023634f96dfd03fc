"""Minutes of traffic with a fault every few seconds, and a verdict: `python -m tests.soak --seconds 300 --rate 200`.

A private copy of the whole system; pairs and a group, both protocols; web processes, workers and Redis killed, workers
stopped and woken. Exits non-zero where something accepted was lost, doubled, reordered or left without a verdict.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.support.checker import check
from tests.support.client import HttpClient
from tests.support.history import History, Sent
from tests.support.instance import Instance, Kind, wait_until
from tests.support.receiver import PersistentReceiver

_USERS = range(1, 41)  # friends in pairs
_MEMBERS = tuple(range(1, 12))  # of group 1
_GROUP_SHARE = 0.05  # of all sends
_STOPPED_SECONDS = (3.0, 6.0)  # longer than a lease
_SETTLE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float
    rate: float
    fault_every: float
    seed: int
    database_url: str


class Faults:
    """Injects a fault every so often, drawn from the seed."""

    def __init__(self, instance: Instance, plan: Plan) -> None:
        self._instance = instance
        self._plan = plan
        self._chance = random.Random(f"{plan.seed}:faults")
        self.counts: Counter[str] = Counter()

    def run(self, until: float) -> None:
        while time.monotonic() + self._plan.fault_every < until:
            time.sleep(self._plan.fault_every)  # the pace of the run
            fault = self._chance.choice(("web", "worker", "redis", "stopped worker"))
            self.counts[fault] += 1
            if fault == "stopped worker":
                self._stop_and_wake()
            else:
                self._kill(fault)  # type: ignore[arg-type]  # the other three are kinds

    def _kill(self, kind: Kind) -> None:
        self._instance.wait_processes(kind)
        pid = self._instance.kill(kind, signal.SIGKILL, self._chance)
        print(f"  killed {kind} {pid}", flush=True)

    def _stop_and_wake(self) -> None:
        pid = self._chance.choice(self._instance.wait_processes("worker"))
        seconds = self._chance.uniform(*_STOPPED_SECONDS)
        print(f"  stopped worker {pid} for {seconds:.1f} s", flush=True)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)


def send_steadily(instance: Instance, history: History, sender_id: int, plan: Plan, until: float) -> None:
    """Send at this user's share of the rate: to his friend, sometimes to the group."""
    chance = random.Random(f"{plan.seed}:{sender_id}")
    client = HttpClient(instance.base, instance.tokens[sender_id])
    friend_id = sender_id + 1 if sender_id % 2 else sender_id - 1
    interval = len(_USERS) / plan.rate
    due = time.monotonic() + chance.uniform(0, interval)
    for number in range(1, 10**9):
        if due > until:
            return
        time.sleep(max(0.0, due - time.monotonic()))
        text = f"from {sender_id} number {number}"
        if sender_id in _MEMBERS and chance.random() < _GROUP_SHARE * len(_USERS) / len(_MEMBERS):
            client.send_recorded(history, sender_id, 1, text, members=_MEMBERS)
        else:
            client.send_recorded(history, sender_id, friend_id, text)
        due += interval


def without_verdict(instance: Instance, history: History) -> list[Sent]:
    """Return the sends that were accepted and of which the server says nothing final."""
    undecided = []
    for sent in history:
        if isinstance(sent, Sent) and sent.outcome == "accepted202":
            status, body = HttpClient(instance.base, instance.tokens[sent.sender]).get(
                f"/api/chat/messages/{sent.message_id}"
            )
            if status != 200 or body["data"]["status"] not in ("stored", "delivered", "refused"):
                undecided.append(sent)
    return undecided


def soak(plan: Plan, out: Path | None) -> bool:
    """Run a plan, print the verdict and return whether everything held."""
    history = History()
    with ExitStack() as stack:
        instance = stack.enter_context(Instance({"DATABASE_URL": plan.database_url}))
        instance.seed(len(_USERS), len(_MEMBERS) - 1)
        receivers = [
            stack.enter_context(
                PersistentReceiver(
                    instance,
                    user_id,
                    instance.tokens[user_id],
                    2 if user_id % 4 < 2 else 1,
                    history=history,
                    seed=plan.seed,
                )
            )
            for user_id in _USERS
        ]
        for receiver in receivers:
            receiver.wait_connected(20.0)
        until = time.monotonic() + plan.seconds
        senders = [
            threading.Thread(target=send_steadily, args=(instance, history, user_id, plan, until)) for user_id in _USERS
        ]
        for sender in senders:
            sender.start()
        faults = Faults(instance, plan)
        faults.run(until)
        for sender in senders:
            sender.join()
        stopped_at = time.monotonic()
        is_complete = wait_until(lambda: not check(history).lost, _SETTLE_SECONDS, poll_seconds=1.0)
        print(f"complete: {is_complete}, {time.monotonic() - stopped_at:.1f} s after the last send")
        undecided = without_verdict(instance, history)
        if not is_complete:
            print(instance.log_tails())
    verdict = check(history)
    if out is not None:
        history.write(out)
    print(f"faults: {dict(faults.counts)}\n{verdict}\naccepted without a verdict: {len(undecided)}")
    return verdict.ok and not undecided


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=100.0, help="sends per second, all users together")
    parser.add_argument("--fault-every", type=float, default=10.0, help="seconds between faults")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    parser.add_argument("--database-url", default="", help="SQLAlchemy URL of an empty database; default: SQLite")
    parser.add_argument("--out", type=Path, help="where to keep the history, as JSON lines")
    options = parser.parse_args()
    plan = Plan(options.seconds, options.rate, options.fault_every, options.seed, options.database_url)
    print(f"{plan}", flush=True)
    return 0 if soak(plan, options.out) else 1


if __name__ == "__main__":
    sys.exit(main())
