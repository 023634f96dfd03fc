"""A drain that dies, fails or is stopped at any of its steps leaves nothing that the next one does not put right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from models import shards
from models.database import Database
from models.errors import DatabaseUnavailable
from models.requests import Request
from models.store import keys
from models.store.connection import run
from tasks import apply, policy
from tasks.decide import Outcome, _Decision
from tasks.rebuild import load_inbox
from tests.model.conftest import MakeRig
from tests.model.rig import GROUP_ID, PROCESS_ID, STRANGER_ID, Moment, Rig, Worker
from webapp.sockets.office import Resume

_NOW_MS = 1_700_000_000_000
_MOMENTS: tuple[Moment, ...] = ("before", "part", "after")


@pytest.fixture(autouse=True)
def _still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions bear one time, so that runs can be compared."""
    monkeypatch.setattr("tasks.decide.time", SimpleNamespace(time_ns=lambda: _NOW_MS * 1_000_000))


@dataclass(frozen=True, slots=True)
class Scene:
    """What was settled before the drain at hand, and what waits for it."""

    settled: Sequence[Request]
    batch: Sequence[Request]


def _scene(rig: Rig) -> Scene:
    """Two settled messages, and a batch with two singles, a group message, a repeat, a conflict, a refusal and three recalls."""

    def send(sender_id: int, to_id: int, name: str, text: str = "", **more: Any) -> Request:
        return rig.build_send(sender_id, to_id, text or name, client_msg_id=name, created_at_ms=_NOW_MS, **more)

    old = send(1, 2, "old")
    old_group = send(2, GROUP_ID, "old group", chat_type="group")
    first = send(1, 2, "first")
    short_lived = send(1, 2, "short-lived")
    batch = [
        first,
        send(2, 1, "second"),
        send(1, GROUP_ID, "to all", chat_type="group"),
        first,
        send(1, 2, "first", "something else"),
        send(STRANGER_ID, 1, "from a stranger"),
        rig.build_recall(old),
        rig.build_recall(old_group),
        short_lived,
        rig.build_recall(short_lived),
    ]
    return Scene([old, old_group], [replace(r, reply_to=(PROCESS_ID, wait)) for wait, r in enumerate(batch, 1_000)])


def _prepare(rig: Rig) -> Scene:
    rig.reset()
    for user_id in (1, 2, 3, STRANGER_ID):
        rig.web.connect(user_id, "a", 2).abort()  # from now on each has an inbox
    scene = _scene(rig)
    rig.accept(*scene.settled)
    rig.drain()
    rig.accept(*scene.batch)
    rig.published.clear()
    rig.heard.clear()
    return scene


def _state(rig: Rig) -> dict[str, Any]:
    """Return everything that must be the same, however often a drain had to begin anew."""
    cursors = {f"cursor of {user_id}": rig.cursor_state(user_id) for user_id in (1, 2, 3, STRANGER_ID)}
    for state in cursors.values():
        state.pop("epoch", None)
    return {
        "rows": rig.rows(),
        "waiting": rig.waiting(),
        "dead": rig.dead(),
        **cursors,
        **rig.keys_like("chat_getmessage_*"),
        **rig.keys_like("chatlog:*"),
    }


def _verdicts(rig: Rig) -> dict[int, str | None]:
    """Return what was published to each wait; AssertionError where one was told two things."""
    told: dict[int, str | None] = {}
    for verdict in rig.verdicts():
        assert told.setdefault(verdict.wait, verdict.code) == verdict.code
    return told


def _differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        f"{name}: {found.get(name)} instead of {expected.get(name)}"
        for name in expected | found
        if expected.get(name) != found.get(name)
    ]


def _interrupt_at_every_step(rig: Rig, interrupt: Callable[[Worker, int, Moment], None]) -> list[str]:
    """Interrupt a drain at every step, let others finish, and return how the ends differ from an undisturbed run's."""
    _prepare(rig)
    undisturbed = rig.worker()
    assert undisturbed.run()
    names = list(undisturbed.steps.names)
    expected, expected_verdicts = _state(rig), _verdicts(rig)
    wrong = []
    for number, name in enumerate(names, 1):
        for moment in _MOMENTS:
            _prepare(rig)
            interrupt(rig.worker(), number, moment)
            rig.expire_leases()
            rig.drain()
            found = _differences(expected, _state(rig))
            if _verdicts(rig) != expected_verdicts:
                found.append(f"verdicts {_verdicts(rig)} instead of {expected_verdicts}")
            wrong += [f"{moment} step {number} ({name}): {difference}" for difference in found]
    assert len(names) > 10  # it did run in steps
    return wrong


@pytest.mark.parametrize("shards", [1, 3])
def test_a_drain_killed_at_any_step_is_made_good_by_the_next(make_rig: MakeRig, shards: int) -> None:
    """Rows, inboxes, logs and cursors are those of an undisturbed run, wherever the first drain was killed."""
    rig = make_rig(outbox_shards=shards)

    def kill(worker: Worker, number: int, moment: Moment) -> None:
        worker.steps.crash_at(number, moment)
        worker.run()

    wrong = _interrupt_at_every_step(rig, kill)

    assert not wrong, "\n".join(wrong)


def test_a_drain_stopped_at_any_step_and_woken_after_another_finished_changes_nothing(make_rig: MakeRig) -> None:
    """Whatever a drain still does after its lease was lost and its batch was settled by another is without effect."""
    rig = make_rig(outbox_shards=2)

    def stop_and_wake(worker: Worker, number: int, moment: Moment) -> None:
        if moment == "part" or not worker.start_until_paused(number, moment):
            return
        rig.expire_leases()
        rig.drain()
        worker.wake_and_join()

    wrong = _interrupt_at_every_step(rig, stop_and_wake)

    assert not wrong, "\n".join(wrong)


def test_what_was_accepted_while_a_drain_was_stopped_is_not_lost(make_rig: MakeRig) -> None:
    """A drain woken after another has settled its batch takes nothing out of the outbox that came since, at any step."""
    rig = make_rig(outbox_shards=1)
    _prepare(rig)
    counting = rig.worker()
    assert counting.run()
    lost = []
    for number, name in enumerate(list(counting.steps.names), 1):
        _prepare(rig)
        late = [rig.build_send(1, 2, f"late {i}", created_at_ms=_NOW_MS) for i in range(12)]
        stopped = rig.worker()
        if stopped.start_until_paused(number, "after"):
            rig.expire_leases()
            rig.drain()
            rig.accept(*late)
            stopped.wake_and_join()
        else:
            rig.accept(*late)
        rig.expire_leases()
        rig.drain()
        decided = {row["id"] for row in rig.rows()}
        if not {request.id for request in late} <= decided:
            lost.append(f"stopped after step {number} ({name})")

    assert not lost, lost


def test_two_drains_at_once_settle_each_request_once(rig: Rig) -> None:
    """Drains that run at the same time share the shards, and every request is decided and shown once."""
    shown = rig.web.connect(2, "a", 2)
    requests = [rig.build_send(1, 2, str(i)) for i in range(60)] + [
        rig.build_send(3, GROUP_ID, str(i), chat_type="group") for i in range(60)
    ]
    rig.accept(*requests)
    workers = [rig.worker(drain_batch_requests=7) for _ in range(2)]

    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rig.expire_leases()
    rig.drain()
    rig.deliver()

    assert len(rig.rows()) == 120
    assert [frame["cursor"] for frame in shown.texts("singleChat")] == list(range(1, 121))


def test_nobody_is_told_of_what_the_disk_does_not_hold(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis has it then already, and the row stands: it is told of once, when the disk is well again."""
    socket = rig.web.connect(2, "a", 2)
    request = rig.build_send(1, 2, "hello")
    rig.accept(request)

    def fail_once_decided(_: Database) -> None:
        if rig.rows():
            raise DatabaseUnavailable("the disk does not sync")

    with monkeypatch.context() as broken:
        broken.setattr(Database, "sync", fail_once_decided)
        for _ in range(2):
            assert not rig.worker().run()
            rig.expire_leases()
    rig.deliver()
    assert rig.row(request.id)["verdict"] == "stored"
    assert (rig.verdicts(), socket.texts("singleChat"), rig.waiting()) == ([], [], [request.encode()])

    rig.drain()
    rig.deliver()

    assert [verdict.message_id for verdict in rig.verdicts()] == [request.id]
    assert [frame["data"]["data"] for frame in socket.texts("singleChat")] == ["hello"]
    assert rig.waiting() == []


# Requests that fail for a reason of their own


def _poison(monkeypatch: pytest.MonkeyPatch, *message_ids: str) -> None:
    verdict_on = _Decision._verdict

    def stumbling(decision: _Decision, request: Request) -> policy.Verdict:
        if request.id in message_ids:
            raise RuntimeError("a rule fell over it")
        return verdict_on(decision, request)

    monkeypatch.setattr(_Decision, "_verdict", stumbling)


def test_a_request_that_always_fails_is_refused_and_its_neighbours_are_delivered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third failure alone gives internal_error, buries the entry, and everybody else's messages arrive in order."""
    socket = rig.web.connect(2, "a", 2)
    requests = [rig.build_send(1, 2, str(i)) for i in range(7)] + [rig.build_send(3, 2, "from 3")]
    _poison(monkeypatch, requests[3].id)
    rig.accept(*requests)

    rig.drain()
    rig.deliver()

    refused = rig.row(requests[3].id)
    assert (refused["verdict"], refused["code"]) == ("refused", "internal_error")
    assert rig.dead() == [requests[3].encode()]
    assert rig.waiting() == []
    assert {verdict.message_id: verdict.code for verdict in rig.verdicts()} == {
        request.id: "internal_error" if request is requests[3] else None for request in requests
    }
    shown = [frame["data"]["data"] for frame in socket.texts("singleChat")]
    assert [text for text in shown if text != "from 3"] == ["0", "1", "2", "4", "5", "6"]
    assert "from 3" in shown


def test_a_message_that_cannot_be_applied_takes_no_news_of_its_neighbours_along(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """News wait for the next trip to Redis: one that is never made, since a message fails before it, must not lose them."""
    rig = make_rig(outbox_shards=1)
    requests = [rig.build_send(1, 2, str(i)) for i in range(4)]
    spread = apply._spread

    def stumbling(shard: int, outcome: Outcome, *rest: Any) -> None:
        if outcome.request.id == requests[3].id:
            raise RuntimeError("its entries cannot be built")
        spread(shard, outcome, *rest)

    monkeypatch.setattr(apply, "_spread", stumbling)
    rig.accept(*requests)

    rig.drain()

    assert {verdict.message_id for verdict in rig.verdicts()} >= {request.id for request in requests[:3]}
    assert rig.waiting() == []
    assert set(rig.dead()) == {requests[3].encode()}


def test_a_poisoned_request_behind_a_small_bound_costs_nobody_else(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searching the request at fault in a batch that is also cut by its deliveries loses and reorders nothing."""
    rig = make_rig(outbox_shards=1, drain_batch_deliveries=4)
    requests = [rig.build_send(1, 2, str(i)) for i in range(16)]
    _poison(monkeypatch, requests[0].id)
    rig.accept(*requests)

    rig.drain()

    stored = [row["id"] for row in rig.rows() if row["verdict"] == "stored"]
    assert stored == [request.id for request in requests[1:]]


@pytest.mark.parametrize("entry", [b"nonsense", b"null", b"[1,2,3]", b"\xff", b"{}", b"[]", b'""'])
def test_an_entry_that_is_no_request_is_buried(make_rig: MakeRig, entry: bytes) -> None:
    """What nobody can read goes to the dead entries, and what stands around it is decided."""
    rig = make_rig(outbox_shards=1)
    before, after = rig.build_send(1, 2, "before"), rig.build_send(1, 2, "after")
    rig.accept(before)
    rig.client.rpush(keys.outbox(0), entry)
    rig.accept(after)

    rig.drain()

    assert [row["id"] for row in rig.rows()] == [before.id, after.id]
    assert rig.dead() == [entry]
    assert rig.waiting() == []


def test_a_send_named_like_a_recall_is_answered(rig: Rig) -> None:
    """A client that names a send `recall:<id>` gets a verdict, also where it has recalled that message."""
    message = rig.build_send(1, 2, "hello")
    rig.accept(message, rig.build_recall(message))
    rig.drain()
    odd = rig.build_send(1, 2, "again", client_msg_id=f"recall:{message.id}")

    rig.accept(odd)
    rig.drain()

    assert [verdict.code for verdict in rig.verdicts() if verdict.wait == (odd.reply_to or ("", 0))[1]] != []
    assert rig.dead() == []


def test_a_fence_lost_while_giving_up_leaves_the_drain_at_work(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain that finds its shard taken when it refuses a failing request drops the shard, as with any other commit."""
    request = rig.build_send(1, 2, "poison")
    _poison(monkeypatch, request.id)
    rig.accept(request)
    stopped = rig.worker()
    assert stopped.start_until_paused_at("sql: write", "before", which=2)  # the first one drew the fence
    rig.expire_leases()
    other = rig.worker()
    other.steps.crash_at(5, "after")  # it has drawn a fence
    other.run()

    stopped.wake_and_join()

    assert stopped.is_content


def test_a_drain_that_gets_no_fence_gives_its_leases_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one serves at once, and need not wait until they run out."""

    def fail(*_: object) -> int:
        raise DatabaseUnavailable("locked")

    rig.accept(rig.build_send(1, 2, "hello"))
    with monkeypatch.context() as locked:
        locked.setattr(shards, "draw_fence", fail)
        assert not rig.worker().run()

    rig.drain()

    assert rig.waiting() == []


# Bounds


def test_the_deliveries_bound_splits_a_batch(make_rig: MakeRig) -> None:
    """A batch ends before the request that would exceed its deliveries; nothing is lost, and the order stays."""
    rig = make_rig(outbox_shards=1, drain_batch_deliveries=7)
    requests = [rig.build_send(1, GROUP_ID, str(i), chat_type="group") for i in range(5)]  # 3 deliveries each
    requests += [rig.build_send(1, 2, str(i)) for i in range(5)]  # 2 each
    rig.accept(*requests)
    worker = rig.worker()

    assert worker.run()

    commits = sum(name == "sql: write" for name in worker.steps.names) - 1  # but one, that drew the fence
    assert commits == 4  # of 2, 2, 1 + 2 and 3 requests: 6, 6, 7 and 6 deliveries
    assert [row["id"] for row in rig.rows()] == [request.id for request in requests]


def test_one_request_above_the_bound_is_a_batch_of_its_own(make_rig: MakeRig) -> None:
    """A message to a group larger than the bound is settled all the same."""
    rig = make_rig(user_count=6, outbox_shards=1, drain_batch_deliveries=2)
    requests = [rig.build_send(1, GROUP_ID, str(i), chat_type="group") for i in range(3)]
    rig.accept(*requests)

    rig.drain()

    assert [row["seq"] for row in rig.rows()] == [1, 2, 3]


# Recalls


@pytest.mark.parametrize("chat_type", ["single", "group"])
def test_a_message_recalled_in_its_own_batch_is_stored_as_a_tombstone(rig: Rig, chat_type: Any) -> None:
    """Whoever reads it later finds a tombstone and then the recall, in the inbox, the log and SQL."""
    for user_id in (1, 2):
        rig.web.connect(user_id, "a", 2).abort()  # so that they have an inbox, and their logs begin
    message = rig.build_send(1, GROUP_ID if chat_type == "group" else 2, "secret", chat_type=chat_type)
    rig.accept(message, rig.build_recall(message))

    rig.drain()

    shown = [frame["data"] for frame in rig.web.connect(2, "a", 2).texts("singleChat")]
    assert [(m["id"], m["isremove"], m.get("actionType")) for m in shown] == [
        (message.id, 1, None),
        (message.id, 0, "revoke"),
    ]
    logs = rig.keys_like("chatlog:*")
    assert logs
    assert all(b"secret" not in entry for entries in logs.values() for entry in entries)


def test_a_message_recalled_twice_in_one_batch_is_recalled_once(rig: Rig) -> None:
    """The second recall, by the group's owner, is told that the message is recalled already (D7)."""
    message = rig.build_send(2, GROUP_ID, "secret", chat_type="group")
    rig.accept(message)
    rig.drain()
    recalls = [rig.build_recall(message), rig.build_recall(message, by=1)]
    rig.accept(*recalls)

    rig.drain()

    assert [rig.row(recall.id)["code"] for recall in recalls] == [None, "already_recalled"]


def test_a_recall_leaves_the_messages_that_mention_its_target(rig: Rig) -> None:
    """A message whose options carry the id of another is not mistaken for it when that one is recalled."""
    message = rig.build_send(1, 2, "secret")
    quoting = rig.build_send(2, 1, "an answer", options={"id": message.id})
    rig.accept(message, quoting)
    rig.drain()

    rig.accept(rig.build_recall(message))
    rig.drain()

    for entries in rig.keys_like("chatlog:*").values():
        assert b"secret" not in entries[0]
        assert b"an answer" in entries[1]


# Changes that were answered


def test_nothing_is_stored_that_is_committed_after_a_block_was_answered(rig: Rig) -> None:
    """A drain that was stopped between reading its facts and committing does not let a blocked sender through (G5)."""
    request = rig.build_send(1, 2, "too late")
    rig.accept(request)
    stopped = rig.worker()
    assert stopped.start_until_paused_at("sql: write", "before", which=2)  # the first one drew the fence

    rig.set_friend(2, 1, is_friend=False)
    stopped.wake_and_join()
    rig.expire_leases()
    rig.drain()

    assert rig.row(request.id)["verdict"] == "refused"


def test_a_result_never_passes_entries_that_its_socket_lacks(rig: Rig) -> None:
    """A socket that presence has forgotten gets its result in its place among the entries, not with a cursor ahead of them."""
    socket = rig.web.connect(1, "a", 2)
    rig.client.delete(keys.online(1))
    rig.accept(rig.build_send(2, 1, "missed"))
    rig.drain()
    message = {"sendto_id": 2, "chatType": "single", "type": "text", "data": "mine", "clientMsgId": "m"}
    socket.say_json({"type": "send", "ref": 1, "message": message})
    rig.drain()

    rig.deliver()

    placed = [(frame.json["type"], frame.json["cursor"]) for frame in socket.frames if "cursor" in frame.json]
    assert placed == [("hello", 0), ("singleChat", 1), ("sendResult", 2)]


# Redis has lost its data


def test_a_device_that_joined_at_the_newest_entry_stays_there_when_redis_was_emptied(rig: Rig) -> None:
    """A second device never gets what stood before its first login, also not by a rebuild."""
    rig.web.connect(2, "a", 2).abort()
    rig.accept(*(rig.build_send(1, 2, f"before {i}") for i in range(3)))
    rig.drain()
    second = rig.web.connect(2, "b", 1)
    rig.accept(rig.build_send(1, 2, "after"))
    rig.drain()
    rig.deliver()
    second.say(second.frames[-1].payload, opcode=0xA)
    rig.web.checkpoint()
    second.abort()
    rig.server.empty()

    texts = [frame["data"]["data"] for frame in rig.web.connect(2, "b", 1).texts("singleChat")]

    assert texts == []


def test_a_device_that_never_acknowledged_keeps_its_tail_when_redis_was_emptied(rig: Rig) -> None:
    """What came after a second device's first login and it has not acknowledged comes again from SQL."""
    first = rig.web.connect(2, "a", 2)
    rig.accept(rig.build_send(1, 2, "zero"))
    rig.drain()
    rig.deliver()
    first.say_json({"type": "ack", "cursor": 1})
    rig.web.connect(2, "b", 1)
    rig.web.checkpoint()
    rig.accept(rig.build_send(1, 2, "one"))
    rig.drain()
    rig.lose()
    first.say_json({"type": "ack", "cursor": 2})
    rig.web.checkpoint()
    rig.server.empty()

    texts = [frame["data"]["data"] for frame in rig.web.connect(2, "b", 1).texts("singleChat")]

    assert texts == ["one"]


@pytest.mark.parametrize("others", [(), ("b",)], ids=["alone", "beside a slower device"])
def test_what_was_acknowledged_a_moment_ago_does_not_come_again(rig: Rig, others: tuple[str, ...]) -> None:
    """Acknowledgements wait to be told together; a device that comes back without a cursor meanwhile is not shown it again.

    Nor is it told of a gap where nobody else lacks it, so that it has left the inbox.
    """
    first = rig.web.connect(2, "a", 2)
    for device in others:
        rig.web.connect(2, device, 2).abort()
    rig.accept(*(rig.build_send(1, 2, str(i)) for i in range(3)))
    rig.drain()
    rig.deliver()
    first.say_json({"type": "ack", "cursor": 2})

    back = rig.web.connect(2, "a", 2)

    assert [frame["data"]["data"] for frame in back.texts("singleChat")] == ["2"]
    assert back.texts("reset") == []


def test_acknowledgements_are_told_together_and_none_is_forgotten(rig: Rig) -> None:
    """Each that is told alone has Redis sync the disk once more: two of a connection in a row are told as one, the last."""
    sockets = {user_id: rig.web.connect(user_id, "a", 2) for user_id in (2, 3)}
    rig.accept(*(rig.build_send(1, user_id, str(i)) for i in range(3) for user_id in sockets))
    rig.drain()
    rig.deliver()

    def told() -> list[int]:
        return [int(rig.cursor_state(user_id)["d:a"]) for user_id in sockets]

    for socket in sockets.values():
        socket.say_json({"type": "ack", "cursor": 1})
    before = told()
    rig.web.office._tell_waiting()
    at_first = told()
    for cursor in (2, 3):
        sockets[2].say_json({"type": "ack", "cursor": cursor})
    rig.web.office._tell_waiting()
    too_soon = told()
    for connection in rig.web.registry.of_user(2):
        connection.tell_at = 0.0
    rig.web.office._tell_waiting()

    assert (before, at_first, too_soon, told()) == ([0, 0], [1, 1], [1, 1], [3, 1])


def test_an_acknowledgement_under_way_when_redis_was_emptied_acknowledges_nothing_new(rig: Rig) -> None:
    """A cursor of the epoch before, that crosses the news of the loss, does not count for the entries of the new epoch."""
    socket = rig.web.connect(2, "a", 2)
    rig.accept(*(rig.build_send(1, 2, str(i)) for i in range(3)))
    rig.drain()
    rig.deliver()
    rig.server.empty()
    rig.web.compare()

    socket.say_json({"type": "ack", "cursor": 3})  # written before the client knew
    socket.abort()

    assert len(rig.web.connect(2, "a", 2).texts("singleChat")) == 3


def test_a_connection_whose_inbox_a_drain_has_rebuilt_comes_back_for_all_of_it(rig: Rig) -> None:
    """It is sent away with a code that lets it return, is told of the new epoch, and gets what it has not acknowledged."""
    socket = rig.web.connect(2, "a", 2)
    rig.accept(*(rig.build_send(1, 2, str(i)) for i in range(5)))
    rig.drain()
    rig.deliver()
    socket.say_json({"type": "ack", "cursor": 5})
    rig.web.checkpoint()
    former = socket.texts("hello")[0]["epoch"]
    rig.server.empty()
    rig.accept(rig.build_send(1, 2, "after"))
    rig.drain()
    rig.lose()
    rig.web.compare()
    assert socket.close_code == 1012

    back = rig.web.connect(2, "a", 2, Resume(5, former))

    assert [(frame["from"], frame["to"]) for frame in back.texts("reset")] == [(1, 0)]
    assert [(frame["cursor"], frame["data"]["data"]) for frame in back.texts("singleChat")] == [(1, "after")]


def test_rebuilding_an_inbox_while_a_recall_is_applied_leaves_a_tombstone(rig: Rig) -> None:
    """Rows read before the recall was committed do not bring the recalled text back."""
    message = rig.build_send(1, 2, "secret")
    rig.accept(message)
    rig.drain()
    rig.server.empty()
    opening = load_inbox(rig.database, 2, 100)
    rig.accept(rig.build_recall(message))
    stopped = rig.worker()
    assert stopped.start_until_paused_at("redis: tombstone", "after")

    run(rig.client, [opening])
    stopped.wake_and_join()

    assert rig.web.connect(2, "a", 2).texts("singleChat")[0]["data"]["isremove"] == 1
