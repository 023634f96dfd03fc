"""What the sender is told of his message, while its recipient's devices come and go."""

from __future__ import annotations

import time
from typing import Any

import pytest

from models import sessions
from models.database import Database
from models.requests import Request
from tests.model.rig import DirectRedis, Rig, Socket
from webapp.delivery_state import DeliveryStates
from webapp.devices import Devices
from webapp.traces import Traces

_SENDER, _RECIPIENT = 1, 2


class _Asker:
    """What the routes ask, and the recipient's logins."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._database = Database(rig.database.engine)
        self._database.is_sqlite = False  # so that `offload` calls directly
        store = DirectRedis(rig.client)
        self._devices = Devices(rig.settings, store, self._database)
        self.states = DeliveryStates(self._database, store, range(rig.settings.outbox_shards))
        self._traces = Traces(self._database, self.states)

    def log_in(self, device: str, *, later_ms: int = 0) -> None:
        """Log the recipient in. later_ms: after now, since a millisecond has room for several steps of a test"""
        row = {
            "user_id": _RECIPIENT,
            "device": device,
            "session_id": f"session-{_RECIPIENT}-{device}",
            "created_at_ms": time.time_ns() // 1_000_000 + later_ms,
            "expires_at_ms": 1 << 50,
        }
        with self._rig.database.writing() as connection:
            sessions.start_sessions(connection, [row])
        self._devices.register(_RECIPIENT, device)

    def log_out(self, device: str) -> None:
        self._devices.forget(_RECIPIENT, device)

    def send(self, text: str = "x") -> Request:
        request = self._rig.build_send(_SENDER, _RECIPIENT, text)
        self._rig.accept(request)
        self._rig.drain()
        self._rig.deliver()
        return request

    def acknowledge(self, socket: Socket) -> None:
        """Have a protocol 2 client acknowledge what it was written."""
        socket.say_json({"type": "ack", "cursor": socket.texts("singleChat")[-1]["cursor"]})
        self._rig.web.let_run()
        self._rig.web.checkpoint()

    def status(self, request: Request) -> tuple[str, dict[str | None, str]]:
        """Return a message's status, and its state by device."""
        state = self.states.load(_SENDER, request.id)
        assert state is not None
        return state["status"], {each["device"]: each["state"] for each in state["recipients"]}

    def last_hops(self, request: Request) -> dict[str | None, str]:
        """Return the last hop on each device."""
        trace: dict[str, Any] | None = self._traces.load(_SENDER, request.id)
        assert trace is not None
        return {hop.get("device"): hop["hop"] for hop in trace["hops"] if "user_id" in hop}


@pytest.fixture
def asker(rig: Rig) -> _Asker:
    return _Asker(rig)


def test_a_device_that_logs_in_later_has_received_nothing(rig: Rig, asker: _Asker) -> None:
    """It begins after what there was, and that is no acknowledgement: nobody has the message yet."""
    asker.log_in("first")
    message = asker.send()

    asker.log_in("phone", later_ms=1_000)

    assert asker.status(message) == ("stored", {"first": "stored"})
    assert asker.last_hops(message) == {"first": "stored"}


def test_what_a_later_device_acknowledges_covers_nothing_of_before(rig: Rig, asker: _Asker) -> None:
    """It has what came after it: of what was there already nobody has anything."""
    asker.log_in("first")
    before = asker.send()
    asker.log_in("phone")
    phone = rig.web.connect(_RECIPIENT, "phone", 2)
    after = asker.send()

    asker.acknowledge(phone)

    assert asker.status(before) == ("stored", {"first": "stored"})
    assert asker.last_hops(before) == {"first": "stored"}
    assert asker.status(after) == ("delivered", {"first": "stored", "phone": "acknowledged"})
    asker.log_out("phone")
    assert asker.status(before) == ("stored", {"first": "stored"})
    assert asker.status(after) == ("delivered", {None: "acknowledged", "first": "stored"})


def test_a_device_that_logs_in_again_keeps_what_it_has(rig: Rig, asker: _Asker) -> None:
    """Its session begins anew, while its acknowledgement stands."""
    asker.log_in("first")
    socket = rig.web.connect(_RECIPIENT, "first", 2)
    message = asker.send()
    assert asker.status(message) == ("stored", {"first": "pushed"})
    asker.acknowledge(socket)

    asker.log_in("first", later_ms=1_000)

    assert asker.status(message) == ("delivered", {"first": "acknowledged"})
    assert asker.last_hops(message) == {"first": "acknowledged"}


def test_what_was_delivered_stays_so(rig: Rig, asker: _Asker) -> None:
    """Whichever devices log out and in: the message was there."""
    asker.log_in("first")
    asker.log_in("phone")
    socket = rig.web.connect(_RECIPIENT, "first", 2)
    message = asker.send()
    asker.acknowledge(socket)

    asker.log_out("first")
    unread = asker.send()
    of_phone = asker.status(message), asker.status(unread)
    asker.log_out("phone")
    of_nobody = asker.status(message), asker.status(unread)
    asker.log_in("tablet", later_ms=1_000)

    assert of_phone == (
        ("delivered", {None: "acknowledged", "phone": "stored"}),
        ("stored", {"phone": "stored"}),
    )
    assert of_nobody == (("delivered", {None: "acknowledged"}), ("stored", {None: "stored"}))
    assert asker.status(message)[0] == "delivered"
    assert asker.status(unread) == ("stored", {"tablet": "stored"})
