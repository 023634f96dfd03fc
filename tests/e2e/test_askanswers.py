"""Questions and answers (ORIG 6.6, flaw G4), and the automatic answer for who is away (ORIG 7.4, flaw G5)."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import func, select

from models.askanswers import AskAnswer
from models.questions import PendingAnswer, answer_id
from tests.conftest import InstanceFactory
from tests.support.acting import open_socket, stopped
from tests.support.client import HttpClient
from tests.support.instance import Instance, Kind, wait_until
from tests.support.relations import add_users, befriend, make_group, set_strangers, writing

_MOST = 100  # ANSWERS_PER_OWNER
_ASK, _ANSWER = "几点开门", "每天九点"
_ANSWERING: tuple[Kind, ...] = ("worker", "housekeeping")
_INCOMPLETE = (400, "askanswer_incomplete", "参数不完整")
_UNKNOWN = (400, "askanswer_not_found", "问答不存在")
_NOT_YOURS = (400, "group_not_yours", "群不存在或者被封禁或者你无权操作")


def _call(instance: Instance, user_id: int, path: str, **params: Any) -> tuple[int, Any]:
    return HttpClient(instance.base, instance.tokens[user_id]).post(f"/api/chat/askanswer/{path}", params)


def _ok(answer: tuple[int, Any]) -> Any:
    assert (answer[0], answer[1]["msg"]) == (200, "ok"), answer
    return answer[1]["data"]


def _refusal(answer: tuple[int, Any]) -> tuple[int, str, str]:
    assert answer[1]["msg"] == "fail", answer
    return answer[0], answer[1]["code"], answer[1]["data"]


def _keep(instance: Instance, user_id: int, ask: str = _ASK, answer: str = _ANSWER) -> dict[str, Any]:
    kept: dict[str, Any] = _ok(_call(instance, user_id, "create", type="single", ask=ask, answer=answer))
    return kept


def _list(instance: Instance, user_id: int, **params: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = _ok(_call(instance, user_id, "list", **{"type": "single", **params}))
    return rows


# Keeping them


def test_a_question_is_kept_changed_and_removed(instance: Instance) -> None:
    """What is answered is the thing itself, in the standard envelope (flaw G4)."""
    (owner,) = add_users(instance)

    made = _keep(instance, owner)
    changed = _ok(_call(instance, owner, "update", id=made["id"], ask="何时开门", answer="十点", type="single"))

    assert made == {
        "id": made["id"],
        "ask": _ASK,
        "answer": _ANSWER,
        "type": "single",
        "create_userId": owner,
        "create_time": made["create_time"],
        "update_time": made["create_time"],
        "likeCount": 0,
        "liked": False,
    }
    assert changed == made | {"ask": "何时开门", "answer": "十点", "update_time": changed["update_time"]}
    assert changed["update_time"] > made["create_time"]
    assert _ok(_call(instance, owner, "detail", id=made["id"])) == changed
    assert _list(instance, owner) == [changed]
    assert _ok(_call(instance, owner, "delete", id=made["id"])) == "删除成功"
    assert _list(instance, owner) == []
    for path in ("detail", "delete"):
        assert _refusal(_call(instance, owner, path, id=made["id"])) == _UNKNOWN


def test_the_same_question_gets_the_new_answer(instance: Instance) -> None:
    """Also where many ask at once (flaw G4): it stands once, under the same id."""
    (owner,) = add_users(instance)
    first = _keep(instance, owner)

    with ThreadPoolExecutor(8) as threads:
        kept = list(threads.map(lambda number: _keep(instance, owner, "new", str(number)), range(16)))
    again = _keep(instance, owner, _ASK, "十点")

    assert len({each["id"] for each in kept}) == 1
    assert again == first | {"answer": "十点", "update_time": again["update_time"]}
    rows = _list(instance, owner)
    assert [row["ask"] for row in rows] == ["new", _ASK]
    assert rows[0]["answer"] in {str(number) for number in range(16)}


def test_a_question_cannot_become_another_one(instance: Instance) -> None:
    (owner,) = add_users(instance)
    one, other = _keep(instance, owner, "one"), _keep(instance, owner, "other")

    refused = _call(instance, owner, "update", id=other["id"], ask="one", answer="x")

    assert _refusal(refused) == (400, "askanswer_doubled", "该问题已存在")
    assert _list(instance, owner) == [other, one]


def test_whose_they_are_is_the_session_s_to_say(instance: Instance) -> None:
    """Whatever id the body names: nobody reads, changes or removes another's (flaw G4)."""
    owner, other = add_users(instance, 2)
    kept = _keep(instance, owner)

    made = _ok(_call(instance, other, "create", type="single", ask=_ASK, answer="mine", create_userId=owner))

    assert made["create_userId"] == other
    assert _list(instance, other, userId=owner) == [made]
    found = _ok(_call(instance, other, "search", type="single", ask=_ASK, create_userId=owner))
    assert found["answer"] == "mine"
    for foreign in (kept["id"], 2**31 - 1, 2**31, 10**16):
        for path in ("detail", "delete"):
            assert _refusal(_call(instance, other, path, id=foreign, type="single", create_userId=owner)) == _UNKNOWN
        changed = _call(instance, other, "update", id=foreign, ask="x", answer="x", type="single", create_userId=owner)
        assert _refusal(changed) == _UNKNOWN
    assert _list(instance, owner) == [kept]


def test_a_group_s_are_its_owner_s(instance: Instance) -> None:
    """And the next owner's once it has changed hands; members and others are refused alike."""
    owner, member, stranger = add_users(instance, 3)
    group_id = make_group(instance, owner, [member])
    of_group = {"type": "group", "create_userId": group_id, "ask": _ASK, "answer": _ANSWER}
    kept = _ok(_call(instance, owner, "create", **of_group))
    assert (kept["type"], kept["create_userId"]) == ("group", group_id)
    assert _list(instance, owner) == []  # its own are others
    for nobody, group in ((member, group_id), (stranger, group_id), (owner, 2**31 - 1), (owner, 10**16)):
        for answer in (
            _call(instance, nobody, "create", **{**of_group, "create_userId": group}),
            _call(instance, nobody, "list", type="group", userId=group),
            _call(instance, nobody, "search", type="group", create_userId=group, ask=_ASK),
        ):
            assert _refusal(answer) == _NOT_YOURS
    assert _refusal(_call(instance, member, "detail", id=kept["id"])) == _UNKNOWN

    transferred = {"group_id": group_id, "user_id": member}
    HttpClient(instance.base, instance.tokens[owner]).post("/api/chat/groupTransfer", transferred)

    assert _ok(_call(instance, member, "list", type="group", userId=group_id)) == [kept]
    assert _ok(_call(instance, member, "update", id=kept["id"], ask=_ASK, answer="x"))["answer"] == "x"
    assert _refusal(_call(instance, owner, "delete", id=kept["id"])) == _UNKNOWN
    assert _ok(_call(instance, member, "delete", id=kept["id"])) == "删除成功"


def test_as_many_as_a_setting_says(instance: Instance) -> None:
    """Parallel ones too; an answer to a question that stands has room."""
    (owner,) = add_users(instance)
    row = {"type": "single", "owner_id": owner, "answer": "a", "created_at_ms": 0, "updated_at_ms": 0}
    with writing(instance) as connection:
        rows = [{**row, "ask": f"q{number}"} for number in range(_MOST - 2)]
        connection.execute(AskAnswer.__table__.insert(), rows)  # type: ignore[attr-defined]

    def create(number: int) -> tuple[int, Any]:
        return _call(instance, owner, "create", type="single", ask=f"new {number}", answer="a")

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(create, range(8)))

    refusals = [_refusal(answer) for answer in answers if answer[0] != 200]
    assert refusals == [(400, "askanswer_full", "问答数量已达上限")] * 6
    assert _keep(instance, owner, "q0", "b")["answer"] == "b"
    pages = [_list(instance, owner, page=page, limit=60) for page in (1, 2, 3, 10**15)]
    assert [len(page) for page in pages] == [60, 40, 0, 0]
    assert [row["id"] for page in pages for row in page] == sorted((r["id"] for p in pages for r in p), reverse=True)


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("create", {"type": "single", "ask": "a"}),
        ("create", {"type": "single", "answer": "a"}),
        ("create", {"ask": "a", "answer": "a", "create_userId": 1}),
        ("create", {"type": "group", "ask": "a", "answer": "a"}),
        ("create", {"type": "single", "ask": " ", "answer": "a"}),
        ("update", {"ask": "a", "answer": "a"}),
        ("update", {"id": 1, "ask": "a"}),
        ("update", {"id": 1, "answer": "a"}),
        ("delete", {}),
        ("detail", {"id": ""}),
        ("list", {}),
        ("list", {"type": "group"}),
        ("search", {"type": "single"}),
        ("search", {"ask": "a"}),
    ],
)
def test_what_is_missing_is_told(instance: Instance, path: str, params: dict[str, Any]) -> None:
    """With ORIG's text and a status (flaw G4)."""
    (owner,) = add_users(instance)

    assert _refusal(_call(instance, owner, path, **params)) == _INCOMPLETE


@pytest.mark.parametrize(
    "malformed",
    [
        {"type": "../single"},
        {"ask": "x" * 201},
        {"answer": "x" * 1_001},
        {"ask": "a\0"},
        {"create_userId": "x"},
        {"create_userId": -1},
    ],
    ids=str,
)
def test_what_is_malformed_is_422(instance: Instance, malformed: dict[str, Any]) -> None:
    (owner,) = add_users(instance)

    answer = _call(instance, owner, "create", **{"type": "single", "ask": "a", "answer": "a"} | malformed)

    assert _refusal(answer)[:2] == (422, "invalid")
    assert _list(instance, owner) == []


def test_a_search_takes_its_words_literally(instance: Instance) -> None:
    """No text of a user's is a pattern, where "(" alone was an error in the original (flaw G4)."""
    (owner,) = add_users(instance)
    assert _refusal(_call(instance, owner, "search", type="single", ask="x"))[1:] == ("askanswer_none", "暂无问答数据")
    _keep(instance, owner)
    pattern = _keep(instance, owner, "what is (a+)+$ \\ [", "a pattern")

    for text in ("(", "(a+)+$", "\\", "["):
        found = _ok(_call(instance, owner, "search", type="single", ask=text))
        assert found == pattern | {"score": found["score"]}
    exact = _ok(_call(instance, owner, "search", type="single", ask=_ASK))
    assert (exact["ask"], exact["score"]) == (_ASK, pytest.approx(127, abs=0.1))
    loose = _ok(_call(instance, owner, "search", type="single", ask="请问，几点开门呢？"))
    assert (loose["ask"], loose["score"]) == (_ASK, 5)
    for text in ("天气怎么样", ".*", "%", "?"):
        refused = _call(instance, owner, "search", type="single", ask=text)
        assert _refusal(refused) == (400, "askanswer_no_match", "未找到相关问答")


# The automatic answer


def _ask(instance: Instance, asker: int, owner: int, text: str = _ASK, *, options: str = '{"askanswer":true}') -> Any:
    """Send a question as the legacy client does; return status and body."""
    body = {
        "sendto_id": owner,
        "chatType": "single",
        "type": "text",
        "data": json.dumps({"data": text, "dataType": False, "otherData": None}),
        "options": quote(options),
    }
    return HttpClient(instance.base, instance.tokens[asker]).post("/api/chat/socket/sendmessage", body)


def _count_pending(instance: Instance) -> int:
    with writing(instance) as connection:
        return int(connection.execute(select(func.count()).select_from(PendingAnswer)).scalar_one())


def _talk(instance: Instance, user_id: int, peer_id: int) -> list[str]:
    """Return the ids of a conversation's messages, oldest first."""
    path = f"/api/chat/history?chatType=single&peer_id={peer_id}"
    messages = HttpClient(instance.base, instance.tokens[user_id]).get(path)[1]["data"]["messages"]
    return [message["id"] for message in messages]


def test_who_is_away_answers_and_is_told_when_he_comes(instance: Instance) -> None:
    """The asker's socket shows the answer; who is online, is blocked, or asks nothing, gets none."""
    asker, owner, present = add_users(instance, 3)
    for friend in (owner, present):
        befriend(instance, asker, friend)
        _keep(instance, friend)
    (blocker,) = add_users(instance)
    set_strangers(instance, blocker, user=2)
    _keep(instance, blocker)
    HttpClient(instance.base, instance.tokens[blocker]).post(f"/api/chat/block/{asker}", {"block": 1})

    with open_socket(instance, present, 1), open_socket(instance, asker, 2) as socket:
        to_present = _ok(_ask(instance, asker, present))
        plain = _ok(_ask(instance, asker, owner, "hello", options="{}"))
        assert _refusal(_ask(instance, asker, blocker))[1] == "blocked_by_recipient"
        question = _ok(_ask(instance, asker, owner))
        answer = socket.wait_for_text(_ANSWER).message
        assert wait_until(lambda: _count_pending(instance) == 0, 15.0)

    assert answer is not None
    assert (answer["id"], answer["from_id"], answer["type"]) == (answer_id(question["id"]), owner, "text")
    assert (answer["to_id"], answer["seq"], answer["options"]) == (asker, 3, {})
    assert answer["sendUUid"] != question["sendUUid"]
    assert json.loads(answer["data"]) == {"data": _ANSWER, "dataType": False, "otherData": None}
    assert _talk(instance, asker, owner) == [plain["id"], question["id"], answer["id"]]
    assert _talk(instance, asker, present) == [to_present["id"]]
    with open_socket(instance, owner, 1) as socket:
        told = socket.wait_for(lambda frame: frame.message is not None and frame.message["type"] == "systemNotice")
        assert {message["from_id"] for message in socket.messages} == {
            asker
        }  # a legacy client shows what it says itself
    assert told.message is not None
    assert told.message["data"]["data"] == (
        f"系统根据您设置的问答数据，挑选了最接近的答案，回复给对方，回复内容是：\n\n {_ANSWER}"
    )
    assert (told.message["from_id"], told.message["create_time"]) == (asker, answer["create_time"])


def test_who_has_answered_is_told_without_beat(instance: Instance) -> None:
    """Who came right after it found an answer that he had not written, and up to ten seconds nothing that said why."""
    asker, owner = add_users(instance, 2)
    befriend(instance, asker, owner)
    _keep(instance, owner)
    assert wait_until(lambda: _count_pending(instance) == 0, 15.0)

    with stopped(instance.wait_processes("beat", 1)):
        _ok(_ask(instance, asker, owner))
        assert wait_until(lambda: len(_talk(instance, asker, owner)) == 2, 10.0)
        assert wait_until(lambda: _count_pending(instance) == 0, 10.0)


def test_a_question_outlives_the_processes_that_answer(fresh_instance: InstanceFactory) -> None:
    """All that could answer is killed right after the question was stored: the answer comes once, and stands in no log."""
    instance = fresh_instance(WEB_PROCESSES="1", WORKER_PROCESSES="1")
    asker, owner = add_users(instance, 2)
    befriend(instance, asker, owner)
    text = f"secret answer {uuid.uuid4().hex}"
    _keep(instance, owner, _ASK, text)

    question = _ok(_ask(instance, asker, owner))["id"]
    for kind in _ANSWERING:
        instance.kill(kind)
    pending = _count_pending(instance)
    with open_socket(instance, asker, 1) as socket:
        socket.wait_for_text(text, 30.0)
        shown = [message["id"] for message in socket.messages]

    assert (pending, shown) == (1, [answer_id(question)])
    assert _talk(instance, asker, owner) == [question, answer_id(question)]
    for path in instance.log_dir.glob("*.log"):
        assert text not in path.read_text(errors="replace"), f"{path} shows an answer"
