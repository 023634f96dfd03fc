"""`load-seed` stands for the logins of its users."""

from __future__ import annotations

from models.store import keys
from tests.support.instance import Instance


def test_a_seeded_user_has_a_device_that_counts(instance: Instance) -> None:
    """As after a login: what comes before he connects waits for it, and his connecting has nothing to open."""
    never_connected = max(instance.tokens)
    with instance.redis() as client:
        state = client.hgetall(keys.cursor(never_connected))

    assert {"epoch", "d:default", "n:default"} <= {str(name) for name in state}
