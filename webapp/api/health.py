"""Whether this process lives (`/healthz`) and whether it can serve (`/readyz`)."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response
from sqlalchemy import text

from models.database import Database
from models.errors import ModelError
from models.store import outbox
from schemas import envelope
from schemas.answers import Health, Readiness
from settings import Settings
from webapp.errors import FAILURES, ApiError
from webapp.language import language_of_request
from webapp.routes import describe
from webapp.services import Redis, read_sql
from webapp.sockets.listener import Listener


def make_blueprint(
    settings: Settings, process_id: str, database: Database, store: Redis, listener: Listener
) -> Blueprint:
    blueprint = Blueprint("health", __name__)

    def database_answers() -> bool:
        return read_sql(
            database, lambda connection: connection.execute(text("SELECT count(*) FROM shard")).scalar_one() is not None
        )

    def redis_takes_writes() -> bool:
        outbox.check_writes(store.client)
        return True

    checks: dict[str, Callable[[], bool]] = {
        "database": database_answers,
        "redis": redis_takes_writes,
        "listener": lambda: listener.is_up,
        "worker": lambda: outbox.has_worker(store.client),
    }

    @blueprint.get("/healthz")
    @describe("Whether this process lives", access="anyone", answer=Health())
    def get_health() -> Response:
        return Response(envelope.ok({"process": process_id}), mimetype="application/json")

    @blueprint.get("/readyz")
    @describe(
        "Whether everything that a send needs answers",
        access="anyone",
        answer=Readiness(),
        failures=("not_ready",),
    )
    def get_readiness() -> Response:
        answers = {name: _holds(check) for name, check in checks.items()}
        silent = [name for name, has_answered in answers.items() if not has_answered]
        if silent:
            text = FAILURES["not_ready"].text(language_of_request(settings.language))
            raise ApiError("not_ready", f"{text}: {', '.join(silent)}")
        return Response(envelope.ok(answers), mimetype="application/json")

    return blueprint


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except ModelError:
        return False
