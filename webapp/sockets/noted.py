"""What a connection has written and its client has not acknowledged: whose one-to-one messages, up to which `seq`."""

from __future__ import annotations

from collections import deque

from models.bodies import sender_and_seq

_MAX_NOTES = 1_000


class Unacknowledged:
    """Notes of one connection, oldest first. Bounded: when full, it keeps the newest of each sender."""

    __slots__ = ("_notes",)

    def __init__(self) -> None:
        self._notes: deque[tuple[int, int, int]] | None = None  # cursor, sender, seq; None: an idle socket pays nothing

    def note(self, cursor: int, body: bytes) -> None:
        """Remember an entry that was written, where it is a user's message from one to one."""
        found = sender_and_seq(body)
        if found is None:
            return
        if self._notes is None:
            self._notes = deque()
        elif len(self._notes) >= _MAX_NOTES:
            newest = {note[1]: note for note in self._notes}
            self._notes = deque(sorted(newest.values())[-_MAX_NOTES // 2 :])
        self._notes.append((cursor, *found))

    def take(self, cursor: int) -> dict[int, int]:
        """Forget what is covered by an acknowledgement, and return of each sender the newest `seq` of it."""
        notes = self._notes
        if notes is None:
            return {}
        covered: dict[int, int] = {}
        while notes and notes[0][0] <= cursor:
            _, sender_id, seq = notes.popleft()
            covered[sender_id] = max(seq, covered.get(sender_id, 0))
        if not notes:
            self._notes = None
        return covered
