"""Guarantees G2 and G3 for a large group: a worker dies in the middle of its fan-out, and everybody has the message once."""

from __future__ import annotations

import os
import signal
import threading

from redis import Redis

from tests.conftest import InstanceFactory
from tests.support.client import ChatSocket, HttpClient
from tests.support.instance import Instance, wait_until

_MEMBERS = range(1, 1002)  # user 1 sends
_WATCHERS = range(2, 12)  # connected while it happens
_TRIES = 20


def _count_inboxes(client: Redis, length: int) -> int:
    """Return how many members' inboxes hold `length` entries or more."""
    pipeline = client.pipeline(transaction=False)
    for user_id in _MEMBERS:
        pipeline.llen(f"chat_getmessage_{{{user_id}}}")
    return sum(count >= length for count in pipeline.execute())


def _kill_in_the_middle(instance: Instance, client: Redis, number: int) -> int:
    """Send message `number` and kill the workers once the first inbox has it; return how many inboxes had it then."""
    sender = threading.Thread(
        target=HttpClient(instance.base, instance.tokens[1]).send, args=(1, f"message {number}", "group")
    )
    workers = instance.wait_processes("worker", 2)
    sender.start()
    # The first in the order of the fan-out: whoever is neither connected nor acknowledging keeps his entries.
    assert wait_until(lambda: client.llen("chat_getmessage_{20}") >= number, 10.0, poll_seconds=0.0)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    reached = _count_inboxes(client, number) if number else 0
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    sender.join()
    return reached


def test_everybody_has_a_group_message_once_whoever_dies_in_its_fan_out(fresh_instance: InstanceFactory) -> None:
    """Workers killed between the first and the last of 1,000 inboxes: the next one completes it and doubles nothing."""
    instance = fresh_instance()
    instance.seed(len(_MEMBERS), len(_MEMBERS) - 1)
    offline = len(_MEMBERS) - len(_WATCHERS)
    sockets = {user_id: ChatSocket(instance.base, instance.tokens[user_id]) for user_id in _WATCHERS}
    for socket in sockets.values():
        socket.wait_for(lambda frame: frame.data.get("type") == "system")

    interrupted, number = 0, 0
    with instance.redis() as client:
        while interrupted < 3 and number < _TRIES:
            number += 1
            reached = _kill_in_the_middle(instance, client, number)
            interrupted += 0 < reached < offline
            print(f"message {number}: {reached} inboxes had it when the workers died")
            assert wait_until(lambda expected=number: _count_inboxes(client, expected) >= offline, 20.0), number  # type: ignore[misc]
            instance.wait_ready(20.0)
        lengths = {user_id: client.llen(f"chat_getmessage_{{{user_id}}}") for user_id in _MEMBERS}

    assert interrupted >= 3
    assert {length for user_id, length in lengths.items() if user_id not in _WATCHERS} == {number}
    for user_id, socket in sockets.items():
        assert wait_until(lambda socket=socket: len(socket.messages) >= number, 10.0), user_id  # type: ignore[misc]
        assert [message["seq"] for message in socket.messages] == list(range(1, number + 1))
        socket.close()
