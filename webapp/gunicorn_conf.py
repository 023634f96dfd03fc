"""gunicorn's settings for the web processes, and what a process does when it starts and stops."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from logs import redact_stderr
from settings import load_settings

redact_stderr()  # before gunicorn makes its handlers: what it quotes of a bad request may hold a token
_settings = load_settings()

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
workers = _settings.web_processes
worker_class = "gevent"
worker_connections = _settings.web_max_connections
backlog = 4096
keepalive = 75  # seconds; above the 60 that proxies keep an idle connection for
timeout = 30
graceful_timeout = 4
max_requests = 0  # recycling a process would cut its sockets (pitfall G4)
control_socket_disable = True  # no socket under the home directory (pitfall G7)
loglevel = "warning"


def on_starting(_arbiter: Any) -> None:
    """Forget what an earlier run has counted."""
    for path in (_settings.data_dir / "metrics").glob("*.json"):
        path.unlink(missing_ok=True)


def post_worker_init(worker: Any) -> None:
    """Start the process's greenlets, and drop its sockets first when it is told to stop."""
    process = worker.wsgi.extensions["hongyan"]
    process.start()
    stop = signal.getsignal(signal.SIGTERM)

    def drain_sockets(number: int, frame: FrameType | None) -> None:
        process.office.close_all()
        if callable(stop):
            stop(number, frame)

    signal.signal(signal.SIGTERM, drain_sockets)
