"""The drain: serves the outbox. It takes leases, reads the heads of the lists, and settles what it has read.

Settling a batch is four visible steps: gather and decide (`decide.py`), apply (`apply.py`), publish and pop. Every step
may be repeated after a crash: decisions stand once in SQL, Redis ignores positions it has applied, and only then does a
batch leave the outbox (architecture section 2, decision 0002).
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from models import messages, notices, shards
from models.database import Database
from models.errors import FenceLost, ModelError
from models.facts import Facts
from models.requests import Request, decode, shard_of
from models.store import outbox
from models.store.connection import Client, Command, run
from settings import Settings
from tasks.apply import Applier, News
from tasks.decide import Decider, Outcome

log = structlog.get_logger()

_MAX_FAILURES = 3
_NO_FENCE = 0  # older than every fence: nothing can be committed under it
_MAX_NOTICES_SWEPT = 500
_LOOK_SECONDS = 0.1  # after which the lists are looked at, whatever the doorbell has told
_UNPOPPED_SECONDS = 0.02  # for which what is settled waits for a batch to be popped with
# A process decides some thousand requests a second. Where there is more to do, batches grow, and so does the time each takes.
_SLOW_BATCH_SECONDS = 0.025
_SLOW_BATCH_CPU_SHARE = (
    0.6  # below it the drain has waited: for others, or for a processor, which a second would want too
)
_SLOW_BATCHES = 4  # in a row, with no wait in between: another drain should help
_GIVEN_SECONDS = 0.1  # for a helper to take what he is given
_SUCCESSION_SECONDS = 0.05  # before a drain leaves: Celery needs some milliseconds to bring a bell to a worker


@dataclass(slots=True)
class Head:
    """What was read from the head of one shard: raw entries, and the request in each."""

    raw: list[bytes]
    requests: list[Request]

    def first(self, count: int) -> Head:
        return Head(self.raw[:count], self.requests[:count])

    def after(self, count: int) -> Head:
        return Head(self.raw[count:], self.requests[count:])


Batch = dict[int, Head]


class Drain:
    """One per worker process. `run` is the body of the Celery task."""

    def __init__(self, settings: Settings, database: Database, client: Client) -> None:
        self._settings = settings
        self._database = database
        self._client = client
        self._decider = Decider(database)
        self._applier = Applier(settings, database, client)
        self._shards = list(range(settings.outbox_shards))
        self._lease_ms = int(settings.drain_lease_seconds * 1000)
        self._token = ""
        self._fences: dict[int, int] = {}  # shard -> our fence, for the shards whose lease is ours
        self._renew_at = math.inf  # when the leases are renewed
        self._news: list[Command] = []  # publications of what is settled, which go out with the next look
        self._settled: Counter[int] = Counter()  # shard -> how many at its list's head are settled, but not popped yet
        # Shard -> the place of the last entry that was read; where it is missing, only a look shows what is next.
        self._ends: dict[int, int] = {}
        self._look_at = 0.0  # when the lists are looked at in any case
        self._doorbell = outbox.Doorbell(client)
        self.has_successor = False  # whether the last run has rung for one
        self._slow_batches = 0  # in a row
        self._has_called = False  # for help
        self._given: set[int] = set()  # to a helper, who should have taken them at `_given_until`
        self._given_until = 0.0
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()  # request id -> how often it failed alone

    def run(self, ring: Callable[[], None] = lambda: None) -> dict[str, int]:
        """Serve the outbox until it stays empty for the linger time, or the longest stay is over.

        ring: calls another drain: a moment before one with work at hand leaves, so that the other is there already when it
        does, and where there is more to do than one can. Returns {decided, refused, batches}. Raises StoreUnavailable,
        DatabaseUnavailable: what was not popped stays.
        """
        self._token, self._fences, self._counts = uuid.uuid4().hex, {}, Counter()
        self.has_successor = False
        self._news.clear()
        self._settled.clear()
        self._look_at, self._renew_at = 0.0, math.inf
        self._slow_batches, self._has_called, self._given = 0, False, set()
        self._decider.forget_order()
        try:
            with self._database.keeping():
                self._serve(ring)
        finally:
            self._leave()
        counts = {name: self._counts[name] for name in ("decided", "refused", "batches")}
        if counts["batches"]:
            log.info("drain_left", **counts)
        return counts

    def _serve(self, ring: Callable[[], None]) -> None:
        leave_at = time.monotonic() + self._settings.drain_max_seconds
        self._doorbell.open()
        outbox.answer_bell(self._client)
        self._sweep_notices()
        batch = self._read()
        while True:
            if batch:
                started, cpu_started = time.monotonic(), time.process_time()
                if not self._settle(batch):
                    self._look_at = 0.0
                self._seek_help(time.monotonic() - started, time.process_time() - cpu_started, ring)
            left = leave_at - time.monotonic()
            if left <= 0:
                break
            if left <= _SUCCESSION_SECONDS and self._counts and not self.has_successor:
                self.has_successor = True
                ring()
            if not batch:
                self._slow_batches = 0
                if not self._wait(left):
                    break
            batch = self._read()

    def _wait(self, left: float) -> bool:
        """Wait for something to do, at most so many seconds. False: there is nothing."""
        if self._settled:
            if self._doorbell.wait(min(left, _UNPOPPED_SECONDS)):
                return True
            run(self._client, self._unsaid())
        # What was given away and not taken must be looked at once more.
        patience = _GIVEN_SECONDS if self._given else self._settings.drain_linger_seconds
        return self._doorbell.wait(min(left, patience)) or bool(self._given)

    def take_questions(self) -> bool:
        """Return whether messages were stored since the last call that ask for an automatic answer."""
        taken, self._decider.has_questions = self._decider.has_questions, False
        return taken

    def is_needed(self) -> bool:
        """Return whether something waits and nobody is there. A drain that has left asks: it may have missed a ring."""
        return outbox.needs_bell(self._client, self._shards)

    def _sweep_notices(self) -> None:
        """Hand over the notices that whoever committed them has left behind."""
        with self._database.reading() as connection:
            left_behind = notices.load_left_behind(connection, time.time_ns() // 1_000_000, _MAX_NOTICES_SWEPT)
        if not left_behind:
            return
        offers: dict[int, list[outbox.Offer]] = {}
        buried: list[Command] = []
        for notice_id, request in left_behind:
            try:
                shard = shard_of(decode(request).conversation, len(self._shards))
            except ValueError as error:
                log.error("notice_undecodable", notice_id=notice_id, error=str(error))
                buried.append(outbox.bury_command(self._shards[0], request))
            else:
                offers.setdefault(shard, []).append(outbox.Offer(request))
        run(self._client, buried)
        outbox.accept(self._client, offers)
        with self._database.writing() as connection:
            notices.forget(connection, [notice_id for notice_id, _ in left_behind])

    # Leases and reading

    def _read(self) -> Batch:
        if time.monotonic() >= self._given_until:
            self._given.clear()
        self._keep_leases()
        heads = self._hear()
        if heads is None:
            heads, waiting = self._look()
            if waiting and self._take_free():
                heads, _ = self._look()
        decoded = {shard: self._decode(shard, raw) for shard, raw in heads.items() if raw}
        if all(head.requests for head in decoded.values()):
            return decoded
        return self._read()  # an entry was buried: look at what stood behind it

    def _hear(self) -> dict[int, list[bytes]] | None:
        """Tell the news, and give what the doorbell has told since what was read last. None: the lists must be looked at.

        A ring says where its entries stand, so what a look has shown already is passed over, and a gap is noticed.
        """
        if self._given or time.monotonic() >= self._look_at or not self._fences.keys() <= self._ends.keys():
            self._doorbell.answer()  # by the look
            return None
        news, self._news = self._news, []
        run(self._client, news)  # first, so that what comes meanwhile is heard
        rings = self._doorbell.answer()
        if rings is None:
            return None
        heads: dict[int, list[bytes]] = {}
        for ring in rings:
            if ring.shard not in self._fences or ring.end <= self._ends[ring.shard]:
                continue
            head = heads.setdefault(ring.shard, [])
            head += ring.entries
            if ring.start != self._ends[ring.shard] or len(head) > self._settings.drain_batch_requests:
                return None
            self._ends[ring.shard] = ring.end
        return heads

    def _look(self) -> tuple[dict[int, list[bytes]], list[int]]:
        """Tell the news, and look at what stands behind what is settled, and elsewhere."""
        others = [shard for shard in self._shards if shard not in self._fences]
        held = {shard: self._settled[shard] for shard in self._fences}
        news, self._news = self._news, []
        seen, waiting = outbox.look(self._client, held, others, self._settings.drain_batch_requests, news)
        self._look_at = time.monotonic() + _LOOK_SECONDS
        self._ends = {shard: one.end for shard, one in seen.items() if one.end is not None}
        return {shard: one.entries for shard, one in seen.items()}, waiting

    def _unsaid(self) -> list[Command]:
        """Give the commands that tell the news of what is settled, and then remove it; both are forgotten."""
        news, self._news = self._news, []
        pops = [outbox.pop_command(shard, self._token, count) for shard, count in self._settled.items() if count]
        self._settled.clear()
        return news + pops

    def _decode(self, shard: int, raw: list[bytes]) -> Head:
        requests = []
        for entry in raw:
            try:
                requests.append(decode(entry))
            except ValueError as error:
                # Nobody can be told: it says neither who sent it nor what it is.
                log.error("entry_undecodable", shard=shard, error=str(error))
                self._look_at = 0.0  # what stands behind it is read again
                if not requests:
                    self._bury(shard, entry)
                    return self._decode(shard, raw[1:])
                break
        return Head(raw[: len(requests)], requests)

    def _keep_leases(self) -> None:
        if self._fences and time.monotonic() >= self._renew_at:
            kept = outbox.renew_leases(self._client, list(self._fences), self._token, self._lease_ms)
            self._drop_shards(set(self._fences) - set(kept))
            self._renew_at = time.monotonic() + self._settings.drain_lease_seconds / 4

    def _take_free(self) -> bool:
        """Take the shards that no other drain holds. Return whether there were any.

        Those where nothing waits too: taken one by one as something comes, each would cost a batch four more round trips.
        """
        free = [shard for shard in self._shards if shard not in self._fences and shard not in self._given]
        taken = outbox.take_leases(self._client, free, self._token, self._lease_ms)
        if taken:
            # Ours from here on: what fails before they have a fence gives them back all the same.
            self._fences.update(dict.fromkeys(taken, _NO_FENCE))
            self._doorbell.hold(taken)
            with self._database.writing() as connection:
                self._fences.update((shard, shards.draw_fence(connection, shard)) for shard in taken)
            self._decider.forget_order()
            self._renew_at = min(self._renew_at, time.monotonic() + self._settings.drain_lease_seconds / 4)
        return bool(taken)

    def _seek_help(self, seconds: float, cpu_seconds: float, ring: Callable[[], None]) -> None:
        """Where one slow batch follows the other, call another drain, and give it half of the shards once it is there.

        seconds, cpu_seconds: the last batch took, of the clock and of a processor
        """
        is_slow = seconds >= _SLOW_BATCH_SECONDS and cpu_seconds >= seconds * _SLOW_BATCH_CPU_SHARE
        self._slow_batches = self._slow_batches + 1 if is_slow else 0
        if self._slow_batches < _SLOW_BATCHES or len(self._fences) < 2:
            return
        if outbox.has_idle_drain(self._client, self._shards):
            self._give(sorted(self._fences)[::2])
        elif not self._has_called:
            self._has_called = True
            ring()

    def _give(self, shards: Sequence[int]) -> None:
        log.info("shards_given", shards=shards)
        self._slow_batches, self._given, self._given_until = 0, set(shards), time.monotonic() + _GIVEN_SECONDS
        run(self._client, self._unsaid())  # while they are ours
        for shard in shards:
            del self._fences[shard]
        self._doorbell.drop(shards)
        outbox.release_leases(self._client, shards, self._token)

    def _drop_shards(self, lost: Iterable[int]) -> None:
        for shard in lost:
            log.warning("shard_lost", shard=shard)
            self._fences.pop(shard, None)
            self._settled.pop(shard, None)
            self._look_at = 0.0  # perhaps it is free already
            self._doorbell.drop([shard])
            self._decider.forget_order()

    def _leave(self) -> None:
        """Be deaf before the leases are free: who rings from then on rings for others, and they are told when they are."""
        held, self._fences = list(self._fences), {}
        try:
            run(self._client, self._unsaid())
        finally:
            self._doorbell.close()
        if held:
            outbox.release_leases(self._client, held, self._token)

    # Settling

    def _settle(self, batch: Batch) -> bool:
        """Settle a batch; where it fails for a reason of its own, settle its halves, down to the one request at fault.

        False: not all of it left the outbox, so what lies behind it must be read again, not popped.
        """
        if not batch.keys() <= self._fences.keys():
            return False
        try:
            return self._settle_whole(batch)
        except FenceLost as lost:
            self._drop_shards(lost.shards)
            return False
        except ModelError:
            raise  # a dependency is away: the batch waits for it
        except Exception as error:
            failure = error
        requests = sum(len(head.requests) for head in batch.values())
        if requests == 1:
            return self._fail_alone(batch, failure)
        log.warning("batch_failed", requests=requests, error=repr(failure))
        for half in _halves(batch):
            if not self._settle(half):
                return False
            run(self._client, self._unsaid())  # before the other half fails, and they with it
        return True

    def _settle_whole(self, whole: Batch) -> bool:
        started = time.monotonic()
        facts = self._decider.gather([request for head in whole.values() for request in head.requests])
        batch = self._bound_deliveries(whole, facts)
        decided = self._decider.decide({s: head.requests for s, head in batch.items()}, self._fences, facts)
        news = self._applier.apply(decided, self._keep_leases, self._unsaid())
        # Told with the next look, which follows at once: a publication that goes out with a write waits for its sync.
        self._news += news.commands()
        # Popped with what the next batch writes: each write that Redis is asked for alone has it sync the disk once more.
        # Not of a shard that was lost meanwhile: what its list begins with now, nobody may have settled.
        self._settled.update({shard: len(head.raw) for shard, head in batch.items() if shard in self._fences})
        self._count([outcome for outcomes in decided.values() for outcome in outcomes], started)
        return batch == whole

    def _bound_deliveries(self, batch: Batch, facts: Facts) -> Batch:
        """Cut the batch where it would make more deliveries than one batch may: the rest is read again."""
        left = self._settings.drain_batch_deliveries
        bounded: Batch = {}
        for shard, head in batch.items():
            count = 0
            for request in head.requests:
                group = facts.groups.get(request.to_id) if request.chat_type == "group" else None
                left -= len(group.active_member_ids) if group else 2
                if left < 0 and (bounded or count):
                    break
                count += 1
            if count:
                bounded[shard] = head.first(count)
            if left <= 0:
                break
        return bounded

    def _fail_alone(self, batch: Batch, error: Exception) -> bool:
        """Count a failure of a single request; after the third, refuse it and bury its entry. Returns as `_settle` does."""
        ((shard, head),) = batch.items()
        request = head.requests[0]
        self._failures[request.id] += 1
        if self._failures[request.id] < _MAX_FAILURES:
            return self._settle(batch)
        del self._failures[request.id]
        log.error("request_failed", message_id=request.id, shard=shard, error=repr(error), exc_info=error)
        try:
            outcome = self._decider.give_up(shard, request, self._fences[shard])
        except FenceLost as lost:
            self._drop_shards(lost.shards)
            return False
        except ModelError:
            raise
        except Exception:
            # Not even its refusal can be written. Its sender is never told, but its shard must not stand still.
            log.exception("request_unrefusable", message_id=request.id, shard=shard)
            self._bury(shard, head.raw[0])
            return True
        self._bury(shard, head.raw[0], self._applier.apply({shard: [outcome]}, self._keep_leases))
        self._count([outcome], time.monotonic())
        return True

    def _bury(self, shard: int, entry: bytes, news: News | None = None) -> None:
        published = news.commands() if news else []
        buried = outbox.bury_command(shard, entry)
        run(self._client, [*self._unsaid(), buried, *published, outbox.pop_command(shard, self._token, 1)])

    def _count(self, outcomes: Sequence[Outcome], started: float) -> None:
        refused = sum(outcome.code is not None for outcome in outcomes)
        self._counts["batches"] += 1
        self._counts["decided"] += len(outcomes)
        self._counts["refused"] += refused
        if not log.is_enabled_for(logging.DEBUG):
            return  # a line costs its writer and the supervisor 0.1 ms each: `drain_left` stands for all of them
        duration_ms = round((time.monotonic() - started) * 1000, 2)
        log.debug("batch_decided", requests=len(outcomes), refused=refused, duration_ms=duration_ms)
        for outcome in outcomes:
            row: Mapping[str, object] = outcome.row or {}
            log.debug(
                "request_decided",
                message_id=outcome.request.id,
                verdict=outcome.code or messages.STORED,
                seq=row.get("seq"),
                recipients=len(outcome.recipient_ids),
                batch=len(outcomes),
                duration_ms=duration_ms,
            )


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    """Split a batch in two, keeping the order within each shard: shards apart where there are several, else requests."""
    if len(batch) > 1:
        shards_of_batch = list(batch)
        middle = len(shards_of_batch) // 2
        return {s: batch[s] for s in shards_of_batch[:middle]}, {s: batch[s] for s in shards_of_batch[middle:]}
    ((shard, head),) = batch.items()
    middle = len(head.requests) // 2
    return {shard: head.first(middle)}, {shard: head.after(middle)}
