"""A target of webhooks: a real HTTP server that remembers every POST and answers as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.instance import free_ports, wait_until


@dataclass(frozen=True, slots=True)
class Posted:
    """One POST. at: monotonic seconds; headers: names in lower case; status: how it was answered, 0 where it was not"""

    at: float
    path: str
    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def events(self) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = json.loads(self.body)["events"]
        return events


class WebhookTarget:
    """A target on a port of its own, which it keeps while it is closed and opened again.

    answer: gives the status of each POST, after as long as it takes; it is called before the POST counts as taken
    """

    def __init__(self, answer: Callable[[list[dict[str, Any]]], int] = lambda _: 200, location: str = "") -> None:
        self.answer = answer
        self.posted: list[Posted] = []
        (self._port,) = free_ports(1)
        self._location = location
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/hook?from=hongyan"

    @property
    def taken(self) -> list[dict[str, Any]]:
        """The events of all POSTs that were answered with 2xx, each id once, in the order of their first time."""
        events = [event for posted in list(self.posted) if 200 <= posted.status < 300 for event in posted.events]
        return list({event["id"]: event for event in events}.values())

    @property
    def texts(self) -> list[str]:
        """What the messages taken say."""
        return [text_of(event) for event in self.taken if event["type"] == "message.stored"]

    def wait_for(self, text: str, timeout: float = 15.0) -> None:
        assert wait_until(lambda: text in self.texts, timeout), f"{text!r} did not come; there are {self.texts}"

    def open(self) -> None:
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                at = time.monotonic()
                status = target.answer(json.loads(body)["events"])
                headers = {name.lower(): value for name, value in self.headers.items()}
                target.posted.append(Posted(at, self.path, headers, body, status))
                try:
                    self.send_response(status)
                    if target._location:
                        self.send_header("Location", target._location)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass  # whoever posted has not waited for it

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> WebhookTarget:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def text_of(event: dict[str, Any]) -> str:
    """Return what the message of an event says."""
    text: str = json.loads(event["data"]["message"]["data"])["data"]
    return text
