"""The Celery tasks by name. Each opens what it needs at its first run, after the worker has its process."""

from __future__ import annotations

import gc
import time
from functools import cache

import structlog
from celery import Celery
from celery.signals import worker_ready

from models.database import Database, open_database
from models.errors import DatabaseUnavailable, FilesUnavailable, StoreUnavailable
from models.files import Files
from models.store import upkeep
from models.store.connection import Client, connect
from settings import Settings
from tasks.answering import Answerer
from tasks.celery_app import ANSWER_SECONDS, DRAIN_QUEUE, HOUSEKEEPING_QUEUE
from tasks.courier import Courier
from tasks.devices import forget_unseen
from tasks.drain import Drain

log = structlog.get_logger()

_LEFT_SECONDS = 600.0
_VERDICT_SECONDS = 1.0


@worker_ready.connect  # type: ignore[untyped-decorator]
def leave_what_is_loaded_alone(**_: object) -> None:
    """Keep the garbage collector from walking through all modules again and again: every message waits 60 ms for that."""
    gc.collect()
    gc.freeze()


def register_tasks(celery: Celery, settings: Settings) -> None:
    @cache
    def the_database() -> Database:
        return open_database(settings.database_url)

    @cache
    def the_store() -> Client:
        return connect(settings.redis_url)

    @cache
    def the_drain() -> Drain:
        return Drain(settings, the_database(), the_store())

    @cache
    def the_courier() -> Courier:
        return Courier(settings, the_database(), the_store())

    @cache
    def the_answerer() -> Answerer:
        return Answerer(settings, the_database(), the_store())

    told_of: list[str] = []

    def ring(task: str = "drain", queue: str = DRAIN_QUEUE, expires: float = 1, countdown: float = 0) -> None:
        try:
            celery.send_task(task, queue=queue, expires=expires, countdown=countdown or None)
        except Exception as error:
            # The broker is away. Nothing is lost: beat rings when it is back.
            log.warning("bell_not_rung", error=str(error))

    @celery.task(name="drain")  # type: ignore[untyped-decorator]
    def drain() -> dict[str, int] | None:
        """Decide what waits in the outbox. Returns {decided, refused, batches}."""
        try:
            result = the_drain().run(ring)
            if not the_drain().has_successor and the_drain().is_needed():
                ring()
            if the_drain().take_questions():
                ring("answer_questions", HOUSEKEEPING_QUEUE, ANSWER_SECONDS)
        except (StoreUnavailable, DatabaseUnavailable) as error:
            # Nothing is lost: what was not popped waits, and beat rings every second.
            log.warning("drain_interrupted", error=str(error))
            return None
        return result

    @celery.task(name="answer_questions")  # type: ignore[untyped-decorator]
    def answer_questions() -> int | None:
        """Answer for those who are away. Returns how many answers went to the outbox."""
        try:
            count = the_answerer().run(time.time_ns() // 1_000_000)
        except (StoreUnavailable, DatabaseUnavailable) as error:
            log.warning("questions_not_answered", error=str(error))  # they wait, and are looked at again soon
            return None
        if count:
            ring()
            # The verdicts are there in a moment: who answered without knowing is to find that said when he comes.
            ring("answer_questions", HOUSEKEEPING_QUEUE, ANSWER_SECONDS, _VERDICT_SECONDS)
        return count

    @celery.task(name="forget_unseen_devices")  # type: ignore[untyped-decorator]
    def forget_unseen_devices() -> int | None:
        """Forget devices that count no more. Returns how many."""
        try:
            return forget_unseen(the_database(), the_store(), time.time_ns() // 1_000_000)
        except (StoreUnavailable, DatabaseUnavailable) as error:
            log.warning("devices_not_forgotten", error=str(error))  # tomorrow is early enough
            return None

    @celery.task(name="remove_partial_uploads")  # type: ignore[untyped-decorator]
    def remove_partial_uploads() -> int | None:
        """Remove what killed processes have left of uploads. Returns how many files."""
        # One that is alive writes more often, or is given up after REQUEST_MAX_SECONDS.
        unwritten_seconds = max(_LEFT_SECONDS, 10 * settings.request_max_seconds)
        try:
            count = Files(settings.upload_dir, settings.upload_keep_free_bytes).remove_partials(unwritten_seconds)
        except FilesUnavailable as error:
            log.warning("partial_uploads_not_removed", error=str(error))  # in an hour is early enough
            return None
        if count:
            log.info("partial_uploads_removed", count=count)
        return count

    @celery.task(name="compact_store")  # type: ignore[untyped-decorator]
    def compact_store() -> bool | None:
        """Keep the embedded Redis quick to start. Returns whether there was something to do."""
        try:
            return upkeep.compact(the_store())
        except StoreUnavailable as error:
            log.warning("store_not_compacted", error=str(error))  # asked again soon
            return None

    @celery.task(name="look_at_store")  # type: ignore[untyped-decorator]
    def look_at_store() -> list[str] | None:
        """Tell with which settings a Redis that is not the embedded one may lose what was accepted, at first and at each change."""
        nonlocal told_of
        try:
            lacking = upkeep.shortcomings(the_store())
        except StoreUnavailable as error:
            log.warning("store_not_looked_at", error=str(error))  # asked again in a minute
            return None
        if lacking and lacking != told_of:
            log.error("redis_may_lose_messages", settings=lacking)
        told_of = lacking
        return lacking

    @celery.task(name="deliver_webhooks")  # type: ignore[untyped-decorator]
    def deliver_webhooks() -> int | None:
        """Have threads of this process deliver webhooks, where there are any. Returns how many are at work."""
        try:
            return the_courier().run()
        except DatabaseUnavailable as error:
            log.warning("webhooks_not_looked_at", error=str(error))  # asked again in some seconds
            return None
