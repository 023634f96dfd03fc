"""Complaints (ORIG 6.6, flaw G6): made, changed and taken back by their authors, and what administrators make of them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update

from models.complaints import Complaint
from models.groups import Group
from tests.support.acting import open_socket
from tests.support.client import HttpClient
from tests.support.instance import Instance
from tests.support.relations import add_users, befriend, make_group, writing

_MOST = 20  # COMPLAINTS_PER_USER
_IMAGES = ["https://pictures.example/1.png", "/public/uploads/2.png"]
_EVIDENCE = [{"id": "m1", "data": {"data": "坏话", "dataType": False}, "n": [1, 2.5, None]}, {}]


@pytest.fixture(scope="module")
def administrator(instance: Instance) -> int:
    (user_id,) = add_users(instance)
    instance.run_flask("admin", "grant", f"added{user_id}")
    return user_id


def _call(instance: Instance, user_id: int, path: str, **params: Any) -> tuple[int, Any]:
    return HttpClient(instance.base, instance.tokens[user_id]).post(f"/api/chat/complaint/{path}", params)


def _get(instance: Instance, user_id: int, path: str) -> tuple[int, Any]:
    return HttpClient(instance.base, instance.tokens[user_id]).get(path)


def _make(instance: Instance, user_id: int, target_id: int, **params: Any) -> int:
    """Complain, and return the complaint's id."""
    given = {"target_id": target_id, "target_type": "single", "reason": "骚扰", **params}
    status, body = _call(instance, user_id, "create", **given)
    assert (status, body["msg"], list(body["data"])) == (200, "ok", ["id"]), body
    return int(body["data"]["id"])


def _own(instance: Instance, user_id: int, query: str = "") -> list[dict[str, Any]]:
    status, body = _get(instance, user_id, f"/api/chat/complaint/list{query}")
    assert (status, body["msg"]) == (200, "ok")
    rows: list[dict[str, Any]] = body["data"]
    return rows


def _detail(instance: Instance, user_id: int, complaint_id: int) -> dict[str, Any]:
    status, body = _get(instance, user_id, f"/api/chat/complaint/detail/{complaint_id}")
    assert status == 200, body
    found: dict[str, Any] = body["data"]
    return found


def _refusal(answer: tuple[int, Any]) -> tuple[int, str, str]:
    assert answer[1]["msg"] == "fail", answer
    return answer[0], answer[1]["code"], answer[1]["data"]


_UNKNOWN = (400, "complaint_not_found", "投诉记录不存在")


# Making one


@pytest.mark.parametrize("is_text", [False, True], ids=["arrays", "their JSON text"])
def test_a_complaint_is_kept_as_it_was_given(instance: Instance, is_text: bool) -> None:
    """Arrays come back as arrays, whichever way they were sent, and stand in the database as such (flaw G6)."""
    author, other = add_users(instance, 2)
    given: dict[str, Any] = {"content": "每天", "images": _IMAGES, "complaint_chatinfo": _EVIDENCE}
    if is_text:
        given |= {name: json.dumps(given[name]) for name in ("images", "complaint_chatinfo")}

    complaint_id = _make(instance, author, other, target_name="what the client says", **given)

    found = _detail(instance, author, complaint_id)
    times = (found.pop("create_time"), found.pop("update_time"))
    assert [len(time) for time in times] == [len("2026-01-31 23:59:59"), len("2026-01-31T23:59:59.999Z")]
    assert found == {
        "id": complaint_id,
        "target_id": other,
        "target_type": "single",
        "target_name": f"用户{other}",
        "reason": "骚扰",
        "content": "每天",
        "images": _IMAGES,
        "complaint_chatinfo": _EVIDENCE,
        "status": 0,
        "admin_reply": None,
        "user": {
            "id": author,
            "uuid": found["user"]["uuid"],
            "username": f"added{author}",
            "nickname": f"用户{author}",
            "avatar": "",
        },
    }
    with writing(instance) as connection:
        row = connection.execute(select(Complaint.__table__).where(Complaint.id == complaint_id)).one()
    assert (row.images, row.complaint_chatinfo) == (_IMAGES, _EVIDENCE)


def test_a_complaint_as_the_original_s_client_sends_it(instance: Instance) -> None:
    """Numbers as text, empty lists as their text, what it leaves out as empty."""
    author, other = add_users(instance, 2)

    sent = {"target_id": str(other), "target_type": "single", "reason": "骚扰", "content": "", "images": "[]"}
    status, body = _call(instance, author, "create", **sent, complaint_chatinfo="[]")

    assert status == 200
    found = _detail(instance, author, body["data"]["id"])
    assert (found["target_id"], found["content"], found["images"], found["complaint_chatinfo"]) == (other, "", [], [])


@pytest.mark.parametrize("missing", ["target_id", "target_type", "reason"])
def test_what_is_missing_is_told(instance: Instance, missing: str) -> None:
    """In `data`, as every refusal is (flaw G6), and nothing is made."""
    author, other = add_users(instance, 2)
    given = {"target_id": other, "target_type": "single", "reason": "骚扰"}

    for nothing in ({}, {missing: ""}, {missing: None}):
        answer = _call(instance, author, "create", **{n: v for n, v in given.items() if n != missing}, **nothing)
        assert _refusal(answer) == (400, "complaint_incomplete", "缺少必要参数")
    assert _own(instance, author) == []


@pytest.mark.parametrize(
    "malformed",
    [
        {"target_type": "channel"},
        {"target_id": "x"},
        {"target_id": 0},
        {"target_id": -1},
        {"reason": "x" * 501},
        {"reason": "a\0b"},
        {"content": "x" * 5_001},
        {"images": "x"},
        {"images": {"a": 1}},
        {"images": [1]},
        {"images": ["javascript:alert(1)"]},
        {"images": ["https://pictures.example/" + "x" * 1_000]},
        {"images": _IMAGES * 5},
        {"images": json.dumps(json.dumps(_IMAGES))},
        {"complaint_chatinfo": ["text"]},
        {"complaint_chatinfo": [{}] * 101},
        {"complaint_chatinfo": [{"data": "x" * 65_536}]},
        {"complaint_chatinfo": [{"data": {"deep": ["a\0b"]}}]},
        {"complaint_chatinfo": [{"a\0b": 1}]},
        {"complaint_chatinfo": "[" * 2_000 + "]" * 2_000},
        {"complaint_chatinfo": '[{"a":' * 240 + "1" + "}]" * 240},
    ],
    ids=lambda malformed: f"{next(iter(malformed))} {str(next(iter(malformed.values())))[:20]}",
)
def test_a_malformed_complaint_is_422(instance: Instance, malformed: dict[str, Any]) -> None:
    """And nothing is made."""
    author, other = add_users(instance, 2)

    answer = _call(
        instance, author, "create", **{"target_id": other, "target_type": "single", "reason": "r"} | malformed
    )

    assert _refusal(answer)[:2] == (422, "invalid")
    assert _own(instance, author) == []


def test_one_complains_about_what_one_may_know(instance: Instance) -> None:
    """Any other user, also a visitor or a disabled one; a group that is open, or closed and one's own. No one else (flaw G6)."""
    author, owner, other = add_users(instance, 3)
    (visitor,) = add_users(instance, role="visitor")
    open_group = make_group(instance, owner, [other], name="open")
    closed_of_others = make_group(instance, owner, [other])
    closed_of_mine = make_group(instance, owner, [author], name="mine")
    with writing(instance) as connection:
        closed = Group.id.in_([closed_of_others, closed_of_mine])
        connection.execute(update(Group).where(closed).values(status=0))
    unknown = (400, "complaint_target_unknown", "投诉对象不存在")

    def refusal(target_type: str, target_id: int) -> tuple[int, str, str]:
        return _refusal(_call(instance, author, "create", target_type=target_type, target_id=target_id, reason="r"))

    for target_type, target_id in (("single", visitor), ("group", open_group), ("group", closed_of_mine)):
        _make(instance, author, target_id, target_type=target_type)
    assert [row["target_name"] for row in _own(instance, author)] == ["mine", "open", f"VIS{visitor}"]
    for nobody in (2**31 - 1, 2**31, 10**16):
        assert refusal("single", nobody) == refusal("group", nobody) == unknown
    assert refusal("group", closed_of_others) == unknown
    assert refusal("single", author) == (400, "complaint_self", "不能投诉自己")


def test_a_private_remark_is_not_shown_to_administrators(instance: Instance) -> None:
    author, other = add_users(instance, 2)
    befriend(instance, author, other, remark="my secret name")

    complaint_id = _make(instance, author, other)

    assert _detail(instance, author, complaint_id)["target_name"] == f"用户{other}"


def test_open_complaints_are_bounded(instance: Instance, administrator: int) -> None:
    """Parallel ones too; taking one back makes no room for a day, settling one does."""
    author, other = add_users(instance, 2)
    given = {"target_id": other, "target_type": "single", "reason": "r"}
    for _ in range(_MOST - 3):
        _make(instance, author, other)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: _call(instance, author, "create", **given), range(8)))

    refusals = [_refusal(answer)[:2] for answer in answers if answer[0] != 200]
    assert refusals == [(429, "too_many_complaints")] * 5
    complaint_id = _own(instance, author)[0]["id"]
    assert _call(instance, author, f"delete/{complaint_id}")[0] == 200
    assert _call(instance, author, "create", **given)[0] == 429
    settled = _own(instance, author)[0]["id"]
    _set_status(instance, administrator, settled, status=2)
    _make(instance, author, other)


# Reading, changing and taking back one's own


def test_a_list_is_paged_newest_first(instance: Instance) -> None:
    """Without the evidence, and of a bounded size."""
    author, other = add_users(instance, 2)
    ids = [_make(instance, author, other, reason=f"r{number}", complaint_chatinfo=_EVIDENCE) for number in range(5)]

    pages = [_own(instance, author, f"?page={page}&limit=2") for page in (1, 2, 3, 4, 10**15)]

    assert [[row["id"] for row in page] for page in pages] == [ids[:2:-1], ids[2:0:-1], ids[:1], [], []]
    assert {"complaint_chatinfo"}.isdisjoint(pages[0][0])
    assert len(_own(instance, author, "?limit=101")) == 5  # the default where it is none


def test_a_complaint_is_changed_until_somebody_handles_it(instance: Instance, administrator: int) -> None:
    """What is left out stays as it was."""
    author, other = add_users(instance, 2)
    complaint_id = _make(instance, author, other, content="old", images=_IMAGES, complaint_chatinfo=_EVIDENCE)

    changed = _call(instance, author, f"update/{complaint_id}", content="new", images=json.dumps(_IMAGES[:1]))

    assert (changed[0], changed[1]) == (200, {"msg": "ok", "data": "ok"})
    found = _detail(instance, author, complaint_id)
    assert (found["content"], found["images"], found["reason"]) == ("new", _IMAGES[:1], "骚扰")
    assert (found["complaint_chatinfo"], found["status"]) == (_EVIDENCE, 0)
    _set_status(instance, administrator, complaint_id, status=1)
    refused = _call(instance, author, f"update/{complaint_id}", content="newer")
    assert _refusal(refused) == (400, "complaint_closed", "该投诉已开始处理，无法修改")
    assert _detail(instance, author, complaint_id)["content"] == "new"


def test_a_complaint_is_taken_back(instance: Instance, administrator: int) -> None:
    """It is gone for its author and for administrators, while the row stays."""
    author, other = add_users(instance, 2)
    complaint_id = _make(instance, author, other)

    assert _call(instance, author, f"delete/{complaint_id}")[1] == {"msg": "ok", "data": "ok"}

    assert _own(instance, author) == []
    for path in ("update", "delete"):
        assert _refusal(_call(instance, author, f"{path}/{complaint_id}")) == _UNKNOWN
    assert _refusal(_get(instance, author, f"/api/chat/complaint/detail/{complaint_id}")) == _UNKNOWN
    assert _get(instance, administrator, f"/api/admin/complaints/{complaint_id}")[0] == 404
    with writing(instance) as connection:
        assert connection.execute(select(Complaint.is_deleted).where(Complaint.id == complaint_id)).scalar_one()


def test_other_people_s_complaints_do_not_exist(instance: Instance) -> None:
    """Nor those that nobody has made: one text for both, and nothing is changed."""
    author, other, stranger = add_users(instance, 3)
    complaint_id = _make(instance, author, other)

    for foreign in (complaint_id, 2**31 - 1, 2**31, 10**16):
        assert _refusal(_get(instance, stranger, f"/api/chat/complaint/detail/{foreign}")) == _UNKNOWN
        assert _refusal(_call(instance, stranger, f"update/{foreign}", content="x")) == _UNKNOWN
        assert _refusal(_call(instance, stranger, f"delete/{foreign}")) == _UNKNOWN
    assert _own(instance, stranger) == []
    assert _detail(instance, author, complaint_id)["content"] == ""


# Administrators


def _set_status(instance: Instance, caller: int, complaint_id: int, **params: Any) -> None:
    client = HttpClient(instance.base, instance.tokens[caller])
    status, body = client.post(f"/api/admin/complaints/{complaint_id}/status", params)
    assert (status, body) == (200, {"msg": "ok", "data": "ok"})


def test_administrators_read_complaints_by_status(instance: Instance, administrator: int) -> None:
    """Newest first, a page at a time, with how many there are."""
    author, other = add_users(instance, 2)
    ids = [_make(instance, author, other, complaint_chatinfo=_EVIDENCE) for _ in range(3)]
    _set_status(instance, administrator, ids[1], status=3)

    def queue(query: str) -> tuple[int, list[int]]:
        status, body = _get(instance, administrator, f"/api/admin/complaints{query}")
        assert status == 200, body
        return body["data"]["total"], [row["id"] for row in body["data"]["complaints"]]

    total, everything = queue("")
    assert everything[:3] == ids[::-1]
    assert (total, everything) == (max(total, len(everything)), sorted(everything, reverse=True))
    pending_total, pending = queue("?status=0&limit=2")
    assert pending == [ids[2], ids[0]]
    assert queue("?status=3&limit=1")[1] == [ids[1]]
    assert queue("?status=0&limit=2&page=1000000000000") == (pending_total, [])
    assert _refusal(_get(instance, administrator, "/api/admin/complaints?status=4"))[:2] == (422, "invalid")
    whole = _get(instance, administrator, f"/api/admin/complaints/{ids[0]}")[1]["data"]
    assert (whole["complaint_chatinfo"], whole["user"]["id"]) == (_EVIDENCE, author)


def test_the_author_is_told_what_became_of_it(instance: Instance, administrator: int) -> None:
    """Of each change once, by a notice that a legacy client shows each time; a repeat tells nothing."""
    author, other = add_users(instance, 2)
    complaint_id = _make(instance, author, other)
    key = f"redirect-complaint-{complaint_id}"
    with open_socket(instance, author, 2) as socket:
        _set_status(instance, administrator, complaint_id, status=1)
        _set_status(instance, administrator, complaint_id, status=1)
        _set_status(instance, administrator, complaint_id, status=2, admin_reply="已警告对方")
        _set_status(instance, administrator, complaint_id, status=2, admin_reply="已警告对方")
        _set_status(instance, administrator, complaint_id, status=3)
        socket.wait_for(lambda frame: "已关闭" in json.dumps(frame.data, ensure_ascii=False))
        frames = [frame.data["data"] for frame in socket.frames if frame.data["type"] == "singleChat"]
    told = [message for message in frames if message["from_id"] == key]

    assert [notice["data"]["data"] for notice in told] == [
        f"您对[用户{other}]的投诉处理中",
        f"您对[用户{other}]的投诉已处理，管理员回复：\n\n 已警告对方",
        f"您对[用户{other}]的投诉已关闭，管理员回复：\n\n 已警告对方",
    ]
    assert {(notice["type"], notice["redirect"], notice["to_id"]) for notice in told} == {
        ("systemNotice", None, author)
    }
    found = _detail(instance, author, complaint_id)
    assert (found["status"], found["admin_reply"]) == (3, "已警告对方")


def test_complaints_are_404_to_others(instance: Instance, administrator: int) -> None:
    """Whether there is such a complaint or not, and to administrators where there is none."""
    author, other = add_users(instance, 2)
    complaint_id = _make(instance, author, other)
    callers = [instance.tokens[author], instance.tokens[other], None]

    for client in (HttpClient(instance.base, token) for token in callers):
        for answer in (
            client.get("/api/admin/complaints"),
            client.get(f"/api/admin/complaints/{complaint_id}"),
            client.post(f"/api/admin/complaints/{complaint_id}/status", {"status": 9}),
        ):
            assert _refusal(answer)[:2] == (404, "not_found")
    of_administrator = HttpClient(instance.base, instance.tokens[administrator])
    for unknown in (2**31 - 1, 2**31, 10**16):
        assert of_administrator.get(f"/api/admin/complaints/{unknown}")[0] == 404
        assert of_administrator.post(f"/api/admin/complaints/{unknown}/status", {"status": 1})[0] == 404
    for bad in ({}, {"status": 4}, {"status": -1}, {"status": 1, "admin_reply": "x" * 1_001}):
        answer = of_administrator.post(f"/api/admin/complaints/{complaint_id}/status", bad)
        assert _refusal(answer)[:2] == (422, "invalid")
    assert _detail(instance, author, complaint_id)["status"] == 0
