"""Clients that do exactly what they are told and remember everything they saw: the HTTP API, and one socket."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

from chaos.history import History, Outcome, Sent, group_conversation, outcome_of, single_conversation
from tests.support.websocket import Opcode, StreamCorrupt, WebSocket

_NO_STATUS = 1005  # RFC 6455 section 7.1.5: a close frame without a code
# Small enough for a reader that stops reading to be felt after a few messages.
_STALLED_RECEIVE_BUFFER_BYTES = 4_096


class HttpClient:
    """The HTTP API with one user's token; a fresh connection each time, so no answer is ever lost to an idle one.

    token: None sends none. Raises OSError or http.client.HTTPException: no answer came.
    """

    def __init__(self, base: str, token: str | None, *, timeout: float = 15.0) -> None:
        self._address = urlsplit(base)
        self._token = token
        self._timeout = timeout

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Return status and decoded JSON, or the text where it is none."""
        sent_headers = {"Content-Type": "application/json", "Connection": "close"}
        if self._token is not None:
            sent_headers["token"] = self._token
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=self._timeout)
        try:
            payload = None if body is None else json.dumps(body, ensure_ascii=False).encode()
            connection.request(method, path, payload, {**sent_headers, **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except json.JSONDecodeError:
            return response.status, text

    def get(self, path: str) -> tuple[int, Any]:
        """Call GET."""
        return self.call("GET", path)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Call POST with a JSON body."""
        return self.call("POST", path, body or {})

    def send(
        self,
        to: int,
        text: str,
        chat_type: Literal["single", "group"] = "single",
        client_msg_id: str | None = None,
        respond_async: bool = False,
    ) -> tuple[int, Any]:
        """Send a text message as the legacy client does, and return status and body."""
        body: dict[str, Any] = {
            "sendto_id": to,
            "chatType": chat_type,
            "type": "text",
            "data": json.dumps({"data": text, "dataType": False, "otherData": None}, ensure_ascii=False),
            "options": "%7B%7D",
        }
        if client_msg_id is not None:
            body["clientMsgId"] = client_msg_id
        headers = {"Prefer": "respond-async"} if respond_async else {}
        return self.call("POST", "/api/chat/socket/sendmessage", body, headers)

    def send_recorded(
        self,
        history: History,
        sender_id: int,
        to: int,
        text: str,
        *,
        members: tuple[int, ...] = (),
        client_msg_id: str | None = None,
        respond_async: bool = False,
    ) -> Sent:
        """Send once, record what the sender learnt of it, and return that. No answer is the outcome `unknown`.

        members: of the group `to`, the sender included; empty = `to` is a user
        """
        t_start = time.monotonic()
        outcome: Outcome = "unknown"
        message: dict[str, Any] = {}
        try:
            status, body = self.send(to, text, "group" if members else "single", client_msg_id, respond_async)
            outcome = outcome_of(status)
            if status in (200, 202):
                message = body["data"]
        except (OSError, http.client.HTTPException):
            pass
        sent = Sent(
            sender=sender_id,
            conversation=group_conversation(to) if members else single_conversation(sender_id, to),
            text=text,
            recipients=tuple(member for member in members if member != sender_id) if members else (to,),
            t_start=t_start,
            t_end=time.monotonic(),
            outcome=outcome,
            message_id=message.get("id"),
            seq=message.get("seq"),
            client_id=client_msg_id,
        )
        history.append(sent)
        return sent


@dataclass(frozen=True, slots=True)
class Frame:
    """One text frame. at: monotonic seconds; data: the decoded JSON object."""

    at: float
    data: dict[str, Any]

    @property
    def message(self) -> dict[str, Any] | None:
        """The chat message it carries; None for every other frame, the greetings included."""
        message = self.data.get("data")
        if self.data.get("type") != "singleChat" or not isinstance(message, dict):
            return None
        # Greetings come from `redirect-…` or 0 (ORIG section 4) and stand in no conversation.
        return message if isinstance(message.get("from_id"), int) and message["from_id"] > 0 else None


@dataclass(frozen=True, slots=True)
class Ping:
    """One websocket ping. at: monotonic seconds."""

    at: float
    payload: bytes


class ChatSocket:
    """One connection to `/ws`. A thread of its own reads and records until the connection ends.

    answer_pings: False never sends a pong; `pong` does by hand
    read: False reads nothing after the handshake until `start_reading`, with a small receive buffer
    on_frame: called in the reading thread after each recorded frame
    Raises OSError: nothing listens. Raises HandshakeRefused.
    """

    def __init__(
        self,
        base: str,
        token: str | None,
        v: Literal[1, 2] = 1,
        cursor: int | None = None,
        epoch: str | None = None,
        *,
        answer_pings: bool = True,
        read: bool = True,
        query: Mapping[str, str] | None = None,
        origin: str | None = None,
        on_frame: Callable[[Frame], None] | None = None,
    ) -> None:
        parameters: dict[str, str | int | None] = {"token": token, "cursor": cursor, "epoch": epoch, **(query or {})}
        if v == 2:
            parameters["v"] = 2
        given = urlencode({name: value for name, value in parameters.items() if value is not None})
        self.frames: list[Frame] = []
        self.pings: list[Ping] = []
        self.close_code: int | None = None
        self.error: str | None = None  # what the server did that RFC 6455 or JSON forbids
        self._answer_pings = answer_pings
        self._on_frame = on_frame
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._socket = WebSocket(
            f"ws{base.removeprefix('http')}/ws?{given}",
            origin=origin,
            receive_buffer_bytes=None if read else _STALLED_RECEIVE_BUFFER_BYTES,
        )
        self.opened_at = time.monotonic()
        self._reader = threading.Thread(target=self._read, name="chat-socket", daemon=True)
        if read:
            self.start_reading()

    def start_reading(self) -> None:
        """Read from now on. Once."""
        self._reader.start()

    def _read(self) -> None:
        try:
            while (raw := self._socket.read()) is not None:
                at = time.monotonic()
                if raw.opcode == Opcode.TEXT:
                    frame = Frame(at, json.loads(raw.payload.decode()))
                    with self._changed:
                        self.frames.append(frame)
                        self._changed.notify_all()
                    if self._on_frame is not None:
                        self._on_frame(frame)
                elif raw.opcode == Opcode.PING:
                    with self._changed:
                        self.pings.append(Ping(at, raw.payload))
                        self._changed.notify_all()
                    if self._answer_pings:
                        self.pong(raw.payload)
                elif raw.opcode == Opcode.CLOSE:
                    self.close_code = int.from_bytes(raw.payload[:2], "big") if raw.payload else _NO_STATUS
                    self._write(Opcode.CLOSE, raw.payload[:2])
                    break
        except (StreamCorrupt, ValueError) as error:
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self._socket.drop()
            with self._changed:
                self._ended.set()
                self._changed.notify_all()

    def _write(self, opcode: Opcode, payload: bytes) -> None:
        try:
            self._socket.write(opcode, payload)
        except OSError:
            pass  # the reader tells how the connection ended

    @property
    def is_open(self) -> bool:
        """Whether the connection has not ended."""
        return not self._ended.is_set()

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The chat messages received so far, without greetings."""
        return [message for frame in list(self.frames) if (message := frame.message) is not None]

    def send_json(self, data: Mapping[str, Any]) -> None:
        """Write a text frame. Nothing happens where the connection has ended."""
        self.send_text(json.dumps(data, ensure_ascii=False))

    def send_text(self, text: str) -> None:
        """Write a text frame that need not be JSON."""
        self._write(Opcode.TEXT, text.encode())

    def send_binary(self, payload: bytes) -> None:
        """Write a binary frame."""
        self._write(Opcode.BINARY, payload)

    def ack(self, cursor: int) -> None:
        """Say that everything up to the cursor is safe on this device (protocol 2)."""
        self.send_json({"type": "ack", "cursor": cursor})

    def pong(self, payload: bytes) -> None:
        """Answer a ping by hand, or send a pong that nobody asked for."""
        self._write(Opcode.PONG, payload)

    def wait_for(self, predicate: Callable[[Frame], bool], timeout: float = 10.0) -> Frame:
        """Return the first frame, received already or to come, that the predicate accepts.

        Raises TimeoutError: none came in time, or before the connection ended.
        """
        found: Frame | None = None
        looked_at = 0

        def ready() -> bool:
            nonlocal found, looked_at
            while found is None and looked_at < len(self.frames):
                if predicate(self.frames[looked_at]):
                    found = self.frames[looked_at]
                looked_at += 1
            return found is not None or self._ended.is_set()

        with self._changed:
            self._changed.wait_for(ready, timeout)
            if found is None:
                state = "open" if self.is_open else f"ended, close code {self.close_code}, error {self.error}"
                tail = [frame.data for frame in self.frames[-5:]]
                raise TimeoutError(f"no such frame among {len(self.frames)} in {timeout} s ({state}); last: {tail}")
            return found

    def wait_for_text(self, text: str, timeout: float = 10.0) -> Frame:
        """Return the frame whose message has this text."""
        return self.wait_for(lambda frame: frame.message is not None and message_text(frame.message) == text, timeout)

    def wait_for_ping(self, count: int = 1, timeout: float = 10.0) -> Ping:
        """Return the count-th ping of the connection. Raises TimeoutError."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.pings) >= count or self._ended.is_set(), timeout)
            if len(self.pings) < count:
                raise TimeoutError(f"{len(self.pings)} of {count} pings in {timeout} s")
            return self.pings[count - 1]

    def has_ended_within(self, timeout: float) -> bool:
        """Wait for the end, at most this long, and say whether it came."""
        return self._ended.wait(timeout)

    def wait_closed(self, timeout: float = 10.0) -> int | None:
        """Wait for the end; return its close code, 1005 for a close frame without one, None where no close frame came.

        Raises TimeoutError: still open.
        """
        if not self.has_ended_within(timeout):
            raise TimeoutError(f"still open after {timeout} s")
        return self.close_code

    def close(self, code: int = 1000, timeout: float = 5.0) -> None:
        """Close as a well-behaved client does: close frame, then wait for the server's."""
        self._write(Opcode.CLOSE, code.to_bytes(2, "big"))
        if not self._reader.is_alive() or not self._ended.wait(timeout):
            self._socket.drop()

    def drop(self, *, abruptly: bool = False) -> None:
        """Vanish without a close frame; abruptly: with a TCP reset."""
        self._socket.drop(abruptly=abruptly)
        if self._reader.is_alive():
            self._ended.wait(5.0)

    def __enter__(self) -> ChatSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def message_text(message: Mapping[str, Any]) -> str:
    """Return the text of a message body, which users send as JSON text and the server as an object (ORIG section 7)."""
    data = message["data"]
    body = json.loads(data) if isinstance(data, str) else data
    return str(body["data"])
