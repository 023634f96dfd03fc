"""Who is online, as a web process tells it to its sockets (contract section 5, `presence`)."""

from __future__ import annotations

from models.store import attendance
from models.store.connection import run
from tests.model.rig import PROCESS_ID, Rig
from webapp.sockets.attendance import Attendance, _presence
from webapp.sockets.connection import now_ms
from webapp.sockets.signals import SignalPost


def test_a_friend_who_is_announced_while_one_connects_is_told_once(rig: Rig) -> None:
    """Another process announces him before this one shows the new socket which friends are there."""
    web = rig.web
    post = SignalPost(PROCESS_ID, web.registry, web._store)
    here = Attendance(web.registry, web._store, rig.database, post)
    watching = web.connect(1, "a", 2)
    connection = web.connection_of(watching)
    assert connection is not None
    came_at = now_ms() - 300
    run(rig.client, [attendance.announce_command(2, came_at), attendance.announce_command(3, came_at)])
    here.opened(connection)
    post.show(connection, _presence(1, 2, came_at, is_online=True))

    here._turn()
    here._turn()

    assert sorted(frame["user_id"] for frame in watching.texts("presence")) == [2, 3]
