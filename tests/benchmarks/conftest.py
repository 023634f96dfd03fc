"""What tests of the generator share."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """Where connections are taken by the kernel and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        yield server.getsockname()
