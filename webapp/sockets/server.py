"""Our `Server` for flask-sock: the handshake by hand, and a socket that outlives the request. Bound here, used nowhere else.

flask-sock's own keeps a second greenlet, a wsproto machine and Flask's request context for the life of each socket: 44 KB.
Ours answers the handshake, lets the view refuse or take the transport over, and is then done with the request
(decision 0003). Compression is never negotiated: it would cost 92 KB per connection.
"""

from __future__ import annotations

from typing import Any

import flask_sock
import simple_websocket
from werkzeug.exceptions import BadRequest
from wsproto.frame_protocol import CloseReason

from webapp.errors import ApiError
from webapp.sockets.transport import Transport
from webapp.sockets.wire import accept_key, encode_close, encode_frame

VERSION = "13"  # RFC 6455 section 4.1


class Server(simple_websocket.Server):  # type: ignore[misc]  # the library is untyped
    """One handshake. The view either refuses it (`send`, `close`) or takes the socket (`take_over`)."""

    def __init__(self, environ: dict[str, Any], max_unsent_bytes: int = 1_048_576, **_options: Any) -> None:
        # The library's __init__ starts its thread, so it is not called: only its attributes are.
        self.environ = environ
        self.mode = "gunicorn"  # flask-sock ends the request the way this server wants it
        self.connected = False
        self.close_reason = CloseReason.NO_STATUS_RCVD
        self.close_message = None
        self.sock: Any = environ.get("gunicorn.socket")
        self._max_unsent_bytes = max_unsent_bytes
        self.handshake()

    def handshake(self) -> None:
        key = self.environ.get("HTTP_SEC_WEBSOCKET_KEY", "")
        is_upgrade = "websocket" in self.environ.get("HTTP_UPGRADE", "").lower()
        if self.sock is None or not (key and is_upgrade):
            raise NotAHandshake
        if self.environ.get("HTTP_SEC_WEBSOCKET_VERSION") != VERSION:
            raise ApiError("upgrade_required")
        # Written together with the first frame: one by one they cost a twentieth of a connect more.
        self._unsent = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept_key(key).encode()
        )
        self.connected = True

    def send(self, data: str | bytes) -> None:
        self._write(encode_frame(data.encode() if isinstance(data, str) else data))

    def close(self, reason: int | None = None, message: str | None = None) -> None:
        """Send a close frame, unless the socket was taken over or is closed already."""
        if self.connected:
            self.connected = False
            try:
                self._write(encode_close(reason, message or ""))
            except OSError:
                pass  # the peer has left; there is nobody to tell

    def _write(self, data: bytes) -> None:
        unsent, self._unsent = self._unsent, b""
        self.sock.sendall(unsent + data)

    def take_over(self) -> Transport:
        """Give the socket away: from now on it is the transport's, and the request may end."""
        self.connected = False
        return Transport.of(self.sock, self._max_unsent_bytes, self._unsent)


class NotAHandshake(BadRequest):
    """The request for the websocket route is not a websocket handshake (RFC 6455 section 4.2.1)."""


flask_sock.Server = Server
