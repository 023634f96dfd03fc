"""The name of every Redis key. `docs/redis.md` lists them with type, owner, lifetime and bound; a test compares the two.

All keys of one owner share a hash tag. Names follow ORIG 3.1 where the thing is the same.
"""

from __future__ import annotations


def outbox(shard: int) -> str:
    return f"outbox:{{s{shard}}}"


def popped(shard: int) -> str:
    return f"popped:{{s{shard}}}"


def dead(shard: int) -> str:
    return f"dead:{{s{shard}}}"


def dead_entries(user_id: int) -> str:
    return f"dead:{{{user_id}}}"


def doorbell(shard: int) -> str:
    """Channel: tells the drain that holds a shard what was accepted for it."""
    return f"doorbell:{{s{shard}}}"


def lease(shard: int) -> str:
    return f"lease:{{s{shard}}}"


def webhook_lease(webhook_id: int) -> str:
    return f"lease:{{w{webhook_id}}}"


def inbox(user_id: int) -> str:
    return f"chat_getmessage_{{{user_id}}}"


def cursor(user_id: int) -> str:
    return f"cursor_{{{user_id}}}"


def online(user_id: int) -> str:
    return f"online_{{{user_id}}}"


def sessions(user_id: int) -> str:
    return f"chat_user_{{{user_id}}}"


def ticket(ticket: str) -> str:
    return f"ticket:{ticket}"


def single_log(owner_id: int, peer_id: int) -> str:
    return f"chatlog:chatlog_{{{owner_id}}}_single_{peer_id}"


def group_log(group_id: int) -> str:
    return f"chatlog:chatlog_{{g{group_id}}}_group"


def group_cursor(group_id: int) -> str:
    return f"cursor_{{g{group_id}}}"


def process_channel(process_id: str) -> str:
    return f"process:{process_id}"


def counter(name: str) -> str:
    return f"limit:{name}"


def failures(name: str) -> str:
    return f"failures:{name}"


ANNOUNCED = "announced"  # sorted set: users whose friends were told that they are online, by the end of their lease
BELL = "bell"  # set while a bell is on its way to a worker
DOORBELL = "doorbell"  # channel: tells drains at work of shards that none of them may hold
WORKER_SEEN = "worker_seen"  # set by every drain that starts; /readyz wants it there
PROBE = "probe"  # never there: who asks for it to be written only where it is learns whether Redis would write
