"""What tests and benchmarks take for the processes of an instance."""

from __future__ import annotations

import psutil

from tests.support.instance import Instance, wait_until

_KEY_DELAY_US = 300_000  # that a child which copies the data waits for each key


def test_the_child_that_rewrites_the_append_only_file_is_no_process_of_the_instance(instance: Instance) -> None:
    """It ends in the middle of whatever is measured, and nothing has died."""
    store = instance.redis()
    (redis_pid,) = instance.processes("redis")
    store.config_set("rdb-key-save-delay", _KEY_DELAY_US)
    try:
        store.bgrewriteaof()
        assert wait_until(lambda: bool(psutil.Process(redis_pid).children()), timeout=5.0, poll_seconds=0.01)

        found = {pid for pids in instance.processes_by_kind().values() for pid in pids}

        (child,) = psutil.Process(redis_pid).children()
        assert redis_pid in found
        assert child.pid not in found
    finally:
        store.config_set("rdb-key-save-delay", 0)
        for child in psutil.Process(redis_pid).children():
            child.kill()
