"""Does the harm of a plan's steps: signals to processes, a proxy told to misbehave, Redis emptied, SQLite locked."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import redis

from chaos.history import Emptied, Fault, History
from chaos.plan import Step
from chaos.proxy import Proxy
from tests.support.instance import Instance, InstanceFailed, Kind, wait_until

_UNRECOVERED_SECONDS = 7.0  # how long the next slot waits for the recovery of the last
_RESTART_SECONDS = 8.0
_STEADY_SECONDS = 1.5  # between the steps of a rolling restart
_SHARE_OF_CLIENTS = 0.5

_PROCESSES: dict[str, Kind] = {
    "web": "web",
    "master": "web-master",
    "worker": "worker",
    "beat": "beat",
    "housekeeping": "housekeeping",
    "redis": "redis",
}


class Injector:
    """Injects a plan from a thread of its own.

    real_redis: the embedded Redis's own socket, past the proxy
    is_recovered: says whether everything works again since a moment
    """

    def __init__(
        self,
        instance: Instance,
        proxy: Proxy,
        history: History,
        real_redis: Path | None,
        is_recovered: Callable[[float], bool],
        tell: Callable[[str], None],
    ) -> None:
        self._instance = instance
        self._proxy = proxy
        self._history = history
        self._real_redis = real_redis
        self._is_recovered = is_recovered
        self._tell = tell
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.current: list[str] = []
        self.last_end = 0.0  # when the faults of the newest slot were over
        self.failure: BaseException | None = None

    def start(self, steps: list[Step], begin: float) -> None:
        """Begin; times of the plan count from `begin`, and from later where a slot was late."""
        self._thread = threading.Thread(target=self._run, args=(steps, begin), name="faults", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether faults are still to come."""
        return self._thread is not None and self._thread.is_alive()

    def stop(self) -> None:
        """Inject nothing more, and mend what is broken."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(20.0)

    def _run(self, steps: list[Step], begin: float) -> None:
        try:
            slots: dict[int, list[Step]] = {}
            for step in steps:
                slots.setdefault(step.slot, []).append(step)
            self.last_end = begin
            for slot in slots.values():
                # Slow recoveries delay what follows rather than hide in it.
                wait_until(
                    lambda: self._stop.is_set() or self._is_recovered(self.last_end),
                    max(0.0, self.last_end + _UNRECOVERED_SECONDS - time.monotonic()),
                    0.1,
                )
                if self._stop.wait(max(0.0, begin + slot[0].at - time.monotonic())):
                    return
                # What was late stays late: faults that caught up would strike before their predecessors are felt.
                begin = max(begin, time.monotonic() - slot[0].at)
                threads = [threading.Thread(target=self._strike, args=(step,), daemon=True) for step in slot[1:]]
                for thread in threads:
                    thread.start()
                self._strike(slot[0])
                for thread in threads:
                    thread.join()
                self.last_end = time.monotonic()
        except BaseException as error:
            self.failure = error

    def _strike(self, step: Step) -> None:
        self.current.append(step.kind)
        self._tell(f"{step.kind}{f' for {step.seconds:.1f} s' if step.seconds else ''}")
        verb, _, target = step.kind.partition(" ")
        started = time.monotonic()
        ended: float | None = None
        detail = ""
        try:
            if verb == "kill":
                detail = str(self._instance.kill(_PROCESSES[target], signal.SIGKILL, random.Random(step.choice)))
                started = ended = time.monotonic()
            elif verb == "stop":
                detail = self._stop_and_wake(_PROCESSES[target], step)
            elif step.kind == "empty redis":
                self._empty()
            elif step.kind == "drop clients":
                count = self._proxy.tell("clients", "reset", share=_SHARE_OF_CLIENTS, seed=step.choice)
                detail = f"{count} connections"
            elif step.kind == "half open":
                count = self._proxy.tell("clients", "half_open", share=_SHARE_OF_CLIENTS, seed=step.choice)
                detail = f"{count} connections"
            elif step.kind == "lock sql":
                self._lock(step.seconds)
            elif step.kind == "rolling restart":
                ended = self._restart_everything()
            else:
                detail = self._disturb(verb, target, step)
        except InstanceFailed as error:
            detail = f"not injected: {str(error).splitlines()[0]}"
        finally:
            ended = time.monotonic() if ended is None else ended
            self._history.append(Fault(step.slot, step.kind, started, ended, detail))
            self.current.remove(step.kind)

    def _stop_and_wake(self, kind: Kind, step: Step) -> str:
        pid = self._instance.kill(kind, signal.SIGSTOP, random.Random(step.choice))
        try:
            self._stop.wait(step.seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
                os.kill(pid, signal.SIGCONT)
        return str(pid)

    def _empty(self) -> None:
        assert self._real_redis is not None
        started = time.monotonic()
        try:
            with redis.Redis(unix_socket_path=str(self._real_redis), socket_timeout=5.0) as client:
                while True:
                    try:
                        client.flushall()
                        return
                    except redis.RedisError:
                        if time.monotonic() > started + 5.0:
                            raise InstanceFailed("Redis does not answer") from None
                        time.sleep(0.05)  # it is being restarted, or stopped
        finally:
            # Also where no answer came: it may have been done.
            self._history.append(Emptied(started, time.monotonic()))

    def _lock(self, seconds: float) -> None:
        connection = sqlite3.connect(self._instance.data_dir / "hongyan.db", timeout=5.0, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._stop.wait(seconds)
            connection.execute("ROLLBACK")
        finally:
            connection.close()

    def _disturb(self, verb: str, route: str, step: Step) -> str:
        chance = random.Random(step.choice)
        mend = "mend"
        if verb == "delay":
            seconds = chance.uniform(0.05, 0.5)
            detail = f"{seconds * 1000:.0f} ms"
            self._proxy.tell(route, "delay", seconds=seconds / 2)  # half on each way
        elif verb == "cut":
            detail = f"{self._proxy.tell(route, 'cut')} connections"
        else:
            mend = chance.choice(["mend", "lose"])
            detail = f"{self._proxy.tell(route, 'hold')} connections, {'late' if mend == 'mend' else 'lost'}"
        try:
            self._stop.wait(step.seconds)
        finally:
            self._proxy.tell(route, mend)  # type: ignore[arg-type]  # one of the two
        return detail

    def _restart_everything(self) -> float:
        """Restart one after the other, each when the one before is back. Return when the last was told to end."""
        told = time.monotonic()
        for kind, sig in (
            ("web-master", signal.SIGHUP),
            ("worker", signal.SIGTERM),
            ("housekeeping", signal.SIGTERM),
            ("beat", signal.SIGTERM),
            ("flower", signal.SIGTERM),
            ("redis", signal.SIGTERM),
        ):
            pids = self._instance.processes(kind)  # type: ignore[arg-type]  # each is one
            for pid in pids:
                old = set(self._instance.processes("web" if kind == "web-master" else kind))  # type: ignore[arg-type]
                told = time.monotonic()
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sig)
                gone = old if kind == "web-master" else {pid}

                def is_replaced(kind: str = kind, gone: set[int] = gone, count: int = len(old)) -> bool:
                    now = set(self._instance.processes("web" if kind == "web-master" else kind))  # type: ignore[arg-type]
                    return (
                        len(now - gone) >= (count if kind == "web-master" else 0)
                        and len(now) >= count
                        and not now & gone
                    )

                wait_until(is_replaced, _RESTART_SECONDS, 0.25)
                if kind != "redis":
                    self._stop.wait(_STEADY_SECONDS)
        return told
