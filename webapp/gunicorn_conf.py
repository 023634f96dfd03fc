"""gunicorn's settings for the web processes, and what a process does when it starts and stops."""

from __future__ import annotations

import errno
import gc
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from types import FrameType
from typing import Any

import gevent
from gevent.server import StreamServer
from gunicorn import http, util
from gunicorn.http import wsgi
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers import ggevent

from logs import redact_stderr
from settings import load_settings

redact_stderr()  # before gunicorn makes its handlers: what it quotes of a bad request may hold a token
_settings = load_settings()

# A client that sends too much reads why if it sends no more than this beyond our answer; then the connection is reset.
_LINGER_SECONDS, _LINGER_BODIES = 2.0, 2
_DRAIN_BYTES = 65_536
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)  # a client that has left

bind = _settings.bind_address
workers = _settings.web_processes
worker_connections = _settings.web_max_connections
backlog = 4096
keepalive = 75  # seconds; above the 60 that proxies keep an idle connection for
timeout = 30
# A head larger than this is answered by 413, a request line longer than this by 413 or 400.
limit_request_line = 4094  # bytes
limit_request_fields = 100
limit_request_field_size = 8190  # bytes
# Nobody's: TRUSTED_PROXIES says whose forwarding headers count. gunicorn would believe every client on loopback, and answer
# a SCRIPT_NAME of his with 500.
forwarded_allow_ips = ""
graceful_timeout = 4
max_requests = 0  # recycling a process would cut its sockets
control_socket_disable = True  # no socket under the home directory
loglevel = "warning"


class Worker(ggevent.GeventWorker):  # type: ignore[misc]  # the library is untyped
    """gunicorn's, with bounds on what a client may keep waiting: its head, a body nobody reads, an answer it does not take.

    gunicorn itself bounds the head of a request by `keepalive` only, and nothing else. The body: `webapp/arriving.py`.
    """

    def load_wsgi(self) -> None:
        super().load_wsgi()
        # Not at the top: gunicorn's master reads this file, and must not import the application.
        from webapp.plain_requests import PlainRequests

        self._plain_requests = PlainRequests(self, _settings.request_max_seconds, _finish_body, _is_given_up)

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        current: Any = gevent.getcurrent()
        current.is_first_request, current.unread = True, b""
        if not self.log.access_log_enabled:  # its lines are made from what only gunicorn's own way knows
            unread = self._serve_plain(listener, client, address)
            if unread is None:
                util.close(client)
                return
            current.unread = unread
        super().handle(listener, client, address)

    def _serve_plain(self, listener: Any, client: Any, address: Any) -> bytes | None:
        try:
            return self._plain_requests.serve(listener.getsockname(), client, address)
        except (StopIteration, TimeoutError, gevent.GreenletExit, SystemExit):
            return None
        except OSError as error:
            if error.errno not in _GONE:
                self.log.exception("Socket error processing request.")
        except Exception as error:
            self.handle_error(None, client, address, error)
        return None

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Bound the wait for a request: the first of a connection is due, a later one may be long in coming."""
        current: Any = gevent.getcurrent()
        is_first, current.is_first_request = current.is_first_request, False
        timer = gevent.Timeout.start_new(_settings.request_max_seconds if is_first else self.cfg.keepalive)
        try:
            yield
        except gevent.Timeout as error:
            if error is not timer:
                raise
            if is_first:
                _count_slow_request()
        finally:
            timer.close()

    def handle_request(self, listener_name: Any, request: Any, client: Any, address: Any) -> None:
        client.settimeout(_settings.request_max_seconds)  # for each part of the answer
        try:
            super().handle_request(listener_name, request, client, address)
        except TimeoutError:
            raise StopIteration from None
        except StopIteration:
            # The connection's last request. With something of it unread the close would be a reset, and the answer be lost.
            _finish_body(client, request)
            raise
        # gunicorn would read all of it, at the client's pace and for as long as `keepalive`.
        if not _finish_body(client, request):
            raise StopIteration
        client.settimeout(None)

    def handle_error(self, request: Any, client: Any, address: Any, error: BaseException) -> None:
        """Leave a connection that is ended because the process stops without a word, as one that ends while it is idle.

        gunicorn would write a 500 into it, and the client would take that for the answer to its next request.
        """
        if not isinstance(error, gevent.GreenletExit):
            super().handle_error(request, client, address, error)


worker_class = Worker


class _Server(StreamServer):
    """gevent's, kept where it can be told to accept nobody from now on.

    gunicorn looks once a second whether its process is to stop, and drops whom it has let in meanwhile.
    """

    def start(self) -> None:
        super().start()
        _servers.append(self)


_servers: list[_Server] = []
ggevent.StreamServer = _Server


class _Kept:
    """Takes what would be sent."""

    def __init__(self) -> None:
        self.data = b""

    def sendall(self, data: bytes) -> None:
        self.data += data


class OneWriteResponse(wsgi.Response):  # type: ignore[misc]  # the library is untyped
    """gunicorn's, with head and body in one write: two cost a system call and a segment more, 6 % of a send."""

    sock: Any
    _head = b""

    def send_headers(self) -> None:
        if self.headers_sent:
            return
        if self.req.body is not None and _is_given_up(self.req):
            self.force_close()
        kept, sock = _Kept(), self.sock
        self.sock = kept
        try:
            super().send_headers()
        finally:
            self.sock = sock
        self._head = kept.data

    def _emit_body(self, data: bytes) -> None:
        if self.chunked:
            self._flush()
            super()._emit_body(data)
            return
        head, self._head = self._head, b""
        util.write(self.sock, head + data)

    def close(self) -> None:
        self.send_headers()
        self._flush()
        super().close()

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if head:
            util.write(self.sock, head)


_date_of_second = lru_cache(maxsize=1)(formatdate)

# A reload (SIGHUP) reads this file again. What stands there then is ours already, and ours on top of ours would lose the head.
if wsgi.Response.__name__ != OneWriteResponse.__name__:
    wsgi.Response = OneWriteResponse
    # For each request gunicorn would make a text of the time, and a stream for errors, which nothing of ours writes to.
    util.http_date = lambda: _date_of_second(int(time.time()), usegmt=True)
    wsgi.WSGIErrorsWrapper = lru_cache(maxsize=1)(wsgi.WSGIErrorsWrapper)
    _get_parser = http.get_parser

    def _get_parser_of_rest(*arguments: Any, **options: Any) -> Any:
        """Give a parser that begins with what `PlainRequests` has read."""
        parser = _get_parser(*arguments, **options)
        parser.unreader.unread(getattr(gevent.getcurrent(), "unread", b""))
        return parser

    http.get_parser = _get_parser_of_rest
sendfile = False  # it would overtake the head
# gunicorn would take up to 1 MiB off a socket at once, for each upload that is under way.
SocketUnreader.max_body_chunk = 131_072


def _write_refusal(client: Any, status: int, _reason: str, _message: str) -> None:
    """Answer what gunicorn itself refuses, or cannot do, as everything is answered; its own text would quote the request."""
    # Not at the top: gunicorn's master reads this file, and must not import the application.
    from schemas import envelope
    from webapp.errors import FAILURES

    code = "too_large" if status in (414, 431) else "internal_error" if status == 500 else "bad_request"
    failure = FAILURES[code]
    body = envelope.fail(code, failure.text(_settings.language))
    head = (
        f"HTTP/1.1 {failure.status} {HTTPStatus(failure.status).phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(client, head.encode() + body)


util.write_error = _write_refusal


def _count_slow_request() -> None:
    # Not at the top: gunicorn's master reads this file, and must not import the application.
    from webapp.counts import counts

    counts.bounds["REQUEST_MAX_SECONDS"] += 1


class _Leaving:
    """A socket whose client still sends. However fast he is, others have their turn after each piece."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.shutdown, self.settimeout, self.close = client.shutdown, client.settimeout, client.close

    def recv(self, _size: int) -> bytes:
        gevent.sleep(0)
        data: bytes = self._client.recv(_DRAIN_BYTES)
        return data


def _finish_body(client: Any, request: Any) -> bool:
    """Read what a view has left of a body, or end the connection so that its client can read the answer, and return False."""
    if _has_read_body(request):
        return True
    most = getattr(request.body, "linger_bytes", _LINGER_BODIES * _settings.body_max_bytes)
    util.close_graceful(_Leaving(client), timeout=_LINGER_SECONDS, max_drain=most)
    return False


def _is_given_up(request: Any) -> bool:
    """Say whether what is left of a body is not read, so that the answer is the connection's last."""
    if getattr(request.body, "failed", False):
        return True
    unread = getattr(request.body.reader, "length", None)
    return unread is not None and not 0 <= unread <= _settings.body_max_bytes


def _has_read_body(request: Any) -> bool:
    """Read what a view has left of a body, so that its connection can be used again. False: it is too long or too slow."""
    if _is_given_up(request):
        return False
    if getattr(request.body.reader, "length", None) == 0:
        return True
    left = _settings.body_max_bytes + 1  # one more than there may be, which finds the end behind the last of them
    with gevent.Timeout(_LINGER_SECONDS, False):  # type: ignore[arg-type]  # gevent's stubs do not know this False
        try:
            while left > 0:
                data = request.body.read(min(left, _DRAIN_BYTES))
                if not data:
                    return True
                left -= len(data)
        except Exception:  # malformed chunks, a client that has left: where the next request begins is unknown
            return False
    return False


def on_starting(_arbiter: Any) -> None:
    """Forget what an earlier run has counted."""
    for path in (_settings.data_dir / "metrics").glob("*.json"):
        path.unlink(missing_ok=True)


def post_worker_init(worker: Any) -> None:
    """Start the process's greenlets. When it is told to stop, it accepts nobody and drops its sockets first."""
    process = worker.wsgi.extensions["hongyan"]
    process.start()
    # Else every collection of the oldest generation walks through all that was loaded, and all sockets wait 60 ms for it.
    gc.collect()
    gc.freeze()
    stop = signal.getsignal(signal.SIGTERM)

    def drain_sockets(number: int, frame: FrameType | None) -> None:
        for server in _servers:
            server.stop_accepting()  # who comes waits for another process
        process.office.close_all()
        if callable(stop):
            stop(number, frame)

    signal.signal(signal.SIGTERM, drain_sockets)
