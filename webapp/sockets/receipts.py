"""Receipts: how a sender learns that his one-to-one messages have arrived, as a watermark, a few times a second.

A connection remembers of each message it writes whose it was; an acknowledgement gives the newest per sender. What a
moment brought is told together, so a message costs a note and no round trip of its own.
"""

from __future__ import annotations

import gevent

from schemas import frames
from webapp.sockets.connection import Connection, now_ms
from webapp.sockets.signals import Outgoing, SignalPost

_FLUSH_SECONDS = 0.3


class Receipts:
    """Collects what was acknowledged in this process and tells the senders."""

    def __init__(self, post: SignalPost) -> None:
        self._post = post
        self._covered: dict[tuple[int, int], int] = {}  # (reader, sender) -> newest seq acknowledged, not yet told

    def start(self) -> None:
        gevent.spawn(self._flush_for_ever)

    def collect(self, connection: Connection) -> None:
        """Take what the connection's acknowledgement covers."""
        for sender_id, seq in connection.unacknowledged.take(connection.acknowledged).items():
            pair = (connection.user_id, sender_id)
            if seq > self._covered.get(pair, 0):
                self._covered[pair] = seq

    def _flush_for_ever(self) -> None:
        while True:
            gevent.sleep(_FLUSH_SECONDS)
            covered, self._covered = self._covered, {}
            if covered:
                at = now_ms()
                self._post.tell(receipt("delivered", *pair, seq, at) for pair, seq in covered.items())


def receipt(state: frames.ReceiptState, reader_id: int, sender_id: int, seq: int, at_ms: int) -> Outgoing:
    """Build what tells a sender how far a reader has come."""
    frame = frames.receipt(state, reader_id, seq, at_ms)
    return Outgoing("receipt", sender_id, frame, mark=f"{state}:{reader_id}", level=seq)
