"""The courier: brings webhooks the decisions that lie behind their positions. One per process of the housekeeping workers.

The Celery task is a bell that comes every few seconds: where there are webhooks it sets a thread going that watches for
something behind them, takes their leases, and hands each to a thread of its own, so that a target that is slow or dead delays
nobody else, nor any other task. A position moves after the target has confirmed, so what a crash interrupts is told again,
with the same ids.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from contextlib import suppress
from typing import Any

import structlog

from models import shards, webhooks
from models.database import Database
from models.errors import ModelError, StoreUnavailable
from models.store import webhooks as leases
from models.store.connection import Client
from models.webhooks import Attempt, Pause, Setback
from settings import Settings
from tasks.posting import Outcome, post
from tasks.webhook_events import Batch, Wanted, take

log = structlog.get_logger()

LEASE_SECONDS = 5.0
_PAGE_ROWS = 50  # of a shard read at once: with bodies of the largest size some megabytes in all
_LOOK_SECONDS = 0.25  # two small queries, where a bell of Celery costs as much as ten messages
_PATIENCE_SECONDS = 1.0  # with SQL or Redis
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 300.0  # a target that is back waits so long at most
_GONE = 410


class Courier:
    def __init__(self, settings: Settings, database: Database, client: Client) -> None:
        self._settings = settings
        self._database = database
        self._client = client
        self._token = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._held_until: dict[int, float] = {}  # webhook id -> until when its lease is ours, of the monotonic clock
        self._renew_at = 0.0
        self._watcher: threading.Thread | None = None

    def run(self) -> int:
        """Have this process look after webhooks from now on, for as long as any is at work. Returns how many are.

        Raises DatabaseUnavailable: the next bell is never far.
        """
        with self._database.reading() as connection:
            at_work = len(webhooks.load_at_work(connection))
        with self._lock:
            if at_work and self._watcher is None:
                # A daemon, as all threads here are: a stop of the worker waits for no target.
                self._watcher = threading.Thread(target=self._watch, name="webhooks", daemon=True)
                self._watcher.start()
        return at_work

    def _watch(self) -> None:
        while True:
            try:
                is_any_at_work = self._hand_out()
                self._keep_leases()
                with self._lock:
                    if not is_any_at_work and not self._held_until:
                        self._watcher = None
                        return
                time.sleep(_LOOK_SECONDS)
            except ModelError as error:
                log.warning("webhooks_not_looked_at", error=str(error))
                time.sleep(_PATIENCE_SECONDS)
            except Exception:
                log.exception("webhooks_not_looked_at")  # a bug; without another look nobody would be told anything
                time.sleep(_PATIENCE_SECONDS)

    def _hand_out(self) -> bool:
        """Set a thread going for each webhook with something behind that nobody serves. Return whether any is at work."""
        with self._database.reading() as connection:
            at_work = webhooks.load_at_work(connection)
            last = shards.load_last_positions(connection) if at_work else {}
        now_ms = _now_ms()
        wanted = [
            hook.id
            for hook in at_work
            if hook.next_try_at_ms <= now_ms
            and hook.id not in self._held_until
            and webhooks.count_behind(webhooks.decode_positions(hook.positions), last)
        ]
        if wanted:
            held_until = time.monotonic() + LEASE_SECONDS
            for webhook_id in leases.take_leases(self._client, wanted, self._token, int(LEASE_SECONDS * 1000)):
                with self._lock:
                    self._held_until[webhook_id] = held_until
                threading.Thread(target=self._serve, args=(webhook_id,), name="webhook", daemon=True).start()
        return bool(at_work)

    def _keep_leases(self) -> None:
        """Renew what is held. What could not be renewed in time is served no further."""
        now = time.monotonic()
        with self._lock:
            held = list(self._held_until)
        if not held or now < self._renew_at:
            return
        self._renew_at = now + LEASE_SECONDS / 4
        kept = leases.renew_leases(self._client, held, self._token, int(LEASE_SECONDS * 1000))
        with self._lock:
            for webhook_id in held:
                if webhook_id in self._held_until:
                    self._held_until[webhook_id] = now + LEASE_SECONDS if webhook_id in kept else 0.0

    def _serve(self, webhook_id: int) -> None:
        try:
            self._deliver(webhook_id)
        except ModelError as error:
            log.warning("webhook_interrupted", webhook_id=webhook_id, error=str(error))
            time.sleep(_PATIENCE_SECONDS)  # what was posted and not recorded will be posted again: not at once
        except Exception:
            log.exception("webhook_crashed", webhook_id=webhook_id)
            self._note_crash(webhook_id)
        finally:
            try:
                leases.release_lease(self._client, webhook_id, self._token)
            except StoreUnavailable:
                pass  # it runs out by itself
            # Afterwards: else the watcher could have taken what is given back here.
            with self._lock:
                del self._held_until[webhook_id]

    def _note_crash(self, webhook_id: int) -> None:
        """Let a failure of our own wait and be seen as one of the target is: nothing is passed over."""
        outcome = Outcome(None, "internal_error", 0)
        with suppress(ModelError), self._database.writing() as connection:
            hook = webhooks.load(connection, webhook_id)
            if hook is not None:
                attempt = Attempt(_now_ms(), "", 0, "", outcome.status, 0, outcome.error)
                setback = setback_after(hook, outcome, 0, _now_ms(), self._settings.webhook_pause_hours)
                webhooks.record(connection, hook, attempt, setback=setback)

    def _deliver(self, webhook_id: int) -> None:
        """Deliver until nothing lies behind or a POST fails, for as long as the lease is ours."""
        while time.monotonic() < self._held_until[webhook_id]:
            with self._database.reading() as connection:
                hook = webhooks.load(connection, webhook_id)
                if hook is None or hook.paused or hook.next_try_at_ms > _now_ms():
                    return
                batch = self._read(connection, hook)
            if batch.events:
                if not self._post(hook, batch):
                    return
            elif batch.positions:
                with self._database.writing() as connection:
                    webhooks.pass_over(connection, hook, batch.positions)
            else:
                return

    def _read(self, connection: Any, hook: Any) -> Batch:
        positions = webhooks.decode_positions(hook.positions)
        rows = {
            shard: webhooks.load_decisions_after(connection, shard, positions.get(shard, 0), _PAGE_ROWS)
            for shard, newest in shards.load_last_positions(connection).items()
            if newest > positions.get(shard, 0)
        }
        return take(rows, Wanted(frozenset(hook.events.split(",")), hook.chat_type), hook.batch_events)

    def _post(self, hook: Any, batch: Batch) -> bool:
        """Post a batch and keep how that went. Return whether it was delivered."""
        at_ms = _now_ms()
        outcome = send(self._settings, hook, batch, at_ms)
        attempt = attempt_of(outcome, batch, at_ms)
        if outcome.error is None:
            if hook.failures:
                log.info("webhook_recovered", webhook_id=hook.id, failures=hook.failures)
            grown = min(hook.max_events, hook.batch_events * 2)
            with self._database.writing() as connection:
                webhooks.record(connection, hook, attempt, positions=batch.positions, batch_events=grown)
            return True
        setback = setback_after(hook, outcome, len(batch.events), _now_ms(), self._settings.webhook_pause_hours)
        with self._database.writing() as connection:
            webhooks.record(connection, hook, attempt, setback=setback)
        if setback.pause:
            log.error("webhook_paused", webhook_id=hook.id, reason=setback.pause, failures=hook.failures + 1)
        elif not hook.failures:
            log.warning("webhook_failing", webhook_id=hook.id, status=outcome.status, error=_code(outcome))
        return False


def send(settings: Settings, hook: Any, batch: Batch, now_ms: int) -> Outcome:
    """Post a batch to a webhook's target, signed with its secret, and with its old one for as long as that counts."""
    signed_with = [hook.secret]
    if hook.old_secret and now_ms < hook.old_secret_until_ms:
        signed_with.append(hook.old_secret)
    allowed, seconds = settings.webhook_allowed_networks, settings.webhook_timeout_seconds
    return post(hook.url, batch.message_id, batch.body(hook.id), signed_with, allowed, seconds)


def attempt_of(outcome: Outcome, batch: Batch, at_ms: int) -> Attempt:
    error = None if outcome.error is None else outcome.error.replace("\0", "")[: webhooks.ERROR_MAX]
    return Attempt(at_ms, batch.message_id, len(batch.ids), batch.ids[0], outcome.status, outcome.duration_ms, error)


def setback_after(hook: Any, outcome: Outcome, events: int, now_ms: int, pause_hours: float) -> Setback:
    """Decide what follows from a failure: how long to wait, with how few events to try then, whether to pause.

    Waits double up to five minutes, and are a random half of that or more, so that targets that failed together are not tried
    together. Half of the events: they may have been too many for its time, or one of them what it stumbles over.
    """
    wait_seconds = min(_FIRST_WAIT_SECONDS * 2 ** min(hook.failures, 30), _LONGEST_WAIT_SECONDS)
    wait_ms = int(wait_seconds * 1000 * random.uniform(0.5, 1.0))
    failing_since_ms = now_ms if hook.failing_since_ms is None else hook.failing_since_ms
    pause: Pause | None = None
    if outcome.status == _GONE:
        pause = "gone"  # Standard Webhooks: the target says that it wants no more
    elif now_ms - failing_since_ms >= pause_hours * 3_600_000:
        pause = "failing"
    return Setback(now_ms + wait_ms, max(1, events // 2), pause)


def _code(outcome: Outcome) -> str:
    return (outcome.error or "").partition(":")[0]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
