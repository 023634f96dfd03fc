"""The Celery application: queues, bells, and what makes a lost or repeated task harmless.

Tasks carry no state (a task is only a bell), so results are ignored, everything is JSON, and nothing waits long for a broker.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu.connection import Connection

from settings import Settings

DRAIN_QUEUE = "drain"
HOUSEKEEPING_QUEUE = "housekeeping"

ANSWER_SECONDS = 10.0  # drains and answers ring too: this is for what was lost
_DAY_SECONDS = 86_400.0
_HOUR_SECONDS = 3_600.0
_COMPACT_SECONDS = 10.0
# For about so long nobody is told anything after the worker has died. A bell a second would cost a hundredth of a processor.
_WEBHOOKS_SECONDS = 5.0
_LOOK_SECONDS = 60.0
# Between two looks for a broker that is away. kombu would wait two seconds more each time, up to thirty.
_RECONNECT_SECONDS = 1.0
# beat keeps one connection for all its life, and without a retry goes on with it when it is gone.
_RETRIED = {"retry": True, "retry_policy": {"max_retries": 1, "interval_start": 0, "interval_max": 0}}
_SOCKET_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 2, "socket_keepalive": True}


class _Connection(Connection):
    """kombu's, which looks for a broker that is away once a second."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        intervals = {"interval_start": _RECONNECT_SECONDS, "interval_max": _RECONNECT_SECONDS}
        return super().ensure_connection(*args, **{**intervals, **kwargs})  # type: ignore[no-untyped-call]


class _Amqp(AMQP):  # type: ignore[misc]
    Connection = _Connection


def make_celery(settings: Settings) -> Celery:
    # A Redis of the operator's own is his to look after; what it may lose he is told.
    upkeep, upkeep_seconds = (
        ("compact_store", _COMPACT_SECONDS) if settings.is_redis_embedded else ("look_at_store", _LOOK_SECONDS)
    )
    celery = Celery("hongyan", broker=settings.broker_url, amqp=_Amqp, set_as_current=False)
    scheme = settings.broker_url.partition("://")[0]
    transport_options: dict[str, object] = {}
    if "redis" in scheme or scheme == "sentinel":
        # A bell that is not heard within seconds is worthless: beat has rung since.
        transport_options = {"visibility_timeout": 60, **_SOCKET_OPTIONS}
    if scheme == "sentinel":
        transport_options["master_name"] = settings.sentinel_service
    celery.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_default_queue=HOUSEKEEPING_QUEUE,
        task_routes={"drain": {"queue": DRAIN_QUEUE}},
        broker_transport_options=transport_options,
        broker_connection_timeout=2,
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        # flower asks eight questions at once, each with a connection of its own, and waits for ever where there is none.
        broker_pool_limit=32,
        task_publish_retry=False,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_soft_shutdown_timeout=2,
        worker_enable_soft_shutdown_on_idle=False,
        beat_max_loop_interval=1,
        beat_schedule={
            "ring": _every(1.0, "drain", DRAIN_QUEUE),
            "answer_questions": _every(ANSWER_SECONDS, "answer_questions"),
            "forget_unseen_devices": _every(_DAY_SECONDS, "forget_unseen_devices"),
            "remove_partial_uploads": _every(_HOUR_SECONDS, "remove_partial_uploads"),
            "deliver_webhooks": _every(_WEBHOOKS_SECONDS, "deliver_webhooks"),
            upkeep: _every(upkeep_seconds, upkeep),
        },
    )
    return celery


def _every(seconds: float, task: str, queue: str = HOUSEKEEPING_QUEUE) -> dict[str, object]:
    """Give an entry of beat's schedule. A task that nobody has taken by the next one is dropped: it would ask the same."""
    return {"task": task, "schedule": seconds, "options": {**_RETRIED, "expires": seconds, "queue": queue}}
