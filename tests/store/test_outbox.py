"""Whether Redis takes what is to be accepted."""

from __future__ import annotations

import pytest

from models.errors import StoreUnavailable
from models.store import outbox
from models.store.connection import Client, Command, run


@pytest.mark.parametrize(
    ("spoil", "mend"),
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    ],
    ids=["replica", "full"],
)
def test_a_redis_that_only_reads_is_told_from_one_that_writes(client: Client, spoil: Command, mend: Command) -> None:
    """And nothing is written to find out."""
    outbox.check_writes(client)
    run(client, [spoil])
    try:
        with pytest.raises(StoreUnavailable):
            outbox.check_writes(client)
    finally:
        run(client, [mend])

    outbox.check_writes(client)
    assert run(client, [("EXISTS", "probe")]) == [0]
