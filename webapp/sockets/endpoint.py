"""`GET /ws`: the websocket route. Checks the token, then gives the socket to the office; the request ends there."""

from __future__ import annotations

from typing import Any

import flask_sock
import structlog
from flask import request

from models.errors import ModelError
from schemas import frames
from webapp.auth import Caller, Gatekeeper
from webapp.errors import ApiError
from webapp.language import language_of_request
from webapp.repeaters import SOCKET_PATH, Memory
from webapp.sockets.closing import CloseCode, close_code_of, text_of
from webapp.sockets.office import ConnectionRefused, Resume, SocketOffice
from webapp.sockets.server import NotAHandshake, Server
from webapp.sockets.transport import Transport
from webapp.sockets.wire import encode_close, encode_frame
from webapp.tickets import Tickets

log = structlog.get_logger()


def add_route(
    sock: flask_sock.Sock,
    gatekeeper: Gatekeeper,
    tickets: Tickets,
    office: SocketOffice,
    repeaters: Memory,
    *,
    language: str,
) -> None:
    def admit() -> Caller:
        ticket = request.args.get("ticket")
        return tickets.admit(ticket) if ticket else gatekeeper.admit(request.args.get("token"))

    @sock.route(SOCKET_PATH)  # type: ignore[untyped-decorator]
    def connect(server: Server) -> None:
        protocol = 2 if request.args.get("v") == "2" else 1
        transport = server.take_over()
        try:
            caller = admit()
            wants_notices = protocol == 1 or request.args.get("notices") == "1"
            office.connect(
                caller,
                transport,
                protocol,
                _resume() if protocol == 2 else None,
                wants_notices=wants_notices,
                language=language_of_request(language),
            )
        except ApiError as error:
            _refuse(transport, protocol, error, language_of_request(language))
        except ConnectionRefused as error:
            if error.seconds and not request.args.get("ticket"):
                repeaters.note(request.args.get("token", ""), error.seconds)
            _refuse(
                transport, protocol, ApiError(error.code), language_of_request(language), is_passing=error.is_passing
            )
        except ModelError as error:
            log.warning("socket_refused", reason="unavailable", error=str(error))
            _send_away(transport, protocol)
        except Exception:
            # The handshake is done: an HTTP answer would be bytes in the middle of frames.
            log.exception("socket_dropped")
            _send_away(transport, protocol)


def refuse_repeater(environ: dict[str, Any], protocol: int, language: str) -> bool:
    """Refuse a handshake because its user connects too often, outside of a request. False: it is no handshake."""
    try:
        transport = Server(environ).take_over()
    except (NotAHandshake, ApiError):
        return False
    _refuse(transport, protocol, ApiError("too_many_connections"), language, is_passing=True)
    return True


def _refuse(transport: Transport, protocol: int, error: ApiError, language: str, *, is_passing: bool = False) -> None:
    """Say why, then close: without a code where the client knows none (ORIG 2.1), without a frame where it should return."""
    code = error.failure.code
    transport.start(lambda _: None, lambda: None)  # so that it hears the peer's end
    transport.write(encode_frame(frames.failure(code, text_of(error, language), protocol)))
    if is_passing and protocol == 1:
        transport.finish(b"")
        return
    transport.finish(encode_close(close_code_of(code) if protocol == 2 else None))


def _send_away(transport: Transport, protocol: int) -> None:
    """Close so that the client returns: it is not his fault (ORIG A16)."""
    if protocol == 1:
        transport.abort()
        return
    transport.start(lambda _: None, lambda: None)
    transport.finish(encode_close(CloseCode.RESTARTING))


def _resume() -> Resume | None:
    """Read what the client says it has. A cursor that is no number is one that we cannot know: it gets a reset."""
    cursor = request.args.get("cursor")
    if not cursor:
        return None  # an empty parameter is none (ORIG 1.2)
    is_number = cursor.isascii() and cursor.isdigit() and len(cursor) < 16
    return Resume(int(cursor) if is_number else 0, request.args.get("epoch", "") if is_number else "")
