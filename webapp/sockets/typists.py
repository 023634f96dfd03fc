"""Typing: tells those who would get a message that somebody is writing one to them. Nothing of it is stored."""

from __future__ import annotations

import time
from typing import Any

import gevent
import structlog
from gevent.lock import BoundedSemaphore

from models.database import Database
from models.errors import ModelError
from schemas import frames
from schemas.params import InvalidParams
from schemas.signals import TYPING_PARAMS
from tasks.hearers import Hearers
from webapp.services import offload
from webapp.sockets.connection import Connection
from webapp.sockets.signals import Outgoing, SignalPost

log = structlog.get_logger()

_PAUSE_SECONDS = {"single": 0.3, "group": 1.0}  # between two of a sender to one peer; a group's goes to up to 1,000
_MAX_REMEMBERED = 10_000
_MAX_UNDER_WAY = 4  # per sender: what a flood of frames to many peers may keep busy

_Peer = tuple[int, str, int]  # sender, chat type, user or group


class Typists:
    def __init__(self, database: Database, post: SignalPost) -> None:
        self._database = database
        self._post = post
        self._hearers = Hearers(database)
        self._one_question = BoundedSemaphore(1)
        self._told_at: dict[_Peer, float] = {}  # oldest first
        self._under_way: dict[int, int] = {}

    def receive(self, connection: Connection, frame: dict[str, Any]) -> None:
        """Take a `typing` frame. What is malformed or too much is ignored. Never blocks."""
        try:
            params = TYPING_PARAMS.read(frame)
        except InvalidParams:
            return
        sender_id = connection.user_id
        peer = (sender_id, params["chatType"], params["to_id"])
        under_way = self._under_way.get(sender_id, 0)
        if under_way >= _MAX_UNDER_WAY or not self._is_due(peer):
            return
        self._under_way[sender_id] = under_way + 1
        gevent.spawn(self._tell, connection.role, peer)

    def _is_due(self, peer: _Peer) -> bool:
        now = time.monotonic()
        if now - self._told_at.get(peer, 0.0) < _PAUSE_SECONDS[peer[1]]:
            return False
        self._told_at.pop(peer, None)
        self._told_at[peer] = now
        if len(self._told_at) > _MAX_REMEMBERED:
            del self._told_at[next(iter(self._told_at))]
        return True

    def _tell(self, role: str, peer: _Peer) -> None:
        sender_id, chat_type, to_id = peer
        try:
            with self._one_question:
                hearers = offload(self._database, self._hearers.load, sender_id, role, chat_type, to_id)
            frame = frames.typing(chat_type, to_id, sender_id)
            self._post.tell(Outgoing("typing", user_id, frame) for user_id in hearers)
        except ModelError as error:
            log.warning("typing_not_told", user_id=sender_id, error=str(error))
        finally:
            left = self._under_way[sender_id] - 1
            if left:
                self._under_way[sender_id] = left
            else:
                del self._under_way[sender_id]
