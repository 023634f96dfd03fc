"""`GET /ws`: the websocket route. Checks the token, then gives the socket to the office; the request ends there."""

from __future__ import annotations

import flask_sock
import structlog
from flask import request

from models.errors import ModelError
from schemas import frames
from webapp.auth import Gatekeeper, UserMissing
from webapp.errors import ApiError
from webapp.sockets.closing import CloseCode
from webapp.sockets.office import Resume, SocketOffice
from webapp.sockets.server import Server

log = structlog.get_logger()

# ORIG 2.1: what a refused client reads before the close. Codes are the gatekeeper's.
_REFUSALS = {
    "token_missing": "缺少 token 参数",
    "token_expired": "token 已过期",
    "token_invalid": "Token 不合法",
    "user_disabled": "你已被管理员禁用",
}


def add_route(sock: flask_sock.Sock, gatekeeper: Gatekeeper, office: SocketOffice) -> None:
    @sock.route("/ws")  # type: ignore[untyped-decorator]
    def connect(server: Server) -> None:
        protocol = 2 if request.args.get("v") == "2" else 1
        try:
            caller = gatekeeper.admit(request.args.get("token"))
        except ApiError as error:
            code = error.failure.code
            text = "用户不存在" if isinstance(error, UserMissing) else _REFUSALS[code]
            server.send(frames.failure(code, text))
            disabled = CloseCode.DISABLED if code == "user_disabled" else CloseCode.SESSION_ENDED
            server.close(disabled if protocol == 2 else None)
            return
        except ModelError as error:
            # Not the client's fault (ORIG A16): drop him without a close frame, so that he returns.
            log.warning("socket_refused", reason="unavailable", error=str(error))
            server.take_over().abort()
            return
        transport = server.take_over()
        try:
            wants_notices = protocol == 1 or request.args.get("notices") == "1"
            office.connect(
                caller, transport, protocol, _resume() if protocol == 2 else None, wants_notices=wants_notices
            )
        except ModelError as error:
            log.warning("socket_dropped", user_id=caller.user_id, error=str(error))
            transport.abort()
        except Exception:
            # The handshake is done: an HTTP answer would be bytes in the middle of frames (pitfall F12).
            log.exception("socket_dropped", user_id=caller.user_id)
            transport.abort()


def _resume() -> Resume | None:
    """Read what the client says it has. A cursor that is no number is one that we cannot know: it gets a reset."""
    cursor = request.args.get("cursor")
    if cursor is None:
        return None
    is_number = cursor.isascii() and cursor.isdigit() and len(cursor) < 16
    return Resume(int(cursor) if is_number else 0, request.args.get("epoch", "") if is_number else "")
