"""Answering for who is away (ORIG 7.4): the recipient of a question has kept an answer to it, and is on no device.

The answer is a send of the recipient's that goes through the outbox, so that blocks and limits count as for any other. Every
step may be repeated and done by two at once: the ids of what follows from a question are derived from its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection

from models import askanswers, messages, notices, questions, users
from models.database import Database
from models.requests import Request, shard_of
from models.store import outbox, presence
from models.store.connection import Client, run
from models.store.counters import parse_rate
from models.users import ACTIVE
from settings import Settings
from tasks.matching import find_match

log = structlog.get_logger()

_MOST = 100  # questions of one look
_MAX_LOOKS = 20
# What sends: the device of clients that name none. The legacy client is not shown what its own device has sent, and would take
# it for a message of somebody else's.
_DEVICE = "default"
_LOST_AFTER_MS = 60_000  # an answer without a verdict is given anew: Redis may have lost it
_TOLD = "系统根据您设置的问答数据，挑选了最接近的答案，回复给对方，回复内容是：\n\n {answer}"


class Answerer:
    """One per worker process. `run` is the body of the Celery task."""

    def __init__(self, settings: Settings, database: Database, client: Client) -> None:
        self._database = database
        self._client = client
        self._shards = settings.outbox_shards
        self._outbox_max = settings.outbox_max_entries
        self._rate = parse_rate(settings.rate_limit_sends)

    def run(self, now_ms: int) -> int:
        """Give the answers that are due; return how many went to the outbox. Raises StoreUnavailable, DatabaseUnavailable."""
        self._follow_up(now_ms)
        count = 0
        for _ in range(_MAX_LOOKS):
            with self._database.reading() as connection:
                waiting = questions.load_new(connection, _MOST)
            handed = self._look_at(waiting, now_ms)
            if handed is None:
                break  # the outbox is full: they wait
            count += handed
            if len(waiting) < _MOST:
                break
        return count

    def _follow_up(self, now_ms: int) -> None:
        """Tell recipients of answers that were given for them, and give those anew that have been lost."""
        for _ in range(_MAX_LOOKS):
            with self._database.reading() as connection:
                handed = questions.load_handed(connection, _MOST)
                ids = [questions.answer_id(row.question_id) for row in handed]
                decided = messages.load_decisions(connection, ids) if ids else {}
            for row in handed:
                answer = decided.get(questions.answer_id(row.question_id))
                if answer is not None:
                    self._close(row.question_id, answer)
            lost = [row.question_id for row in handed if row.handed_at_ms < now_ms - _LOST_AFTER_MS]
            self._look_at([each for each in lost if questions.answer_id(each) not in decided], now_ms)
            if len(handed) < _MOST or not decided:
                break

    def _close(self, question_id: str, answer: Any) -> None:
        """Forget a question whose answer is decided. The recipient is told of one that was sent."""
        with self._database.writing() as connection:
            if not questions.forget(connection, question_id):
                return
            if answer.verdict == messages.STORED:
                question = messages.load_decision(connection, question_id)
                notices.queue(connection, [_notice(question, answer)])
        log.info("question_answered", message_id=question_id, verdict=answer.code or answer.verdict)

    def _look_at(self, question_ids: Sequence[str], now_ms: int) -> int | None:
        """Hand over the answers of those questions that have one, and forget the others. None: there is no room for them."""
        if not question_ids:
            return 0
        with self._database.reading() as connection:
            asked = messages.load_decisions(connection, question_ids)
        present = self._find_present({row.recipient_id for row in asked.values()})
        with self._database.reading() as connection:
            answers = {}
            for question_id in question_ids:
                question = asked.get(question_id)
                if question is not None and question.recipient_id not in present:
                    answer = _answer_to(connection, question, now_ms)
                    if answer is not None:
                        answers[question_id] = answer
        if not self._has_room(answers.values()):
            return None
        others = [question_id for question_id in question_ids if question_id not in answers]
        with self._database.writing() as connection:
            # Before they are handed over: who dies in between has them looked at again after a while.
            questions.mark_handed(connection, list(answers), now_ms)
            questions.drop(connection, others, now_ms - _LOST_AFTER_MS)
        self._hand_over(answers.values())
        return len(answers)

    def _find_present(self, user_ids: set[int]) -> set[int]:
        """Return those of the users who are connected with some device."""
        asked = sorted(user_ids)
        found = run(self._client, [presence.find_all_command(user_id) for user_id in asked])
        return {user_id for user_id, connections in zip(asked, found, strict=True) if connections}

    def _has_room(self, answers: Iterable[Request]) -> bool:
        shards = sorted({shard_of(answer.conversation, self._shards) for answer in answers})
        return not shards or max(outbox.lengths(self._client, shards).values()) < self._outbox_max

    def _hand_over(self, answers: Iterable[Request]) -> None:
        """Put answers into the outbox. Of who has sent as much as he may they are left out, and given when they count as lost."""
        offers: dict[int, list[outbox.Offer]] = {}
        for answer in answers:
            offer = outbox.Offer(answer.encode(), counted_as=answer.sender_id if self._rate is not None else None)
            offers.setdefault(shard_of(answer.conversation, self._shards), []).append(offer)
        if offers:
            outbox.accept(self._client, offers, self._rate)


def _answer_to(connection: Connection, question: Any, now_ms: int) -> Request | None:
    """Give the send that answers a question, whose row this is; None where nothing does."""
    text = "" if question.is_recalled else _text_of(question.body)
    entries = askanswers.load_all(connection, "single", question.recipient_id) if text else []
    found = find_match(entries, text, now_ms)
    owner = users.load_person(connection, question.recipient_id) if found is not None else None
    if found is None or owner is None or owner.status != ACTIVE:
        return None
    body = {"data": found[0].answer, "dataType": False, "otherData": None}
    return Request(
        id=questions.answer_id(question.id),
        kind="send",
        chat_type="single",
        sender_id=owner.id,
        role=owner.role,
        device=_DEVICE,
        to_id=question.sender_id,
        type="text",
        data=orjson.dumps(body).decode(),
        options={},
        created_at_ms=now_ms,
        client_msg_id=None,
        reply_to=None,
        conversation=question.conversation,
    )


def _text_of(body: str) -> str:
    """Return what a text message says, as users send it (ORIG 7.1) or bare; empty where it says nothing."""
    data = orjson.loads(body)["data"]
    try:
        given = orjson.loads(data)
    except orjson.JSONDecodeError:
        return str(data)
    text = given.get("data") if isinstance(given, dict) else given
    return text if isinstance(text, str) else ""


def _notice(question: Any, answer: Any) -> Request:
    """Tell the recipient of a question what was answered: a copy of the question, of the answer's time."""
    told = {"data": _TOLD.format(answer=_text_of(answer.body)), "dataType": False, "otherData": None}
    shown = {name: value for name, value in orjson.loads(question.body).items() if name not in ("seq", "clientMsgId")}
    notice = notices.build(
        "single",
        about_id=question.sender_id,
        to_id=question.recipient_id,
        conversation=f"system:{question.recipient_id}",
        message=shown | {"type": "systemNotice", "data": told, "options": {}},
        is_to_sender=False,
    )
    return replace(notice, id=questions.notice_id(question.id), created_at_ms=answer.created_at_ms)
