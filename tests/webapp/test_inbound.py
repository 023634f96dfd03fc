"""What a client's heartbeat is answered where its token cannot be looked up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import gevent
import orjson
import pytest

from models.errors import DatabaseUnavailable, ModelError, StoreUnavailable
from webapp.auth import Caller, Gatekeeper
from webapp.services import Acceptor
from webapp.sockets.connection import Connection
from webapp.sockets.inbound import Inbound
from webapp.sockets.registry import Registry


class _DeafGatekeeper:
    """Knows no token at this moment."""

    def __init__(self, error: ModelError) -> None:
        self._error = error

    def admit(self, token: str | None) -> Caller:
        raise self._error


@pytest.mark.parametrize("error", [StoreUnavailable("no answer"), DatabaseUnavailable("no answer")])
@pytest.mark.parametrize("protocol", [1, 2])
def test_a_heartbeat_is_answered_while_its_token_cannot_be_looked_up(protocol: int, error: ModelError) -> None:
    """The client would take silence for a dead connection; the socket stays open and is watched as before."""
    gatekeeper = cast(Gatekeeper, _DeafGatekeeper(error))
    inbound = Inbound(cast(Any, None), "p", Registry(), cast(Acceptor, None), gatekeeper)
    told: list[dict[str, Any]] = []
    connection = SimpleNamespace(
        user_id=1, protocol=protocol, language="zh", send_text=lambda payload: told.append(orjson.loads(payload))
    )

    inbound.receive(cast(Connection, connection), b'{"type":"ping","token":"t","timestamp":1}')
    gevent.sleep(0.01)

    assert [frame["type"] for frame in told] == ["pong"]
