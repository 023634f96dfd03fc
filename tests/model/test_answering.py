"""The automatic answer (flaw G5): once for each question, whatever dies or runs twice, and only where the recipient is away."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from sqlalchemy import insert, select, update

from models import askanswers, blocks, questions, tables
from models.database import Database
from models.requests import Request
from models.store.connection import Client
from tasks import answering
from tasks.answering import Answerer
from tests.model.conftest import MakeRig
from tests.model.rig import (
    GROUP_ID,
    STRANGER_ID,
    Crash,
    Moment,
    RedisServer,
    Rig,
    SteppedClient,
    SteppedDatabase,
    Steps,
    raising_greenlets,
)
from tests.support.statements import statements_to

_ASKER, _OWNER = 1, 2
_ASK, _ANSWER = "几点开门", "每天九点"
_TOLD = f"系统根据您设置的问答数据，挑选了最接近的答案，回复给对方，回复内容是：\n\n {_ANSWER}"
_MINUTE_MS = 60_000


@pytest.fixture
def rig(redis_server: RedisServer, sqlite_database: Database) -> Iterator[Rig]:
    """User 2 keeps an answer, and nobody is connected."""
    made = Rig(redis_server, sqlite_database)
    with raising_greenlets() as errors:
        _begin(made)
        yield made
    assert not errors


def _begin(rig: Rig) -> None:
    rig.reset()
    _keep(rig, _OWNER, _ASK, _ANSWER)


def _keep(rig: Rig, owner_id: int, ask: str, answer: str) -> None:
    with rig.database.writing() as connection:
        askanswers.put(connection, "single", owner_id, ask, answer, now_ms=_now_ms(), most=99)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _body(text: str) -> str:
    return json.dumps({"data": text, "dataType": False, "otherData": None})


def _question(rig: Rig, sender_id: int = _ASKER, to_id: int = _OWNER, *, text: str = _ASK, **changed: Any) -> Request:
    return replace(rig.build_send(sender_id, to_id, _body(text), options={"askanswer": True}), **changed)


def _ask(rig: Rig, *asked: Request) -> None:
    """Have questions stored."""
    rig.accept(*asked)
    rig.drain()


def _answerer(rig: Rig, steps: Steps | None = None, **changed_settings: Any) -> Answerer:
    settings = replace(rig.settings, **changed_settings)
    if steps is None:
        return Answerer(settings, rig.database, rig.client)
    client = cast(Client, SteppedClient(rig.client, steps, []))
    return Answerer(settings, SteppedDatabase(rig.database, steps), client)


def _settle(rig: Rig, answerer: Answerer, at_ms: int | None = None) -> None:
    """Answer, have it decided, tell the owner, and have that decided."""
    for _ in range(2):
        answerer.run(at_ms or _now_ms())
        rig.drain()
    _sweep(rig)


def _sweep(rig: Rig) -> None:
    """Have notices swept up that are too young for it."""
    with rig.database.writing() as connection:
        connection.execute(update(tables.PendingNotice).values(created_at_ms=0))
    rig.drain()


def _pending(rig: Rig) -> list[str]:
    with rig.database.reading() as connection:
        return list(connection.execute(select(questions.PendingAnswer.question_id)).scalars())


def _of(rig: Rig, kind: str) -> list[dict[str, Any]]:
    return [row for row in rig.rows() if row["kind"] == kind]


def _answers(rig: Rig) -> list[dict[str, Any]]:
    """Return the rows of what the owner has sent."""
    return [row for row in _of(rig, "send") if row["sender_id"] == _OWNER]


# What is told whom


def test_who_is_away_answers_and_is_told(rig: Rig) -> None:
    """The asker gets an ordinary message of the owner's, the owner a copy of the question that says what was answered."""
    shown = rig.web.connect(_ASKER, "a", 2)
    question = _question(rig)
    _ask(rig, question)

    _settle(rig, _answerer(rig))
    rig.deliver()
    told = rig.web.connect(_OWNER, "a", 2)

    (answer,) = (frame["data"] for frame in shown.texts("singleChat") if frame["data"]["from_id"] == _OWNER)
    assert json.loads(answer["data"]) == {"data": _ANSWER, "dataType": False, "otherData": None}
    assert (answer["type"], answer["options"], answer["sendUUid"]) == ("text", {}, f"uuid-{_OWNER}")
    assert (answer["to_id"], answer["seq"], answer["id"]) == (_ASKER, 2, questions.answer_id(question.id))
    seen = [frame["data"] for frame in told.texts("singleChat")]
    assert [(each["type"], each["from_id"]) for each in seen] == [
        ("text", _ASKER),
        ("text", _OWNER),
        ("systemNotice", _ASKER),
    ]
    notice = seen[-1]
    assert notice["data"] == {"data": _TOLD, "dataType": False, "otherData": None}
    assert (notice["id"], notice["create_time"]) == (questions.notice_id(question.id), answer["create_time"])
    assert notice["to_id"] == _OWNER
    assert "seq" not in notice  # it is the owner's alone, so it has no place in the conversation's order
    assert _pending(rig) == []
    assert "systemNotice" not in {frame["data"]["type"] for frame in shown.texts("singleChat")}


def test_a_legacy_client_is_not_shown_what_its_user_has_answered(rig: Rig) -> None:
    """It would take it for a message of somebody else's: it gets the question and the notice."""
    _ask(rig, _question(rig))

    _settle(rig, _answerer(rig))
    told = rig.web.connect(_OWNER, "default", 1)  # it never names its device

    seen = [frame["data"] for frame in told.texts("singleChat") if isinstance(frame["data"]["from_id"], int)]
    assert [(each["type"], each["from_id"]) for each in seen] == [("text", _ASKER), ("systemNotice", _ASKER)]


@pytest.mark.parametrize("protocol", [1, 2])
def test_who_is_there_is_left_to_answer(rig: Rig, protocol: int) -> None:
    """On any device, of either protocol."""
    rig.web.connect(_OWNER, "tablet", protocol)
    _ask(rig, _question(rig))

    _settle(rig, _answerer(rig))

    assert (_answers(rig), _pending(rig)) == ([], [])


def test_an_answer_is_never_answered(rig: Rig) -> None:
    """The asker keeps answers too, also one to what he is answered."""
    _keep(rig, _ASKER, _ANSWER, _ASK)
    _ask(rig, _question(rig))

    for _ in range(3):
        _settle(rig, _answerer(rig))

    assert len(_of(rig, "send")) == 2


@pytest.mark.parametrize(
    ("changed", "is_asked"),
    [
        ({"options": {"askanswer": 1}}, True),
        ({"options": {"askanswer": "yes"}}, True),
        ({"data": _ASK}, True),
        ({"data": json.dumps(_ASK)}, True),
        ({"options": {"askanswer": False}}, False),
        ({"options": {"askanswer": 0}}, False),
        ({"options": {}}, False),
        ({"options": None}, False),
        ({"options": ["askanswer"]}, False),
        ({"options": "askanswer"}, False),
        ({"type": "image"}, False),
        ({"data": _body("something else entirely")}, False),
        ({"data": "7"}, False),
        ({"data": "[1"}, False),
        ({"data": '{"data":null}'}, False),
        ({"data": '{"data":{"data":"几点开门"}}'}, False),
        ({"data": "{}"}, False),
    ],
)
def test_what_is_a_question(rig: Rig, changed: dict[str, Any], is_asked: bool) -> None:
    """Truthy `options.askanswer` and a text that some entry answers. What cannot be read is none, and harms nobody (flaw G5)."""
    _ask(rig, _question(rig, **changed))

    _settle(rig, _answerer(rig))

    assert (len(_answers(rig)), _pending(rig)) == (int(is_asked), [])


def test_a_group_is_not_answered(rig: Rig) -> None:
    """ORIG C2 answers one-to-one questions only."""
    question = rig.build_send(_ASKER, GROUP_ID, _body(_ASK), chat_type="group", options={"askanswer": True})

    _ask(rig, question)

    assert _pending(rig) == []


def test_a_recalled_question_is_not_answered(rig: Rig) -> None:
    question = _question(rig)
    _ask(rig, question, rig.build_recall(question))

    _settle(rig, _answerer(rig))

    assert (_answers(rig), _pending(rig)) == ([], [])


# Policy


def test_a_refused_question_is_none(rig: Rig) -> None:
    """Only what is stored is answered."""
    _ask(rig, _question(rig, STRANGER_ID))

    assert _pending(rig) == []


def test_who_has_blocked_the_owner_is_not_answered(rig: Rig) -> None:
    """The answer is a send like any other, and the owner is told of none that was refused."""
    question = _question(rig)
    _ask(rig, question)
    with rig.database.writing() as connection:
        blocks.block(connection, _ASKER, _OWNER, _now_ms())

    _settle(rig, _answerer(rig))

    assert [(row["verdict"], row["code"]) for row in _answers(rig)] == [("refused", "blocked_by_recipient")]
    assert (_of(rig, "notice"), _pending(rig)) == ([], [])


def test_an_owner_who_was_disabled_answers_nobody(rig: Rig) -> None:
    _ask(rig, _question(rig))
    with rig.database.writing() as connection:
        connection.execute(update(tables.User).where(tables.User.id == _OWNER).values(status=0))

    _settle(rig, _answerer(rig))

    assert (_answers(rig), _pending(rig)) == ([], [])


def test_answers_count_as_sends_of_the_owner(rig: Rig) -> None:
    """Those beyond his rate are given later."""
    asked = [_question(rig) for _ in range(3)]
    _ask(rig, *asked)
    answerer = _answerer(rig, rate_limit_sends="2 per 10 minutes")

    _settle(rig, answerer)

    assert (len(_answers(rig)), len(_pending(rig))) == (2, 1)
    rig.client.delete(*cast(list[bytes], rig.client.keys("limit:*")))
    _settle(rig, answerer, _now_ms() + 2 * _MINUTE_MS)
    assert (len(_answers(rig)), _pending(rig)) == (3, [])


def test_a_full_outbox_lets_questions_wait(rig: Rig) -> None:
    _ask(rig, _question(rig))
    rig.accept(rig.build_send(_ASKER, _OWNER, "waits"))
    full = _answerer(rig, outbox_max_entries=1)

    assert full.run(_now_ms()) == 0
    assert len(_pending(rig)) == 1
    rig.drain()
    _settle(rig, full)

    assert (len(_answers(rig)), _pending(rig)) == (1, [])


# Once, whatever happens


def test_two_at_once_answer_once(make_rig: MakeRig) -> None:
    """Both have read the question before either has answered it, and both have read the verdict."""
    rig = make_rig()
    _begin(rig)
    _ask(rig, _question(rig))
    for _ in range(2):
        steps = Steps()
        slow, quick = _answerer(rig, steps), _answerer(rig)
        reads = itertools.count()
        ordinary_begin = steps.begin

        def begin(name: str, begin: Any = ordinary_begin, reads: Any = reads, quick: Answerer = quick) -> int:
            # Whenever the slow one is about to write, the other has just done all of it.
            if name == "sql: write" and next(reads) == 0:
                quick.run(_now_ms())
            return int(begin(name))

        steps.begin = begin  # type: ignore[method-assign]
        slow.run(_now_ms())
        rig.drain()
    _sweep(rig)

    assert (len(_answers(rig)), len(_of(rig, "notice")), _pending(rig)) == (1, 1, [])


@pytest.mark.parametrize("moment", ["before", "part", "after"])
def test_a_worker_that_dies_anywhere_leaves_one_answer_and_one_notice(rig: Rig, moment: Moment) -> None:
    """At each of its steps in turn; what was under way is looked at again, and what was lost is given after a minute."""
    for run in (1, 2):  # the one that answers, and the one that tells
        for number in itertools.count(1):
            _begin(rig)
            _ask(rig, _question(rig))
            steps = Steps()
            if run == 2:
                _answerer(rig).run(_now_ms())
                rig.drain()
            steps.crash_at(number, moment)

            with contextlib.suppress(Crash):
                _answerer(rig, steps).run(_now_ms())
            rig.drain()
            for later_ms in (0, 2 * _MINUTE_MS, 4 * _MINUTE_MS):
                _settle(rig, _answerer(rig), _now_ms() + later_ms)

            assert (len(_answers(rig)), len(_of(rig, "notice")), _pending(rig)) == (1, 1, []), (run, number)
            if len(steps.names) < number:
                assert number > 3
                break


def test_an_answer_that_redis_has_lost_is_given_anew(rig: Rig) -> None:
    _ask(rig, _question(rig))
    _answerer(rig).run(_now_ms())
    rig.server.empty()

    _settle(rig, _answerer(rig))
    assert _answers(rig) == []
    _settle(rig, _answerer(rig), _now_ms() + 2 * _MINUTE_MS)

    assert (len(_answers(rig)), len(_of(rig, "notice")), _pending(rig)) == (1, 1, [])


def test_a_question_is_noted_with_the_message_or_not_at_all(rig: Rig) -> None:
    """The drain dies at each of its steps: where the question stands, it waits for its answer."""
    for number in itertools.count(1):
        _begin(rig)
        question = _question(rig)
        rig.accept(question)
        worker = rig.worker()
        worker.steps.crash_at(number, "part")
        worker.run()

        assert _pending(rig) == [row["id"] for row in rig.rows()], number
        if len(worker.steps.names) < number:
            break
        rig.expire_leases()
        rig.drain()
        assert _pending(rig) == [question.id]


# What it costs


def test_an_ordinary_message_costs_no_statement_for_it(rig: Rig) -> None:
    """And a question costs one."""
    worker = rig.worker(drain_lease_seconds=60.0)

    def statements_of(request: Request) -> list[str]:
        rig.accept(request)
        with statements_to(rig.database) as sent:
            assert worker.run()
        return sent

    statements_of(rig.build_send(_ASKER, _OWNER, _body(_ASK), options={}))
    ordinary = statements_of(rig.build_send(_ASKER, _OWNER, _body(_ASK), options={"other": 1}))
    asked = statements_of(_question(rig))

    assert not any("pending_answer" in statement for statement in ordinary)
    assert len(asked) == len(ordinary) + 1


def test_many_questions_are_answered_in_one_run(rig: Rig) -> None:
    """More than one look holds."""
    rows = [{"question_id": f"gone-{number}", "created_at_ms": number} for number in range(250)]
    _ask(rig, _question(rig))
    with rig.database.writing() as connection:
        connection.execute(insert(questions.PendingAnswer), rows)

    assert _answerer(rig).run(_now_ms()) == 1
    assert len(_pending(rig)) == 1


def test_the_owner_is_told_of_many_answers_in_one_run(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no more questions come nobody rings, and the rest would wait for the next bell of beat."""
    monkeypatch.setattr(answering, "_MOST", 2)
    _ask(rig, *(_question(rig) for _ in range(5)))
    _answerer(rig).run(_now_ms())
    rig.drain()
    assert (len(_answers(rig)), len(_pending(rig))) == (5, 5)

    _answerer(rig).run(_now_ms())

    assert _pending(rig) == []
