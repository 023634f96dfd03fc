"""Webhooks, for administrators: make, change, pause, try and replay them, and see how they fare (contract section 6).

What is delivered, and when, is the courier's (`tasks/courier.py`). Secrets leave this server once: in the answer that made them.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import gevent
import structlog
from celery import Celery
from flask import Blueprint, Response
from sqlalchemy import Connection

from models import shards, webhooks
from models.database import Database
from schemas.params import Fault, InvalidParams
from schemas.webhooks import (
    CHANGE_WEBHOOK_PARAMS,
    CREATE_WEBHOOK_PARAMS,
    PAUSE_WEBHOOK_PARAMS,
    REPLAY_PARAMS,
    ROTATE_SECRET_PARAMS,
    WEBHOOK_ID_PARAMS,
    NewSecret,
    NewWebhook,
    WebhookAttempts,
    Webhooks,
    WebhookState,
    WebhookTested,
)
from settings import Settings
from tasks.celery_app import HOUSEKEEPING_QUEUE
from tasks.courier import attempt_of, send
from tasks.posting import check_target, new_secret
from tasks.targets import TargetRefused
from tasks.webhook_events import trial_event
from webapp.auth import Gatekeeper
from webapp.errors import ApiError
from webapp.http import ok, read_params
from webapp.routes import describe
from webapp.services import read_sql, write_sql

log = structlog.get_logger()

# As if it had never failed.
_FRESH = {"failures": 0, "failing_since_ms": None, "next_try_at_ms": 0}
_TARGET_FAILURES = ("webhook_host_unknown", "webhook_target_refused")


def make_blueprint(settings: Settings, gatekeeper: Gatekeeper, database: Database, celery: Celery) -> Blueprint:
    blueprint = Blueprint("webhooks", __name__)

    def change(webhook_id: int, operation: Callable[[Connection, Any], None]) -> dict[str, Any]:
        """Change a webhook in one transaction and return its state. Raises ApiError with not_found."""

        def run(connection: Connection) -> dict[str, Any]:
            operation(connection, _load(connection, webhook_id))
            return _state(_load(connection, webhook_id), shards.load_last_positions(connection))

        return write_sql(database, run)

    def load(webhook_id: int) -> Any:
        return read_sql(database, lambda connection: _load(connection, webhook_id))

    def ring() -> None:
        """Say that there is a webhook at work, which perhaps was not so before. Beat says it too, some seconds later."""
        try:
            celery.send_task("deliver_webhooks", queue=HOUSEKEEPING_QUEUE, expires=5)
        except Exception as error:
            log.warning("bell_not_rung", error=str(error))  # the broker is away

    def check(url: str) -> None:
        try:
            check_target(url, settings.webhook_allowed_networks)
        except TargetRefused as refused:
            raise ApiError(refused.code) from refused

    @blueprint.get("/api/admin/webhooks")
    @describe("All webhooks, and how they fare", access="administrator", answer=Webhooks())
    def get_webhooks() -> Response:
        gatekeeper.caller()

        def run(connection: Connection) -> list[dict[str, Any]]:
            hooks, last = webhooks.load_all(connection), shards.load_last_positions(connection)
            return [_state(hook, last) for hook in hooks]

        return ok({"webhooks": read_sql(database, run)})

    @blueprint.post("/api/admin/webhooks")
    @describe(
        "Make a webhook that is told what is decided from now on; the answer holds its secret, which is not shown again",
        access="administrator",
        params=CREATE_WEBHOOK_PARAMS,
        answer=NewWebhook(),
        failures=(*_TARGET_FAILURES, "too_many_webhooks"),
    )
    def post_webhook() -> Response:
        caller = gatekeeper.caller()
        params = read_params(CREATE_WEBHOOK_PARAMS)
        check(params["url"])
        values = {**_columns(params), "secret": new_secret()}

        def run(connection: Connection) -> dict[str, Any]:
            webhook_id = webhooks.create(connection, values, _now_ms(), settings.webhooks_max)
            if webhook_id is None:
                raise ApiError("too_many_webhooks")
            return _state(_load(connection, webhook_id), shards.load_last_positions(connection))

        state = write_sql(database, run)
        gevent.spawn(ring)
        log.info("webhook_created", administrator_id=caller.user_id, webhook_id=state["id"])
        return ok({**state, "secret": values["secret"]})

    @blueprint.post("/api/admin/webhooks/<id>")
    @describe(
        "Change a webhook: what is not named stays, positions and secret too",
        access="administrator",
        params=CHANGE_WEBHOOK_PARAMS,
        answer=WebhookState(),
        failures=("not_found", *_TARGET_FAILURES),
    )
    def post_change(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(CHANGE_WEBHOOK_PARAMS)
        webhook_id = params["id"]
        if params["url"]:
            load(webhook_id)  # a webhook that does not exist is told first
            check(params["url"])
        columns = _columns(params)
        if "max_events" in columns:
            columns["batch_events"] = columns["max_events"]
        if "url" in columns:
            columns |= _FRESH

        def write(connection: Connection, _: Any) -> None:
            if columns:
                webhooks.change(connection, webhook_id, columns)

        state = change(webhook_id, write)
        log.info("webhook_changed", administrator_id=caller.user_id, webhook_id=webhook_id, columns=sorted(columns))
        return ok(state)

    @blueprint.post("/api/admin/webhooks/<id>/delete")
    @describe(
        "Remove a webhook and its attempts", access="administrator", params=WEBHOOK_ID_PARAMS, failures=("not_found",)
    )
    def post_delete(id: str) -> Response:
        caller = gatekeeper.caller()
        webhook_id = read_params(WEBHOOK_ID_PARAMS)["id"]

        if not write_sql(database, lambda connection: webhooks.remove(connection, webhook_id)):
            raise ApiError("not_found")
        log.info("webhook_deleted", administrator_id=caller.user_id, webhook_id=webhook_id)
        return ok("ok")

    @blueprint.post("/api/admin/webhooks/<id>/pause")
    @describe(
        "Pause a webhook (1), or let it go on where it stopped (0), at once where it waited after failures",
        access="administrator",
        params=PAUSE_WEBHOOK_PARAMS,
        answer=WebhookState(),
        failures=("not_found",),
    )
    def post_pause(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(PAUSE_WEBHOOK_PARAMS)
        webhook_id = params["id"]
        columns = {"paused": "administrator"} if params["paused"] else {"paused": None, **_FRESH}
        state = change(webhook_id, lambda connection, _: _set(connection, webhook_id, columns))
        gevent.spawn(ring)
        event = "webhook_paused" if params["paused"] else "webhook_resumed"
        log.info(event, administrator_id=caller.user_id, webhook_id=webhook_id)
        return ok(state)

    @blueprint.post("/api/admin/webhooks/<id>/rotateSecret")
    @describe(
        "Give a webhook a new secret; the one before signs beside it for so many hours",
        access="administrator",
        params=ROTATE_SECRET_PARAMS,
        answer=NewSecret(),
        failures=("not_found",),
    )
    def post_rotate_secret(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(ROTATE_SECRET_PARAMS)
        webhook_id, secret = params["id"], new_secret()
        until_ms = _now_ms() + params["keep_hours"] * 3_600_000

        def write(connection: Connection, hook: Any) -> None:
            columns = {"secret": secret, "old_secret": hook.secret, "old_secret_until_ms": until_ms}
            webhooks.change(connection, webhook_id, columns)

        change(webhook_id, write)
        log.info("webhook_secret_rotated", administrator_id=caller.user_id, webhook_id=webhook_id)
        return ok({"secret": secret, "old_secret_until": until_ms})

    @blueprint.post("/api/admin/webhooks/<id>/test")
    @describe(
        "Post an event `webhook.test` now, once, paused or not, and tell what became of it",
        access="administrator",
        params=WEBHOOK_ID_PARAMS,
        answer=WebhookTested(),
        failures=("not_found",),
    )
    def post_test(id: str) -> Response:
        gatekeeper.caller()
        hook = load(read_params(WEBHOOK_ID_PARAMS)["id"])
        at_ms = _now_ms()
        batch = trial_event(f"test_{uuid.uuid4().hex}", hook.id, at_ms)
        outcome = send(settings, hook, batch, at_ms)
        attempt = attempt_of(outcome, batch, at_ms)

        write_sql(database, lambda connection: webhooks.record(connection, hook, attempt))
        shown = {"status": attempt.status, "duration_ms": attempt.duration_ms, "error": attempt.error}
        return ok({"delivered": attempt.error is None, **shown})

    @blueprint.post("/api/admin/webhooks/<id>/replay")
    @describe(
        "Tell again, or pass over: go on with what was decided at a time (milliseconds, UTC) or later, or behind positions",
        access="administrator",
        params=REPLAY_PARAMS,
        answer=WebhookState(),
        failures=("not_found",),
    )
    def post_replay(id: str) -> Response:
        caller = gatekeeper.caller()
        params = read_params(REPLAY_PARAMS)
        webhook_id = params["id"]

        def find(connection: Connection) -> Mapping[int, int]:
            _load(connection, webhook_id)
            last = shards.load_last_positions(connection)
            if "positions" not in params:
                return webhooks.find_positions(connection, last, params["since"])
            given = params["positions"].items()
            if any(shard >= settings.outbox_shards or position > last.get(shard, 0) for shard, position in given):
                text = Fault("位置超出范围", "`positions` names a position that was not given out yet")
                raise InvalidParams("positions", text)
            known: dict[int, int] = params["positions"]
            return known

        # Apart from the change: it may be some hundred short queries, during which nobody must be kept from writing.
        positions = read_sql(database, find)
        state = change(webhook_id, lambda connection, _: _replay(connection, webhook_id, positions))
        log.info(
            "webhook_replayed", administrator_id=caller.user_id, webhook_id=webhook_id, positions=state["positions"]
        )
        return ok(state)

    @blueprint.get("/api/admin/webhooks/<id>/attempts")
    @describe(
        "The last attempts of a webhook, newest first: 100 at most",
        access="administrator",
        params=WEBHOOK_ID_PARAMS,
        answer=WebhookAttempts(),
        failures=("not_found",),
    )
    def get_attempts(id: str) -> Response:
        gatekeeper.caller()
        webhook_id = read_params(WEBHOOK_ID_PARAMS)["id"]

        def run(connection: Connection) -> list[Any]:
            _load(connection, webhook_id)
            return webhooks.load_attempts(connection, webhook_id)

        return ok({"attempts": [_attempt(row) for row in read_sql(database, run)]})

    return blueprint


def _load(connection: Connection, webhook_id: int) -> Any:
    hook = webhooks.load(connection, webhook_id)
    if hook is None:
        raise ApiError("not_found")
    return hook


def _set(connection: Connection, webhook_id: int, columns: Mapping[str, Any]) -> None:
    webhooks.change(connection, webhook_id, columns)


def _replay(connection: Connection, webhook_id: int, positions: Mapping[int, int]) -> None:
    webhooks.move(connection, webhook_id, positions)
    webhooks.change(connection, webhook_id, _FRESH)


def _columns(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that the parameters name."""
    columns = {"url": params["url"], "chat_type": params["chatType"], "max_events": params["max_events"]}
    if "events" in params:
        columns["events"] = ",".join(params["events"])
    return {name: value for name, value in columns.items() if value}


def _state(hook: Any, last: Mapping[int, int]) -> dict[str, Any]:
    positions = webhooks.decode_positions(hook.positions)
    is_old_valid = hook.old_secret is not None and hook.old_secret_until_ms > _now_ms()
    return {
        "id": hook.id,
        "url": hook.url,
        "events": hook.events.split(","),
        "chatType": hook.chat_type,
        "max_events": hook.max_events,
        "paused": hook.paused,
        "lag": webhooks.count_behind(positions, last),
        "positions": {str(shard): position for shard, position in positions.items()},
        "failures": hook.failures,
        "next_try_at": hook.next_try_at_ms or None,
        "delivered": hook.delivered_count,
        "failed": hook.failed_count,
        "last_success_at": hook.last_success_at_ms,
        "last_error": hook.last_error,
        "last_error_at": hook.last_error_at_ms,
        "old_secret_until": hook.old_secret_until_ms if is_old_valid else None,
        "created_at": hook.created_at_ms,
    }


def _attempt(row: Any) -> dict[str, Any]:
    return {
        "attempt": row.number,
        "at": row.at_ms,
        "webhook_id": row.webhook_message_id,
        "events": row.events,
        "first_event_id": row.first_event_id,
        "status": row.status,
        "duration_ms": row.duration_ms,
        "error": row.error,
    }


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
