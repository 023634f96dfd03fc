"""Guarantees G1 to G4 while processes die: what was accepted arrives once, in order, whatever is killed meanwhile."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from chaos.checker import check
from chaos.history import History, Received, Sent
from tests.conftest import InstanceFactory
from tests.support.client import HttpClient
from tests.support.instance import Instance, Kind, wait_until
from tests.support.receiver import PersistentReceiver

_MARK = "geheim"  # in every text, and so in no log
_USERS = range(1, 21)  # friends in pairs
_SENDS_A_SECOND = 50.0
_KILL_EVERY_SECONDS = 4.0
_UNDER_WAY_SECONDS = 0.03  # about how long 20 messages sent at once take from the first acceptance to the last receipt
_QUIET_SECONDS = 2.0
_RECOVERY_SECONDS = 30.0


def _send_steadily(
    instance: Instance, history: History, sender_id: int, to: int, start: float, stop: threading.Event
) -> None:
    """Send at a fixed rate from `start` on, one at a time and without repeating anything, until told to stop."""
    client = HttpClient(instance.base, instance.tokens[sender_id])
    interval = len(_USERS) / _SENDS_A_SECOND
    due = start
    number = 0
    while not stop.wait(max(0.0, due - time.monotonic())):
        number += 1
        client.send_recorded(history, sender_id, to, f"{_MARK} from {sender_id} number {number}")
        due += interval  # what a stalled send delayed is caught up, so that the rate holds over the run


@contextmanager
def _traffic(instance: Instance, history: History) -> Iterator[None]:
    """Have both users of each pair write to each other for as long as the context lasts.

    All send at the same moments: spread evenly, for most of the time nothing would be under way that a kill could lose.
    """
    stop = threading.Event()
    start = time.monotonic() + 0.1
    senders = [
        threading.Thread(target=_send_steadily, args=(instance, history, user_id, partner_id, start, stop))
        for user_id, partner_id in ((user_id, user_id + 1 if user_id % 2 else user_id - 1) for user_id in _USERS)
    ]
    for sender in senders:
        sender.start()
    try:
        yield
    finally:
        stop.set()
        for sender in senders:
            sender.join()


def _cpu_seconds(instance: Instance, kind: Kind) -> dict[int, float]:
    seconds = {}
    for pid in instance.processes(kind):
        times = psutil.Process(pid).cpu_times()
        seconds[pid] = times.user + times.system
    return seconds


def _kill_at_work(instance: Instance, kind: Kind, before: dict[int, float], chance: random.Random) -> int:
    """Kill the process of a kind that did most since `before`, soon after something was accepted."""
    instance.wait_processes(kind)
    after = _cpu_seconds(instance, kind)
    # Starting costs more than the work of some seconds, so one that has just started is only taken when alone.
    worked = {pid: seconds - before[pid] for pid, seconds in after.items() if pid in before} or after
    victim = max(worked, key=lambda pid: worked[pid])
    with instance.redis() as client:
        wait_until(lambda: bool(client.keys("outbox:*")), 1.0, poll_seconds=0.0)  # an empty list is no key
    time.sleep(chance.uniform(0.0, _UNDER_WAY_SECONDS))
    os.kill(victim, signal.SIGKILL)
    return victim


def _is_quiet(history: History) -> bool:
    """Nobody has seen anything for a while, so that what would come late has come."""
    seen = (e.t_end if isinstance(e, Sent) else e.t for e in history if isinstance(e, Sent | Received))
    newest = max(seen, default=0.0)
    return time.monotonic() - newest > _QUIET_SECONDS


def test_nothing_accepted_is_lost_doubled_or_reordered(
    fresh_instance: InstanceFactory, database_url: str, tmp_path: Path
) -> None:
    """While a drain worker, a web process and Redis are killed under load, every accepted message arrives once, in order."""
    seed = int(os.environ.get("TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
    print(f"TEST_SEED={seed}")
    chance = random.Random(seed)
    victims: list[Kind] = ["worker", "web", "redis"]
    chance.shuffle(victims)
    victims.append("worker")  # once more: most of what can go wrong goes wrong in a drain
    instance = fresh_instance(DATABASE_URL=database_url)
    instance.seed(len(_USERS), 1)
    history = History()

    with ExitStack() as stack:
        receivers = [
            stack.enter_context(
                PersistentReceiver(instance, user_id, instance.tokens[user_id], history=history, seed=seed)
            )
            for user_id in _USERS
        ]
        for receiver in receivers:
            receiver.wait_connected(20.0)
        with _traffic(instance, history):
            for victim in victims:
                before = _cpu_seconds(instance, victim)
                time.sleep(_KILL_EVERY_SECONDS)  # the pace of the run, not a wait for something
                pid = _kill_at_work(instance, victim, before, chance)
                print(f"killed {victim} {pid} after {len(history)} events")
            time.sleep(_KILL_EVERY_SECONDS)
        stopped_at = time.monotonic()
        wait_until(lambda: not check(history).lost, _RECOVERY_SECONDS, poll_seconds=0.25)
        print(f"complete {time.monotonic() - stopped_at:.1f} s after the last send")
        wait_until(lambda: _is_quiet(history), _RECOVERY_SECONDS)

    verdict = check(history)
    history.write(tmp_path / "history.jsonl")
    print(f"history: {tmp_path / 'history.jsonl'}\n{verdict}")
    connections = [socket for receiver in receivers for socket in receiver.connections]
    print(f"connections: {len(connections)} for {len(receivers)} users")
    assert verdict.ok, f"TEST_SEED={seed}\n{verdict}"
    assert [socket.error for socket in connections if socket.error is not None] == []
    # A protocol-1 client returns only where no close frame came (ORIG 2.8).
    assert {socket.close_code for socket in connections} <= {None}
    for path in instance.log_dir.glob("*.log"):
        assert _MARK not in path.read_text(errors="replace"), f"{path} shows message texts"
    # Enough happened for the verdict to mean something.
    assert verdict.figures.accepted200 > 10 * _SENDS_A_SECOND
