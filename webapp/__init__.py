"""The edge: HTTP, tokens, sockets. It validates, accepts and delivers; what is decided is decided in `tasks/`.

`create_app` builds everything from the settings; `WebProcess.start` sets the greenlets of a serving process going.
"""

from __future__ import annotations

from dataclasses import dataclass

import flask_sock
from flask import Flask, Response
from werkzeug.exceptions import HTTPException, RequestedRangeNotSatisfiable

from logs import configure_logs
from models import tables  # noqa: F401  migrations compare with all tables
from models.database import Database, db, engine_options, prepare_engine
from models.errors import DatabaseUnavailable, Overloaded, StoreUnavailable
from models.store import bus
from models.store.connection import connect
from schemas import envelope
from schemas.params import InvalidParams
from settings import Settings
from tasks.celery_app import make_celery
from webapp import metrics
from webapp.accounts import Accounts
from webapp.address import Proxies
from webapp.api import (
    accounts,
    admin,
    askanswers,
    complaints,
    documents,
    forward,
    friends,
    groups,
    health,
    history,
    media,
    messages,
    profile,
    relations,
    tickets,
    uploads,
    webhooks,
)
from webapp.application import Application
from webapp.arriving import BodyBounds
from webapp.auth import Gatekeeper
from webapp.counts import counts
from webapp.delivery_state import DeliveryStates
from webapp.devices import Devices
from webapp.errors import FAILURES, ApiError
from webapp.http import JsonResponse
from webapp.language import language_of_request
from webapp.limiting import Limits, LockOut
from webapp.logins import Logins
from webapp.origins import Origins, check_origins
from webapp.passwords import Passwords
from webapp.reading import ReadMarks
from webapp.repeaters import Memory, Repeaters
from webapp.services import Acceptor, new_process_id, open_store
from webapp.session_ends import SessionEnds
from webapp.sockets import endpoint
from webapp.sockets.attendance import Attendance
from webapp.sockets.inbound import Inbound
from webapp.sockets.listener import Listener
from webapp.sockets.office import SocketOffice
from webapp.sockets.receipts import Receipts
from webapp.sockets.registry import Registry
from webapp.sockets.server import VERSION
from webapp.sockets.signals import SignalPost
from webapp.sockets.typists import Typists
from webapp.telling import Teller
from webapp.tickets import Tickets
from webapp.tokens import Tokens
from webapp.traces import Traces
from webapp.uploads import Uploads

_STATUS_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    416: "range_invalid",
    422: "invalid",
}


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


def create_app(settings: Settings, *, has_commands: bool = True) -> Flask:
    """Build the application. has_commands: with those of `flask --app wsgi`, which a process that serves has no use for."""
    configure_logs(settings.log_level)
    app = Application("hongyan", root_path=__path__[0])
    app.config["SQLALCHEMY_DATABASE_URI"] = settings.database_url
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = engine_options(settings.database_url, in_one_thread=True)
    app.wsgi_app = BodyBounds(app.wsgi_app, settings.request_max_seconds, settings.body_max_bytes)  # type: ignore[method-assign]
    app.config["SOCK_SERVER_OPTIONS"] = {"max_unsent_bytes": settings.socket_outbox_max_bytes}
    app.url_map.merge_slashes = False  # `//api` is an unknown route: no redirect, which is no JSON
    db.init_app(app)
    app.teardown_appcontext_funcs.clear()  # the session of a request, which nothing of ours opens
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
    limits = Limits(settings, store)
    inbound = Inbound(settings, process_id, registry, acceptor, gatekeeper)

    teller = Teller(acceptor, database)

    devices = Devices(settings, store, database)
    session_ends = SessionEnds(store, devices)
    office = SocketOffice(settings, process_id, registry, store, database, devices, inbound.receive)
    listener = Listener(subscription, process_id, registry, office, inbound, store.call_all)
    snapshots = metrics.Snapshots(settings, process_id)
    post = SignalPost(process_id, registry, store)
    read_marks, receipts = ReadMarks(database, post), Receipts(post)
    attendance = Attendance(registry, store, database, post)
    listener.on_signals = post.take
    office.on_open.append(attendance.opened)
    office.on_closed.append(attendance.closed)
    office.on_acknowledged.append(receipts.collect)
    inbound.takers = {"typing": Typists(database, post).receive, "read": read_marks.receive}
    starts = (store, acceptor, listener, office, snapshots, post, read_marks, receipts, attendance)
    app.extensions["hongyan"] = WebProcess(process_id, registry, listener, office, starts)

    states = DeliveryStates(database, store, range(settings.outbox_shards))
    app.register_blueprint(
        messages.make_blueprint(
            settings, process_id, gatekeeper, acceptor, registry, office, states, Traces(database, states), limits
        )
    )
    logins = Logins(settings, database, tokens, gatekeeper, session_ends, devices)
    entrances = Accounts(settings, database, Passwords(), LockOut(store), logins, session_ends)
    proxies = Proxies(settings.trusted_proxies)
    app.register_blueprint(accounts.make_blueprint(settings, gatekeeper, limits, entrances, logins, proxies))
    app.register_blueprint(groups.make_blueprint(settings, gatekeeper, database, teller))
    app.register_blueprint(history.make_blueprint(gatekeeper, database, read_marks, range(settings.outbox_shards)))
    app.register_blueprint(
        forward.make_blueprint(settings, process_id, gatekeeper, database, acceptor, registry, limits)
    )
    app.register_blueprint(
        friends.make_blueprint(gatekeeper, database, teller, settings.media_url, attendance.befriended)
    )
    app.register_blueprint(profile.make_blueprint(settings, gatekeeper, database, teller))
    app.register_blueprint(relations.make_blueprint(settings, gatekeeper, database))
    app.register_blueprint(admin.make_blueprint(gatekeeper, database, session_ends))
    app.register_blueprint(webhooks.make_blueprint(settings, gatekeeper, database, celery))
    app.register_blueprint(complaints.make_blueprint(settings, gatekeeper, database, teller))
    app.register_blueprint(askanswers.make_blueprint(settings, gatekeeper, database))
    app.register_blueprint(media.make_blueprint())
    origins = Origins(settings.allowed_origins, proxies)
    app.register_blueprint(uploads.make_blueprint(gatekeeper, Uploads(settings, limits), origins))
    app.register_blueprint(documents.make_blueprint(settings))
    metrics.count_requests(app)
    app.register_blueprint(metrics.make_blueprint(settings, snapshots, store, database))
    app.register_blueprint(health.make_blueprint(settings, process_id, database, store, listener))
    sock = flask_sock.Sock(app)
    socket_tickets = Tickets(store, gatekeeper)
    app.register_blueprint(tickets.make_blueprint(gatekeeper, socket_tickets))
    refused_connects = Memory()
    endpoint.add_route(sock, gatekeeper, socket_tickets, office, refused_connects, language=settings.language)
    app.wsgi_app = Repeaters(  # type: ignore[method-assign]
        app.wsgi_app, limits.refused_sends, refused_connects, settings.language, endpoint.refuse_repeater
    )
    check_origins(app, origins)
    if has_commands:
        from webapp import cli  # here: it brings Alembic, and a process that was killed should be back soon

        cli.add_commands(app, settings, database, tokens, devices)
    _handle_errors(app, settings)
    return app


def _handle_errors(app: Flask, settings: Settings) -> None:
    def language() -> str:
        return language_of_request(settings.language)

    def answer(code: str, text: str | None = None, *, headers: dict[str, str] | None = None) -> Response:
        failure = FAILURES[code]
        counts.failures[code] += 1
        body = envelope.fail(code, text or failure.text(language()))
        return JsonResponse(body, failure.status, headers)

    @app.errorhandler(ApiError)
    def api_error(error: ApiError) -> Response:
        headers = None
        if error.failure.status in (429, 503):
            headers = {"Retry-After": str(error.retry_after)}
        elif error.failure.status == 401:
            headers = {"WWW-Authenticate": "Bearer"}  # RFC 9110 section 15.5.2; no browser asks for a password then
        elif error.failure.status == 426:
            headers = {"Sec-WebSocket-Version": VERSION}  # RFC 6455 section 4.4
        return answer(error.failure.code, error.text, headers=headers)

    @app.errorhandler(InvalidParams)
    def invalid_params(error: InvalidParams) -> Response:
        return answer("invalid", error.told(language()))

    @app.errorhandler(StoreUnavailable)
    @app.errorhandler(DatabaseUnavailable)
    def unavailable(error: Exception) -> Response:
        app.logger.warning("dependency_unavailable %s", error)
        return answer("unavailable", headers={"Retry-After": "1"})

    @app.errorhandler(Overloaded)
    def overloaded(_: Exception) -> Response:
        return answer("overloaded", headers={"Retry-After": "1"})

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        if error.code in _STATUS_CODES:
            if error.code == 413:
                counts.bounds["BODY_MAX_BYTES"] += 1
            headers = {"Allow": ", ".join(getattr(error, "valid_methods", None) or ())} if error.code == 405 else None
            if isinstance(error, RequestedRangeNotSatisfiable):
                headers = {"Content-Range": f"bytes */{error.length}"}
            return answer(_STATUS_CODES[error.code], headers=headers)
        return answer("internal_error" if (error.code or 500) >= 500 else "bad_request")

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        app.logger.exception("request_failed", exc_info=error)
        return answer("internal_error")
