"""Telling after the commit: a push that fails undoes nothing, and what it should have told is told once (ORIG F2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import select

from models import notices
from models.errors import ModelError, Overloaded, StoreUnavailable
from models.notices import PendingNotice
from models.requests import Request, conversation_key
from tests.model.rig import DirectAcceptor, Rig
from webapp.telling import Teller


class _FailingAcceptor(DirectAcceptor):
    """Raises at the `at`-th request, before it is accepted, or after that where the answer is what is lost."""

    def __init__(self, rig: Rig, error: ModelError, *, at: int, is_stored: bool) -> None:
        super().__init__(rig.settings, rig.client)
        self._error = error
        self._left = at
        self._is_stored = is_stored

    def accept(self, request: Request) -> None:
        self._left -= 1
        if self._left > 0 or self._is_stored:
            super().accept(request)
        if self._left <= 0:
            raise self._error


def _notice(about_id: int, to_id: int) -> Request:
    """Build a notice that is old enough for a drain to sweep it up."""
    message = {"from_id": about_id, "to_id": to_id, "chatType": "single", "type": "systemNotice", "data": "hello"}
    conversation = conversation_key("single", about_id, to_id)
    notice = notices.build("single", about_id=about_id, to_id=to_id, conversation=conversation, message=message)
    return replace(notice, created_at_ms=notice.created_at_ms - 2 * notices.SWEEP_AFTER_MS)


def _pending(rig: Rig) -> set[str]:
    with rig.database.reading() as connection:
        return set(connection.execute(select(PendingNotice.id)).scalars())


def _tell(rig: Rig, queued: Sequence[Request], acceptor: DirectAcceptor) -> None:
    with rig.database.writing() as connection:
        notices.queue(connection, queued)
    Teller(acceptor, rig.web.office._database).tell(queued)


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize(
    ("error", "is_stored"),
    [(StoreUnavailable("no answer"), False), (StoreUnavailable("no answer"), True), (Overloaded("full"), False)],
    ids=["lost", "answer lost", "full"],
)
def test_a_push_that_fails_after_the_commit_is_made_up_for(
    rig: Rig, error: ModelError, is_stored: bool, at: int
) -> None:
    """The change stands and its caller is told so; the notices stay queued with it, and a drain tells each of them once."""
    queued = [_notice(1, 2), _notice(1, 3)]
    sockets = {user_id: rig.web.connect(user_id, "a", 2) for user_id in (2, 3)}

    _tell(rig, queued, _FailingAcceptor(rig, error, at=at, is_stored=is_stored))

    assert _pending(rig) == {notice.id for notice in queued}
    for _ in range(2):
        rig.drain()
        rig.deliver()
    assert _pending(rig) == set()
    assert {
        user_id: [frame["data"]["id"] for frame in socket.texts("singleChat")] for user_id, socket in sockets.items()
    } == {notice.to_id: [notice.id] for notice in queued}
    assert sorted(row["id"] for row in rig.rows()) == sorted(notice.id for notice in queued)


def test_a_push_that_succeeds_leaves_nothing_queued(rig: Rig) -> None:
    """What stands in the outbox is not told a second time by a drain."""
    queued = [_notice(1, 2), _notice(1, 3)]

    _tell(rig, queued, rig.web.acceptor)

    assert _pending(rig) == set()
    rig.drain()
    assert sorted(row["id"] for row in rig.rows()) == sorted(notice.id for notice in queued)
