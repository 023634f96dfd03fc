"""What clients say over a websocket: heartbeats (ORIG 2.4), in protocol 2 `ack`, `send` and signals. Never blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gevent
import orjson
import structlog

from models.errors import ModelError, Overloaded
from models.store.bus import Verdict
from schemas import frames
from schemas.params import Fault, InvalidParams
from settings import Settings
from webapp.auth import Caller, Gatekeeper
from webapp.counts import counts
from webapp.errors import FAILURES, ApiError
from webapp.sending import build_send
from webapp.services import Acceptor, Failure, RateExceeded, Terms
from webapp.sockets.closing import close_code_of, text_of
from webapp.sockets.connection import Connection, now_ms
from webapp.sockets.registry import Registry

log = structlog.get_logger()

_MAX_REF_CHARACTERS = 64
_BAD_REF = Fault("ref 必须是不超过 64 个字符的文本或数字", "`ref` must be a text or a number of at most 64 characters")
_NOT_UNICODE = Fault("消息不是合法的 Unicode 文本", "the message is no Unicode text")
_NO_CLIENT_ID = Fault("客户端消息编号不能为空", "`clientMsgId` is missing")

_COUNTED = Terms(is_counted=True)  # its session is the connection's: where it ends, the connection does


class Inbound:
    def __init__(
        self,
        settings: Settings,
        process_id: str,
        registry: Registry,
        acceptor: Acceptor,
        gatekeeper: Gatekeeper,
    ) -> None:
        self._settings = settings
        self._process_id = process_id
        self._registry = registry
        self._acceptor = acceptor
        self._gatekeeper = gatekeeper
        # Protocol 2 frames that others take, by their type. A taker must not block.
        self.takers: dict[str, Callable[[Connection, dict[str, Any]], None]] = {}

    def receive(self, connection: Connection, payload: bytes) -> None:
        """Take one text or binary message. What it does not know it ignores, as the original does."""
        try:
            frame = orjson.loads(payload)
        except orjson.JSONDecodeError:
            if payload == b"ping":
                connection.send_text(frames.pong(now_ms()))
            elif connection.protocol == 2:
                self._refuse_unencodable(connection, payload)
            return
        if not isinstance(frame, dict):
            return
        kind = frame.get("type")
        if kind == "ping":
            self._heartbeat(connection, frame.get("token"))
        elif connection.protocol == 2:
            if kind == "ack" and type(frame.get("cursor")) is int:  # `true` is an int too
                connection.acknowledge(frame["cursor"])
            elif kind == "send":
                self._send(connection, frame)
            elif isinstance(kind, str) and kind in self.takers:
                self.takers[kind](connection, frame)

    def _refuse_unencodable(self, connection: Connection, payload: bytes) -> None:
        """Refuse a send that is JSON but no Unicode, as JavaScript spells half an emoji; ignore anything else."""
        try:
            frame = json.loads(payload)
        except (ValueError, RecursionError):
            return
        if isinstance(frame, dict) and frame.get("type") == "send":
            ref = frame.get("ref")
            # What Python reads here is more than the answer can hold.
            is_number = isinstance(ref, int) and -(2**63) <= ref < 2**64
            known = ref if is_number or (isinstance(ref, str) and ref.isascii()) else None
            connection.send_text(frames.send_failed(known, None, "invalid", _told(_NOT_UNICODE, connection)))

    def _heartbeat(self, connection: Connection, token: Any) -> None:
        if not token:
            connection.send_text(frames.pong(now_ms()))
        else:
            gevent.spawn(self._check_token, connection, str(token))

    def _check_token(self, connection: Connection, token: str) -> None:
        try:
            caller = self._gatekeeper.admit(token)
        except ApiError as error:
            # ORIG A12: silence would keep a dead session's socket open.
            code = error.failure.code
            connection.send_text(frames.failure(code, text_of(error, connection.language), connection.protocol))
            connection.end(close_code_of(code))
        except ModelError as error:
            # That the token could not be looked up says nothing about it: silence would have the client connect anew, which
            # cannot succeed now. Where the session has ended, the socket is closed as soon as that can be read.
            log.warning("heartbeat_unchecked", user_id=connection.user_id, error=str(error))
            connection.send_text(frames.pong(now_ms()))
        else:
            if caller.session_id == connection.session_id and caller.user_id == connection.user_id:
                # A refreshed token: the socket lives as long as the newest it has shown.
                connection.expires_at = max(connection.expires_at, caller.expires_at)
            connection.send_text(frames.pong(now_ms()))

    def _send(self, connection: Connection, frame: dict[str, Any]) -> None:
        ref, message = frame.get("ref"), frame.get("message")
        if not (ref is None or isinstance(ref, int | float | str)) or len(str(ref)) > _MAX_REF_CHARACTERS:
            # It is kept until the verdict and written back then: what orjson reads is not all that it can write.
            connection.send_text(frames.send_failed(None, None, "invalid", _told(_BAD_REF, connection)))
            return
        if not isinstance(message, dict) or message.get("clientMsgId") in (None, ""):
            connection.send_text(frames.send_failed(ref, None, "invalid", _told(_NO_CLIENT_ID, connection)))
            return
        if connection.undecided_count >= self._settings.socket_max_undecided:
            counts.bounds["SOCKET_MAX_UNDECIDED"] += 1
            counts.failures["too_many_sends"] += 1
            connection.send_text(frames.send_failed(ref, None, "too_many_sends", _text("too_many_sends", connection)))
            return
        wait = self._registry.open_wait(lambda verdict, body: self._settle(connection, wait, ref, verdict, body))
        caller = Caller(connection.user_id, "", connection.role, connection.device, connection.session_id, 0)
        try:
            request = build_send(caller, self._settings, (self._process_id, wait), message)
        except (ApiError, InvalidParams) as error:
            self._registry.close_wait(wait)
            code = error.failure.code if isinstance(error, ApiError) else "invalid"
            counts.failures[code] += 1
            text = error.told(connection.language) if isinstance(error, InvalidParams) else _text(code, connection)
            connection.send_text(frames.send_failed(ref, None, code, text))
            return
        connection.refs.setdefault(request.id, []).append(ref)
        connection.waits[wait] = request.id

        def give_up(code: str) -> None:
            counts.failures[code] += 1
            self._registry.close_wait(wait)
            connection.waits.pop(wait, None)
            connection.take_ref(request.id, ref)
            connection.send_text(frames.send_failed(ref, request.id, code, _text(code, connection)))

        def accepted(failure: Failure | None) -> None:
            if isinstance(failure, RateExceeded):
                counts.bounds["RATE_LIMIT_SENDS"] += 1
                give_up("rate_limited")
            elif failure is not None:
                give_up("outcome_unknown")

        try:
            self._acceptor.submit(request, accepted, _COUNTED)
        except Overloaded:
            give_up("overloaded")

    def _settle(self, connection: Connection, wait: int, ref: Any, verdict: Verdict, body: bytes | None) -> None:
        connection.waits.pop(wait, None)
        if verdict.code is None and body is not None:
            connection.settle(verdict.message_id, ref, body, verdict.cursor, verdict.epoch)
            return
        connection.take_ref(verdict.message_id, ref)
        code = verdict.code or "internal_error"
        connection.send_text(frames.send_failed(ref, verdict.message_id, code, _text(code, connection)))

    def refuse(self, user_id: int, device: str, message_id: str, code: str) -> None:
        """Tell the device's socket that a send of its was refused, unless it was sent over that very socket."""
        for connection in self._registry.of_user(user_id):
            if connection.protocol == 2 and connection.device == device and message_id not in connection.refs:
                connection.send_text(frames.send_failed(None, message_id, code, _text(code, connection)))


def _told(fault: Fault, connection: Connection) -> str:
    return fault.en if connection.language == "en" else fault


def _text(code: str, connection: Connection) -> str:
    return FAILURES[code].text(connection.language, role=connection.role)
