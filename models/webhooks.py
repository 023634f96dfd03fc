"""Webhooks: who is told of decisions, how far he has been, and how the last tries went.

The decision rows are the log that webhooks read (`models/messages.py`): a webhook keeps, per shard, the position up to which
its target has confirmed, and nothing is written for it when a message is decided. Only whoever holds its lease
(`models/store/webhooks.py`) delivers; administrators change it meanwhile, so each operation sets the columns it owns.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import (
    BigInteger,
    Connection,
    CursorResult,
    ForeignKey,
    Integer,
    String,
    Text,
    case,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.orm import Mapped, mapped_column

from models import shards
from models.database import Base, insert_or_update
from models.messages import Message

ATTEMPTS_KEPT = 100
ERROR_MAX = 200  # characters
_MAX_ID = 2**31 - 1  # PostgreSQL's integer

Pause = Literal["administrator", "failing", "gone"]


class Webhook(Base):
    __tablename__ = "webhook"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  an id is never given twice: targets know it

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    url: Mapped[str] = mapped_column(String(2000))
    events: Mapped[str] = mapped_column(String(200))  # types it wants, with commas
    chat_type: Mapped[str] = mapped_column(String(10))  # single, group, all
    max_events: Mapped[int] = mapped_column(Integer)  # of one POST
    # In plain text: it signs, so a hash would not do, and whoever reads this database reads all messages anyway.
    secret: Mapped[str] = mapped_column(String(100))
    old_secret: Mapped[str | None] = mapped_column(String(100))
    old_secret_until_ms: Mapped[int] = mapped_column(BigInteger)
    positions: Mapped[str] = mapped_column(Text)  # JSON {shard: shard_seq}: confirmed up to there
    paused: Mapped[str | None] = mapped_column(String(20))  # Pause; NULL: at work
    batch_events: Mapped[int] = mapped_column(Integer)  # the next POST carries so many at most: fewer after a failure
    failures: Mapped[int] = mapped_column(Integer)  # in a row
    failing_since_ms: Mapped[int | None] = mapped_column(BigInteger)
    next_try_at_ms: Mapped[int] = mapped_column(BigInteger)
    delivered_count: Mapped[int] = mapped_column(BigInteger)  # events, those that were told twice too
    failed_count: Mapped[int] = mapped_column(BigInteger)  # attempts
    attempt_count: Mapped[int] = mapped_column(BigInteger)
    last_success_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    last_error: Mapped[str | None] = mapped_column(String(ERROR_MAX))
    last_error_at_ms: Mapped[int | None] = mapped_column(BigInteger)
    created_at_ms: Mapped[int] = mapped_column(BigInteger)


class WebhookAttempt(Base):
    """The last attempts of a webhook: a ring, so that the newest takes the place of the oldest."""

    __tablename__ = "webhook_attempt"

    webhook_id: Mapped[int] = mapped_column(ForeignKey("webhook.id", ondelete="CASCADE"), primary_key=True)
    slot: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)  # number modulo ATTEMPTS_KEPT
    number: Mapped[int] = mapped_column(BigInteger)  # from 1
    at_ms: Mapped[int] = mapped_column(BigInteger)
    webhook_message_id: Mapped[str] = mapped_column(String(80))  # header webhook-id
    events: Mapped[int] = mapped_column(Integer)
    first_event_id: Mapped[str] = mapped_column(String(80))
    status: Mapped[int | None] = mapped_column(Integer)  # NULL: there was no answer
    duration_ms: Mapped[int] = mapped_column(Integer)
    error: Mapped[str | None] = mapped_column(String(ERROR_MAX))  # NULL: delivered


@dataclass(frozen=True, slots=True)
class Attempt:
    """One POST, and how it went. status: None where no answer came; error: None where it was delivered."""

    at_ms: int
    webhook_message_id: str
    events: int
    first_event_id: str
    status: int | None
    duration_ms: int
    error: str | None


@dataclass(frozen=True, slots=True)
class Setback:
    """What a failed attempt means for the next. pause: why there is none until an administrator resumes."""

    next_try_at_ms: int
    batch_events: int
    pause: Pause | None = None


def create(connection: Connection, values: Mapping[str, Any], now_ms: int, most: int) -> int | None:
    """Make a webhook that begins with what is decided from now on; return its id. None: there are `most` already.

    values: url, events, chat_type, max_events, secret
    """
    # Locked, so that those who make one at the same time count one after the other.
    connection.execute(select(Webhook.id).with_for_update())
    if connection.execute(select(func.count()).select_from(Webhook)).scalar_one() >= most:
        return None
    row = {
        **values,
        "old_secret": None,
        "old_secret_until_ms": 0,
        "positions": _encode(shards.load_last_positions(connection)),
        "paused": None,
        "batch_events": values["max_events"],
        "failures": 0,
        "failing_since_ms": None,
        "next_try_at_ms": 0,
        "delivered_count": 0,
        "failed_count": 0,
        "attempt_count": 0,
        "last_success_at_ms": None,
        "last_error": None,
        "last_error_at_ms": None,
        "created_at_ms": now_ms,
    }
    created: int = connection.execute(insert(Webhook).values(row).returning(Webhook.id)).scalar_one()
    return created


def load_all(connection: Connection) -> list[Any]:
    """Return all webhooks by id."""
    return list(connection.execute(select(Webhook.__table__).order_by(Webhook.id)))


def load(connection: Connection, webhook_id: int) -> Any:
    """Return a webhook, None where there is none."""
    if webhook_id > _MAX_ID:
        return None
    return connection.execute(select(Webhook.__table__).where(Webhook.id == webhook_id)).one_or_none()


def load_at_work(connection: Connection) -> list[Any]:
    """Return id, positions and the time of the next try of the webhooks that are not paused."""
    query = select(Webhook.id, Webhook.positions, Webhook.next_try_at_ms).where(Webhook.paused.is_(None))
    return list(connection.execute(query.order_by(Webhook.id)))


def change(connection: Connection, webhook_id: int, values: Mapping[str, Any]) -> bool:
    """Set columns of a webhook. False: there is no such webhook."""
    if webhook_id > _MAX_ID:
        return False
    return _changes(connection, update(Webhook).where(Webhook.id == webhook_id).values(**values))


def remove(connection: Connection, webhook_id: int) -> bool:
    """Remove a webhook and its attempts. False: there is no such webhook."""
    return webhook_id <= _MAX_ID and _changes(connection, delete(Webhook).where(Webhook.id == webhook_id))


def record(
    connection: Connection,
    hook: Any,
    attempt: Attempt,
    *,
    positions: Mapping[int, int] | None = None,
    setback: Setback | None = None,
    batch_events: int | None = None,
) -> None:
    """Keep how an attempt went.

    hook: the webhook's row as the attempt found it. positions: where it stands now, if it was delivered; an administrator who has
    moved it meanwhile prevails. setback: what the failure means. All three absent: a test, which changes nothing else
    """
    values: dict[str, Any] = {"attempt_count": Webhook.attempt_count + 1}
    if positions is not None:
        values |= {
            "positions": _moved(hook, positions),
            "batch_events": batch_events or hook.batch_events,
            "failures": 0,
            "failing_since_ms": None,
            "next_try_at_ms": 0,
            "delivered_count": Webhook.delivered_count + attempt.events,
            "last_success_at_ms": attempt.at_ms,
        }
    if setback is not None:
        values |= {
            "batch_events": setback.batch_events,
            "failures": Webhook.failures + 1,
            "failing_since_ms": func.coalesce(Webhook.failing_since_ms, attempt.at_ms),
            "next_try_at_ms": setback.next_try_at_ms,
            "failed_count": Webhook.failed_count + 1,
            "last_error": attempt.error,
            "last_error_at_ms": attempt.at_ms,
        }
        if setback.pause:
            values["paused"] = func.coalesce(Webhook.paused, setback.pause)
    counted = update(Webhook).where(Webhook.id == hook.id).values(**values).returning(Webhook.attempt_count)
    number = connection.execute(counted).scalar_one_or_none()
    if number is None:
        return  # it was removed meanwhile
    row = {
        "webhook_id": hook.id,
        "slot": number % ATTEMPTS_KEPT,
        "number": number,
        "at_ms": attempt.at_ms,
        "webhook_message_id": attempt.webhook_message_id,
        "events": attempt.events,
        "first_event_id": attempt.first_event_id,
        "status": attempt.status,
        "duration_ms": attempt.duration_ms,
        "error": attempt.error,
    }
    key = ("webhook_id", "slot")
    insert_or_update(connection, WebhookAttempt, [row], key=key, update=[name for name in row if name not in key])


def pass_over(connection: Connection, hook: Any, positions: Mapping[int, int]) -> None:
    """Move a webhook past decisions that it has not asked for, unless somebody has moved it meanwhile."""
    connection.execute(update(Webhook).where(Webhook.id == hook.id).values(positions=_moved(hook, positions)))


def load_attempts(connection: Connection, webhook_id: int) -> list[Any]:
    """Return the last attempts of a webhook, newest first."""
    query = select(WebhookAttempt.__table__).where(WebhookAttempt.webhook_id == webhook_id)
    return list(connection.execute(query.order_by(WebhookAttempt.number.desc())))


# Positions


def decode_positions(text: str) -> dict[int, int]:
    return {int(shard): position for shard, position in json.loads(text).items()}


def count_behind(positions: Mapping[int, int], last: Mapping[int, int]) -> int:
    """Return how many decisions lie behind positions. last: the newest position of each shard"""
    return sum(max(0, newest - positions.get(shard, 0)) for shard, newest in last.items())


def move(connection: Connection, webhook_id: int, positions: Mapping[int, int]) -> None:
    """Have a webhook go on from other positions; shards that are not named stay where they are."""
    query = select(Webhook.positions).where(Webhook.id == webhook_id).with_for_update()
    present = connection.execute(query).scalar_one()
    change(connection, webhook_id, {"positions": _encode({**decode_positions(present), **positions})})


def find_positions(connection: Connection, last: Mapping[int, int], since_ms: int) -> dict[int, int]:
    """Return, per shard, the position behind which everything was decided at that time or later.

    Decisions of a shard follow each other in time, but for clocks of hosts that disagree, so some twenty rows of the unique
    key are read in each. There is no index on the time, which each message would pay for.
    """
    return {shard: _find_position(connection, shard, newest, since_ms) for shard, newest in last.items()}


def _find_position(connection: Connection, shard: int, newest: int, since_ms: int) -> int:
    earlier, later = 0, newest
    while earlier < later:
        middle = (earlier + later + 1) // 2
        query = select(Message.decided_at_ms).where(Message.shard == shard, Message.shard_seq >= middle)
        decided_at_ms = connection.execute(query.order_by(Message.shard_seq).limit(1)).scalar_one_or_none()
        if decided_at_ms is not None and decided_at_ms < since_ms:
            earlier = middle
        else:
            later = middle - 1
    return earlier


def load_decisions_after(connection: Connection, shard: int, position: int, most: int) -> Sequence[Any]:
    """Return the next decisions of a shard, in order."""
    query = select(Message.__table__).where(Message.shard == shard, Message.shard_seq > position)
    return list(connection.execute(query.order_by(Message.shard_seq).limit(most)))


def _moved(hook: Any, positions: Mapping[int, int]) -> Any:
    moved = _encode({**decode_positions(hook.positions), **positions})
    return case((Webhook.positions == hook.positions, moved), else_=Webhook.positions)


def _encode(positions: Mapping[int, int]) -> str:
    return json.dumps({str(shard): positions[shard] for shard in sorted(positions)})


def _changes(connection: Connection, changing: Any) -> bool:
    result: CursorResult[Any] = connection.execute(changing)
    return result.rowcount == 1
