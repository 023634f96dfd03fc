"""What a drain does where it cannot read who has written before: a quota that nobody can read allows nothing (ORIG C4)."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from models import first_contacts, users
from models.errors import DatabaseUnavailable
from models.users import User
from tests.model.rig import STRANGER_ID, Rig

_TRIES = 3
_ONE_MESSAGE = '{"chatset":{"visitor":{"sendCount":1},"user":{"sendCount":1}}}'


def test_an_unreadable_quota_leaves_the_message_waiting(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is decided, however often it is tried; when it can be read, who has written before is refused, others are not."""
    with rig.database.writing() as connection:
        connection.execute(update(User).where(User.id.in_([1, 2])).values(userset=_ONE_MESSAGE))
        users.touch_facts(connection, 1, 2)
    first, second = (rig.build_send(STRANGER_ID, 1, text) for text in ("first", "second"))
    elsewhere = rig.build_send(STRANGER_ID, 2, "somebody else")
    rig.accept(first)
    rig.drain()
    rig.accept(second, elsewhere)
    rig.deliver()

    def fail(*_: object) -> None:
        raise DatabaseUnavailable("no answer")

    worker = rig.worker()
    with monkeypatch.context() as patch:
        patch.setattr(first_contacts, "load", fail)
        assert [worker.run() for _ in range(_TRIES)] == [False] * _TRIES
    assert [row["id"] for row in rig.rows()] == [first.id]
    assert set(rig.waiting()) == {second.encode(), elsewhere.encode()}
    assert rig.published == []

    assert worker.run()

    assert rig.row(second.id)["code"] == "stranger_limit"
    assert rig.row(elsewhere.id)["code"] is None
    assert rig.waiting() == []
