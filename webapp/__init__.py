"""The edge: HTTP, tokens, sockets. It validates, accepts and delivers; what is decided is decided in `tasks/`.

`create_app` builds everything from the settings; `WebProcess.start` sets the greenlets of a serving process going.
"""

from __future__ import annotations

from dataclasses import dataclass

import flask_sock
from flask import Flask, Response
from flask_migrate import Migrate
from werkzeug.exceptions import HTTPException

from logs import configure_logs
from models import tables  # noqa: F401  migrations compare with all tables
from models.database import Database, db, engine_options, prepare_engine
from models.errors import DatabaseUnavailable, StoreUnavailable
from models.store import bus
from models.store.connection import connect
from schemas import envelope
from schemas.params import InvalidParams
from settings import Settings
from tasks.celery_app import make_celery
from webapp import cli
from webapp.api import groups, health, history, messages, relations
from webapp.auth import Gatekeeper
from webapp.delivery_state import DeliveryStates
from webapp.errors import FAILURES, ApiError
from webapp.language import language_of_request
from webapp.services import Acceptor, new_process_id, open_store
from webapp.sockets import endpoint
from webapp.sockets.inbound import Inbound
from webapp.sockets.listener import Listener
from webapp.sockets.office import SocketOffice
from webapp.sockets.registry import Registry
from webapp.tokens import Tokens

_STATUS_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 422: "invalid"}


@dataclass(frozen=True, slots=True)
class WebProcess:
    """The parts of one web process that live longer than a request."""

    process_id: str
    registry: Registry
    listener: Listener
    office: SocketOffice
    _starts: tuple[object, ...]

    def start(self) -> None:
        """Start the greenlets. Call once, in the process that serves."""
        for part in self._starts:
            part.start()  # type: ignore[attr-defined]


def create_app(settings: Settings) -> Flask:
    configure_logs(settings.log_level)
    app = Flask("hongyan", root_path=__path__[0])
    app.config["SQLALCHEMY_DATABASE_URI"] = settings.database_url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(settings.database_url, in_one_thread=True)
    app.config["MAX_CONTENT_LENGTH"] = settings.body_max_bytes
    app.config["SOCK_SERVER_OPTIONS"] = {"max_unsent_bytes": settings.socket_outbox_max_bytes}
    db.init_app(app)
    Migrate(app, db, directory="migrations", render_as_batch=True)
    with app.app_context():
        prepare_engine(db.engine)
        database = Database(db.engine)

    process_id = new_process_id()
    tokens = Tokens(settings.jwt_secret, settings.token_ttl_seconds)
    store = open_store(settings)
    celery = make_celery(settings)
    acceptor = Acceptor(settings, store.client, celery)
    registry = Registry()
    # Its own connections: a pool that requests have emptied must not make the process deaf.
    subscription = bus.Subscription(connect(settings.redis_url), process_id)
    gatekeeper = Gatekeeper(tokens, store, database)
    inbound = Inbound(settings, process_id, registry, acceptor, gatekeeper)

    office = SocketOffice(settings, process_id, registry, store, database, inbound.receive)
    listener = Listener(subscription, process_id, registry, office, inbound, store.call_all)
    app.extensions["hongyan"] = WebProcess(process_id, registry, listener, office, (store, acceptor, listener, office))

    states = DeliveryStates(database, store, range(settings.outbox_shards))
    app.register_blueprint(
        messages.make_blueprint(settings, process_id, gatekeeper, acceptor, registry, office, states)
    )
    app.register_blueprint(groups.make_blueprint(gatekeeper, database))
    app.register_blueprint(history.make_blueprint(gatekeeper, database))
    app.register_blueprint(relations.make_blueprint(settings, gatekeeper, database))
    app.register_blueprint(health.make_blueprint(process_id, database, store, listener))
    sock = flask_sock.Sock(app)
    endpoint.add_route(sock, gatekeeper, office)
    cli.add_commands(app, settings, database, tokens)
    _handle_errors(app, settings)
    return app


def _handle_errors(app: Flask, settings: Settings) -> None:
    def answer(code: str, text: str | None = None, *, headers: dict[str, str] | None = None) -> Response:
        failure = FAILURES[code]
        body = envelope.fail(code, text or failure.text(language_of_request(settings.language)))
        return Response(body, failure.status, headers, mimetype="application/json")

    @app.errorhandler(ApiError)
    def api_error(error: ApiError) -> Response:
        return answer(error.failure.code, error.text)

    @app.errorhandler(InvalidParams)
    def invalid_params(error: InvalidParams) -> Response:
        return answer("invalid", error.text)

    @app.errorhandler(StoreUnavailable)
    @app.errorhandler(DatabaseUnavailable)
    def unavailable(error: Exception) -> Response:
        app.logger.warning("dependency_unavailable %s", error)
        return answer("unavailable", headers={"Retry-After": "1"})

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        if error.code in _STATUS_CODES:
            allow = {"Allow": ", ".join(getattr(error, "valid_methods", None) or ())} if error.code == 405 else None
            return answer(_STATUS_CODES[error.code], headers=allow)
        return answer("internal_error" if (error.code or 500) >= 500 else "bad_request")

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        app.logger.exception("request_failed", exc_info=error)
        return answer("internal_error")
