"""`GET /ws`: the websocket route. Checks the token, then gives the socket to the office; the request ends there."""

from __future__ import annotations

from typing import Any

import flask_sock
import structlog
from flask import request

from models.errors import ModelError
from schemas import frames
from webapp.auth import Caller, Gatekeeper, UserMissing
from webapp.errors import FAILURES, REWORDED, ApiError
from webapp.language import language_of_request
from webapp.repeaters import SOCKET_PATH, Memory
from webapp.sockets.closing import CloseCode
from webapp.sockets.office import ConnectionRefused, Resume, SocketOffice
from webapp.sockets.server import NotAHandshake, Server
from webapp.sockets.transport import Transport
from webapp.sockets.wire import encode_close, encode_frame
from webapp.tickets import Tickets

log = structlog.get_logger()

# ORIG 2.1: what a refused client reads before the close, where it is not the catalogue's. Codes are the gatekeeper's.
_REFUSALS = REWORDED["ws"]
_USER_MISSING = "用户不存在"
_CLOSE_CODES = {"user_disabled": CloseCode.DISABLED, "too_many_connections": CloseCode.TOO_MANY}


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

    def text(code: str, zh: str | None) -> str:
        chosen = language_of_request(language)
        return zh if zh is not None and chosen == "zh" else FAILURES[code].text(chosen)

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
            code = error.failure.code
            said = _USER_MISSING if isinstance(error, UserMissing) else _REFUSALS[code]
            _refuse(transport, protocol, code, text(code, said))
        except ConnectionRefused as error:
            code = error.code
            if error.seconds and not request.args.get("ticket"):
                repeaters.note(request.args.get("token", ""), error.seconds)
            _refuse(transport, protocol, code, text(code, _REFUSALS.get(code)), is_passing=error.is_passing)
        except ModelError as error:
            # Not the client's fault (ORIG A16): drop him without a close frame, so that he returns.
            log.warning("socket_refused", reason="unavailable", error=str(error))
            transport.abort()
        except Exception:
            # The handshake is done: an HTTP answer would be bytes in the middle of frames (pitfall F12).
            log.exception("socket_dropped")
            transport.abort()


def refuse_repeater(environ: dict[str, Any], protocol: int, language: str) -> bool:
    """Refuse a handshake because its user connects too often, outside of a request. False: it is no handshake."""
    try:
        transport = Server(environ).take_over()
    except (NotAHandshake, ApiError):
        return False
    _refuse(
        transport, protocol, "too_many_connections", FAILURES["too_many_connections"].text(language), is_passing=True
    )
    return True


def _refuse(transport: Transport, protocol: int, code: str, text: str, *, is_passing: bool = False) -> None:
    """Say why, then close: without a code where the client knows none (ORIG 2.1), without a frame where it should return."""
    transport.start(lambda _: None, lambda: None)  # so that it hears the peer's end
    transport.write(encode_frame(frames.failure(code, text, protocol)))
    if is_passing and protocol == 1:
        transport.finish(b"")
        return
    transport.finish(encode_close(_CLOSE_CODES.get(code, CloseCode.SESSION_ENDED) if protocol == 2 else None))


def _resume() -> Resume | None:
    """Read what the client says it has. A cursor that is no number is one that we cannot know: it gets a reset."""
    cursor = request.args.get("cursor")
    if cursor is None:
        return None
    is_number = cursor.isascii() and cursor.isdigit() and len(cursor) < 16
    return Resume(int(cursor) if is_number else 0, request.args.get("epoch", "") if is_number else "")
