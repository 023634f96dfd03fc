"""`load-seed` stands for the logins of its users."""

from __future__ import annotations

from models.store import keys
from tests.conftest import InstanceFactory


def test_a_seeded_user_has_a_device_that_counts(fresh_instance: InstanceFactory) -> None:
    """As after a login: what comes before he connects waits for it, and his connecting has nothing to open."""
    instance = fresh_instance()
    instance.seed(4, 0)
    with instance.redis() as client:
        state = client.hgetall(keys.cursor(4))

    assert {"epoch", "d:default", "n:default"} <= {str(name) for name in state}
