"""Random histories on the real parts, compared with the reference: sends, recalls, blocks, clients that come and go, drains
that die, race or sleep, a Redis that is killed or emptied.

`MODEL_EXAMPLES=100` runs 100 histories of up to 50 steps on SQLite (15 without it), a third of that on PostgreSQL. A failure
prints the shortest history found and a blob that repeats it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from models import positions
from models.bodies import Message
from models.database import Database
from models.requests import ChatType
from models.store import keys
from tests.model.reference import Client, Key, Reference, is_entitled, key_of
from tests.model.rig import GROUP_ID, Moment, RedisServer, Rig, Socket, Worker, raising_greenlets
from webapp.sockets.office import Resume

_EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "15"))
_IS_SHRINKING = os.environ.get("MODEL_SHRINK", "1") != "0"  # 0: show the first failure as it was found
_USERS = (1, 2, 3)
_PROTOCOLS = {(1, "a"): 1, (1, "b"): 2, (2, "a"): 2, (2, "b"): 2, (3, "a"): 1, (3, "b"): 1}

_users = st.sampled_from(_USERS)
_devices = st.sampled_from("ab")
_pairs = st.sampled_from([(1, 2), (2, 1), (3, 2), (1, 0), (2, 0)])  # sender and recipient, 0 = the group
_which = st.integers(0, 1_000)
_steps = st.integers(1, 24)
_moments: st.SearchStrategy[Moment] = st.sampled_from(["before", "part", "after"])
_news = st.sampled_from(["deliver", "deliver", "keep", "lose"])


@dataclass(slots=True)
class Link:
    """One connection of a client: what it was shown, and which pings it got."""

    socket: Socket
    read: int = 0
    hello: dict[str, Any] = field(default_factory=dict)
    shown: set[Key] = field(default_factory=set)
    order: list[Key] = field(default_factory=list)
    pings: list[tuple[bytes, set[Key]]] = field(default_factory=list)  # payload, and what it covers
    answered: int = 0  # pings answered
    is_from_future: bool = False  # its client claimed a cursor that was never given
    reset_to: int | None = None
    is_orphan: bool = False  # presence forgot it with Redis's data: it is sent away when it reads, not replaced


class DeliveryMachine(RuleBasedStateMachine):
    def __init__(self, server: RedisServer, database: Database) -> None:
        super().__init__()
        self._server, self._database = server, database
        self.paused: Worker | None = None

    @initialize(
        inbox_max=st.sampled_from([60, 5]),
        log_max=st.sampled_from([60, 2]),
        batch=st.sampled_from([256, 3]),
        connected=st.sampled_from([6, 3, 0]),
    )
    def begin(self, inbox_max: int, log_max: int, batch: int, connected: int) -> None:
        self.inbox_max = inbox_max
        self.rig = Rig(
            self._server,
            self._database,
            inbox_max_entries=inbox_max,
            chatlog_max_entries=log_max,
            drain_batch_requests=batch,
        )
        self.rig.reset()
        self.reference = Reference()
        self.texts: dict[str, set[str]] = {}
        self.names: dict[int, list[str]] = {user_id: [] for user_id in _USERS}
        self.clients = {place: Client(*place, protocol) for place, protocol in _PROTOCOLS.items()}
        self.links: dict[tuple[int, str], list[Link]] = {place: [] for place in _PROTOCOLS}  # the last one is live
        self.epochs: dict[int, str] = {}
        self.workers = [self.rig.worker(), self.rig.worker()]
        self.count = 0
        self.restarts = self.losses = 0
        for place in list(_PROTOCOLS)[:connected]:
            self.connect(*place, resume="none")

    # What is sent

    @rule(
        sender_id=_users,
        device=_devices,
        to=st.sampled_from([0, *_USERS]),
        named=st.booleans(),
        socket=st.booleans(),
        count=st.integers(1, 4),
    )
    def send(self, sender_id: int, device: str, to: int, named: bool, socket: bool, count: int) -> None:
        if to == sender_id:
            to = 0
        for _ in range(count):
            self.count += 1
            name = f"m{self.count}" if named else None
            if name:
                self.names[sender_id].append(name)
            self._send(sender_id, device, to, f"text {self.count}", name, over_socket=socket)

    @rule(news=_news, pair=_pairs, count=st.integers(1, 3))
    def send_and_drain(self, news: str, pair: tuple[int, int], count: int) -> None:
        self.send(pair[0], "a", pair[1], True, False, count)
        self.drain(count % 2, news)

    @rule(pair=_pairs, is_drained_between=st.booleans())
    def send_and_recall(self, pair: tuple[int, int], is_drained_between: bool) -> None:
        self.send(pair[0], "b", pair[1], False, False, 1)
        if is_drained_between:
            self.drain(0, "keep")
        self.recall(0)
        self.drain(1, "keep")

    @rule(sender_id=_users, device=_devices, which=_which, change=st.sampled_from(["nothing", "text", "recipient"]))
    def repeat(self, sender_id: int, device: str, which: int, change: str) -> None:
        """Use an earlier clientMsgId again."""
        if not self.names[sender_id]:
            return
        name = self.names[sender_id][which % len(self.names[sender_id])]
        first = next(r for r in self.reference.accepted if r.client_msg_id == name and r.sender_id == sender_id)
        to = 0 if first.chat_type == "group" else first.to_id
        if change == "recipient":
            to = next(user_id for user_id in (0, *_USERS) if user_id not in (to, sender_id))
        text = first.data + " changed" if change == "text" else first.data
        self._send(sender_id, device, to, text, name, over_socket=False)

    def _send(self, sender_id: int, device: str, to: int, text: str, name: str | None, *, over_socket: bool) -> None:
        chat_type: ChatType = "group" if to == 0 else "single"
        request = self.rig.build_send(
            sender_id, to or GROUP_ID, text, chat_type=chat_type, client_msg_id=name, device=device
        )
        self.texts.setdefault(request.id, set()).add(text)
        links = self.links[sender_id, device]
        if over_socket and name and links and self.clients[sender_id, device].protocol == 2:
            message = {"sendto_id": request.to_id, "chatType": chat_type, "type": "text", "data": text}
            links[-1].socket.say_json({"type": "send", "ref": name, "message": {**message, "clientMsgId": name}})
        else:
            self.rig.accept(request)
        self.reference.accept(request, self._decided())

    @rule(which=_which)
    def recall(self, which: int) -> None:
        sent = [request for request in self.reference.accepted if request.kind == "send"]
        if sent:
            request = self.rig.build_recall(sent[-1 - which % min(len(sent), 6)])
            self.rig.accept(request)
            self.reference.accept(request, self._decided())

    @rule(pair=st.sampled_from([(1, 2), (2, 1), (2, 3), (3, 1)]))
    def block_or_unblock(self, pair: tuple[int, int]) -> None:
        is_blocked = pair not in self.reference.is_blocked
        self.rig.set_friend(*pair, is_friend=not is_blocked)
        racing = self.paused is not None
        self.reference.change(*pair, is_blocked=is_blocked, decided=self._decided(), is_racing=racing)

    # Drains

    @rule(which=st.integers(0, 1), news=_news)
    def drain(self, which: int, news: str) -> None:
        if self.paused is None:
            self.rig.expire_leases()
        assert self._awake(which).run()
        self._news(news)

    @rule(which=st.integers(0, 1), number=_steps, moment=_moments)
    def drain_and_die(self, which: int, number: int, moment: Moment) -> None:
        if self.paused is None:
            self.rig.expire_leases()
        worker = self._awake(which)
        worker.steps.crash_at(number, moment)
        if worker.run():
            worker.steps.run_on()
        else:
            self.workers[self.workers.index(worker)] = self.rig.worker()

    @precondition(lambda self: self.paused is None)
    @rule(news=_news)
    def drain_twice_at_once(self, news: str) -> None:
        self.rig.expire_leases()
        for worker in self.workers:
            worker.start()
        for worker in self.workers:
            worker.join()
            assert worker.is_content
        self._news(news)

    @precondition(lambda self: self.paused is None)
    @rule(which=st.integers(0, 1), number=_steps, moment=st.sampled_from(["before", "after"]))
    def stop_a_drain(self, which: int, number: int, moment: Moment) -> None:
        self.rig.expire_leases()
        worker = self.workers[which]
        if worker.start_until_paused(number, moment):
            self.paused = worker
        else:
            worker.steps.run_on()

    @precondition(lambda self: self.paused is not None)
    @rule()
    def lose_leases(self) -> None:
        self.rig.expire_leases()

    @precondition(lambda self: self.paused is not None)
    @rule()
    def wake_the_drain(self) -> None:
        if self.paused is not None:
            worker, self.paused = self.paused, None
            worker.wake_and_join()

    @precondition(lambda self: self.paused is None)
    @rule(number=_steps, moment=st.sampled_from(["before", "after"]), news=_news, late=st.integers(0, 5))
    def overtake_a_drain(self, number: int, moment: Moment, news: str, late: int) -> None:
        """Stop a drain, let another finish its work, accept more, and wake it."""
        self.send(1, "a", 2, True, False, 2)
        self.stop_a_drain(0, number, moment)
        self.rig.expire_leases()
        self.drain(1, news)
        self.send(1, "a", 2, True, False, late)
        self.wake_the_drain()

    def _awake(self, which: int) -> Worker:
        worker = self.workers[which]
        return self.workers[1 - which] if worker is self.paused else worker

    # News

    @rule(is_heard=st.booleans())
    def compare(self, is_heard: bool) -> None:
        if is_heard:
            self._news("deliver")
        self.rig.web.compare()
        self._consume_all()

    @rule()
    def checkpoint(self) -> None:
        self.rig.web.checkpoint()

    def _news(self, what: str) -> None:
        if what == "deliver":
            self.rig.deliver()
        elif what == "lose":
            self.rig.lose()
        self._consume_all()

    # Clients

    @rule(user_id=_users, device=_devices, resume=st.sampled_from(["mine", "mine", "none", "future", "other epoch"]))
    def connect(self, user_id: int, device: str, resume: str) -> None:
        client, links = self.clients[user_id, device], self.links[user_id, device]
        is_late = False
        if not client.is_known:
            is_late = self.losses == 0 and any(c.is_known for c in self.clients.values() if c.user_id == user_id)
            client.excused |= self._before_the_first_login(user_id)
        claim = None
        # Without a cursor there is none to come back with: it was shown nothing since it asked for what it lacks.
        if client.protocol == 2 and resume != "none" and client.epoch and client.cursor >= 0:
            cursor = client.cursor + (1_000 if resume == "future" else 0)
            claim = Resume(cursor, "0" * 8 if resume == "other epoch" else client.epoch)
        is_of_epoch = claim is not None and claim.epoch == self._epoch(user_id)
        is_mine = is_of_epoch and resume == "mine"
        if is_mine and self._base(user_id) <= client.cursor:
            client.acknowledged |= {key for cursor, key in client.by_cursor.items() if cursor <= client.cursor}
        elif claim is None and client.protocol == 2:
            client.cursor = -1  # it asks for what it has not acknowledged
        after = client.cursor
        link = Link(self.rig.web.connect(user_id, device, client.protocol, claim))
        link.is_from_future = is_of_epoch and resume == "future"
        client.is_known = True
        links.append(link)
        self._consume(client, link)
        assert not (is_late and link.shown), f"{client}: a later device starts at the newest entry"
        self._check_replay(client, link, after if is_mine else None)
        if client.protocol == 2:
            for former in links[:-1]:
                assert former.is_orphan or former.socket.close_code == 4409
                former.socket.abort()
            del links[:-1]
        self._consume_all()

    def _before_the_first_login(self, user_id: int) -> set[Key]:
        """Return what a new device need not get: the first of a user starts at the oldest entry, others at the newest."""
        if any(client.is_known for client in self.clients.values() if client.user_id == user_id):
            return {key_of(row) for row in self._stored()}
        state = self.rig.cursor_state(user_id)
        applied = [row for row in self._stored() if row["shard_seq"] <= int(state.get(f"s:{row['shard']}", "0"))]
        return {key_of(row) for row in applied} - set(self._inbox(user_id).values())

    @rule(which=_which)
    def disconnect(self, which: int) -> None:
        """Close the live connection; an older one of a legacy client becomes live again."""
        client = self._some_live(which)
        if client is not None:
            self.links[client.user_id, client.device].pop().socket.abort()
            self.rig.web.let_run()
            self._consume_all()

    def _some_live(self, which: int, protocol: int | None = None) -> Client | None:
        live = [c for place, c in self.clients.items() if self.links[place] and protocol in (None, c.protocol)]
        return live[which % len(live)] if live else None

    @rule(which=_which, is_old=st.booleans())
    def answer_ping(self, which: int, is_old: bool) -> None:
        client = self._some_live(which, 1)
        if client is None or not self.links[client.user_id, client.device][-1].pings:
            return
        link = self.links[client.user_id, client.device][-1]
        if is_old or link.answered == len(link.pings):
            link.socket.say(link.pings[max(link.answered - 1, 0)][0] if link.answered else b"0000:1", opcode=0xA)
            link.socket.abort()  # and what that pong did not acknowledge comes again
            self.links[client.user_id, client.device].pop()
            self.rig.web.let_run()
            self.connect(client.user_id, client.device, resume="none")
        else:
            payload, covered = link.pings[-1]
            link.answered = len(link.pings)
            link.socket.say(payload, opcode=0xA)
            self._acknowledge(client, covered)
        self._consume_all()

    @rule(which=_which, back=st.integers(-2, 3))
    def acknowledge(self, which: int, back: int) -> None:
        client = self._some_live(which, 2)
        if client is None:
            return
        cursor = client.cursor - back
        self.links[client.user_id, client.device][-1].socket.say_json({"type": "ack", "cursor": cursor})
        if back >= 0:
            self._acknowledge(client, {key for at, key in client.by_cursor.items() if at <= cursor})

    def _acknowledge(self, client: Client, some: set[Key]) -> None:
        if not self.links[client.user_id, client.device][-1].is_orphan:
            client.acknowledged |= some
        else:
            client.forgotten |= some  # Redis was emptied, and nobody has noticed yet

    # Redis

    @precondition(lambda self: self.restarts < 2)
    @rule()
    def restart_redis(self) -> None:
        self.restarts += 1
        self.rig.server.restart()

    @precondition(lambda self: self.losses < 2 and self.count >= 8 * (1 + self.losses))
    @rule()
    def empty_redis(self) -> None:
        self.losses += 1
        self._consume_all()
        self.check_inboxes()
        self.rig.server.empty()
        self.reference.lose_redis(self._decided())
        stored = {key_of(row) for row in self._stored()}
        for place, client in self.clients.items():
            client.forgotten |= client.acknowledged
            client.acknowledged = set()
            if client.is_known and not self._has_checkpoint(client):
                # Nobody has kept that there is such a device: it begins anew.
                client.excused |= stored
                client.is_known = False
            for former in self.links[place][:-1]:
                former.socket.abort()
            del self.links[place][:-1]
            for link in self.links[place]:
                link.is_orphan = True
        self.epochs.clear()

    def _has_checkpoint(self, client: Client) -> bool:
        with self.rig.database.reading() as connection:
            return any(p.device == client.device for p in positions.load(connection, client.user_id))

    # What clients see

    def _consume_all(self) -> None:
        for place, links in self.links.items():
            for link in links:
                self._consume(self.clients[place], link)
            self.links[place] = [link for link in links if link.socket.is_open]

    def _consume(self, client: Client, link: Link) -> None:
        frames, link.read = link.socket.frames[link.read :], len(link.socket.frames)
        for frame in frames:
            if frame.kind == "ping":
                link.pings.append((frame.payload, set(link.shown)))
            elif frame.json.get("type") == "hello":
                link.hello = frame.json
                if client.epoch != frame.json["epoch"]:
                    client.epoch, client.by_cursor, client.cursor = frame.json["epoch"], {}, -1
            elif frame.json.get("type") == "reset":
                self._take_reset(client, link, frame.json)
            elif frame.json.get("type") in ("singleChat", "sendResult"):
                self._take_message(client, link, frame.json)
        if link.reset_to is not None and client.cursor == -1 and link.socket.is_open:
            client.cursor = link.hello["cursor"] if link.is_from_future else link.reset_to
        link.reset_to, link.is_from_future = None, False

    def _take_reset(self, client: Client, link: Link, frame: Message) -> None:
        if client.epoch != frame["epoch"]:
            client.by_cursor = {}
        client.epoch, client.cursor, link.reset_to = frame["epoch"], -1, frame["to"]
        link.shown.clear()
        still_there = set(self._inbox(client.user_id).values())
        client.excused |= {key_of(row) for row in self._stored()} - still_there - client.seen

    def _take_message(self, client: Client, link: Link, frame: Message) -> None:
        row = {row["id"]: row for row in self._rows()}
        if frame["type"] == "sendResult" and not frame["ok"]:
            assert row[frame["id"]]["code"] == frame["code"] or frame["code"] == "idempotency_conflict"
            return
        message = frame["data"]
        key: Key = (message["id"], "recall" if message.get("actionType") == "revoke" else "message")
        if frame["type"] == "sendResult" and "cursor" not in frame:
            return  # the result of a repeat: its entry was shown long ago
        if frame["type"] == "sendResult" and frame["cursor"] <= client.cursor:
            # Its entry was passed over with a reset, so the result names a place that the client has behind it.
            assert client.by_cursor.get(frame["cursor"], key) == key
            client.seen.add(key)
            return
        is_text = key[1] == "message" and not message["isremove"]
        assert not is_text or message["data"] in self.texts[key[0]]
        if key[1] == "message":
            assert message["seq"] == row[key[0]]["seq"]
        client.see(key, message, link.shown)
        link.order.append(key)
        if client.protocol == 2:
            if client.cursor == -1:
                client.cursor = frame["cursor"] - 1  # the first entry after a reset, or where nothing was claimed
            client.place(frame["cursor"], key)

    def _check_replay(self, client: Client, link: Link, after: int | None) -> None:
        """Check that a new connection was written all that the inbox holds and the device has not, in its order."""
        if not link.socket.is_open:
            return
        entries = self._inbox(client.user_id)
        rows = {key_of(row): row for row in self._stored()}
        theirs = [
            key
            for key in entries.values()
            if is_entitled(rows[key], client.user_id, client.device, client.protocol, _USERS)
        ]
        assert [key for key in theirs if key in link.shown] == link.order, f"{client}: not in the order of the inbox"
        if after is not None:
            expected = {key for cursor, key in entries.items() if cursor > after}
            assert link.shown == expected, f"{client}: resumed after {after}"
        missing = set(theirs) - link.shown - client.acknowledged - client.forgotten - client.excused
        assert after is not None or not missing, f"{client}: not sent again: {missing}"

    # What holds at all times

    @invariant()
    def check_rows(self) -> None:
        self.reference.check_rows(self._rows(), is_final=False)
        rows = {row["id"]: row for row in self._rows()}
        for verdict in self.rig.verdicts():
            is_conflict = verdict.code == "idempotency_conflict"
            assert is_conflict or rows[verdict.message_id]["code"] == verdict.code
        assert self.rig.dead() == []

    @invariant()
    def check_inboxes(self) -> None:
        """Nothing leaves an inbox before each device has seen it, or is told that it was too much."""
        stored = self._stored()
        for user_id in _USERS:
            state = self.rig.cursor_state(user_id)
            if "epoch" not in state:
                continue
            is_rebuilt = self.epochs.get(user_id) != state["epoch"]
            self.epochs[user_id] = state["epoch"]
            entries = self._inbox(user_id)
            there = set(entries.values())
            assert len(there) == len(entries), f"an entry stands twice in the inbox of {user_id}"
            if self.paused is None and not self.rig.waiting():
                self._check_tombstones(user_id, entries)  # a recall that is not applied in full has left none yet
            for client in self.clients.values():
                if client.user_id != user_id or not client.is_known:
                    continue
                is_full = is_rebuilt and int(state["next"]) >= self.inbox_max
                has_overflown = int(state["next"]) > self.inbox_max
                is_behind = has_overflown and int(state["base"]) > int(state.get(f"d:{client.device}", "0"))
                for row in stored:
                    key = key_of(row)
                    is_applied = row["shard_seq"] <= int(state.get(f"s:{row['shard']}", "0"))
                    is_theirs = is_entitled(row, user_id, client.device, client.protocol, _USERS)
                    if is_applied and is_theirs and key not in there | client.seen | client.excused:
                        assert is_behind or is_full, f"{client}: {key} has left the inbox unseen"
                        client.excused.add(key)

    def _check_tombstones(self, user_id: int, entries: dict[int, Key]) -> None:
        raw = self.rig.entries(user_id)
        recalled = {key[0] for key in entries.values() if key[1] == "recall"}
        for key, entry in zip(entries.values(), raw, strict=True):
            if key[1] == "message" and key[0] in recalled and entry.body:
                assert b'"isremove":1' in entry.body, f"{key} stands in full in the inbox of {user_id}, with its recall"
        for log in self.rig.keys_like("chatlog:*_group").values():
            for body in map(orjson.loads, log):
                assert body["id"] not in recalled or body["isremove"], f"{body['id']} stands in full in the group's log"

    # At the end

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        if self.paused is not None:
            worker, self.paused = self.paused, None
            worker.wake_and_join()
        if sys.exc_info()[0] is not None:
            return  # a step has failed: that is what is to be seen
        self.rig.expire_leases()
        self.rig.drain()
        assert self.rig.waiting() == []
        self._news("deliver")
        self.rig.web.compare()
        self._consume_all()
        for place in self.clients:
            self.connect(*place, resume="mine")
        self.check_rows()
        self.check_inboxes()
        self.reference.check_rows(self._rows(), is_final=True)
        for client in self.clients.values():
            due = {
                key_of(row)
                for row in self._stored()
                if is_entitled(row, client.user_id, client.device, client.protocol, _USERS)
            }
            assert due <= client.seen | client.excused, f"{client}: lost {due - client.seen - client.excused}"
        for links in self.links.values():
            for link in links:
                link.socket.abort()
        self.rig.web.let_run()

    # Reading what stands

    def _rows(self) -> list[dict[str, Any]]:
        return self.rig.rows()

    def _stored(self) -> list[dict[str, Any]]:
        return [row for row in self._rows() if row["verdict"] == "stored"]

    def _decided(self) -> set[str]:
        return {row["id"] for row in self._rows()}

    def _inbox(self, user_id: int) -> dict[int, Key]:
        """Return what the inbox holds, by cursor."""
        places = {(row["shard"], row["shard_seq"]): key_of(row) for row in self._rows()}
        base = self._base(user_id)
        return {
            cursor: places[entry.shard, entry.position]
            for cursor, entry in enumerate(self.rig.entries(user_id), base + 1)
        }

    def _base(self, user_id: int) -> int:
        return int(self.rig.cursor_state(user_id).get("base", "0"))

    def _epoch(self, user_id: int) -> str:
        return (cast(bytes | None, self.rig.client.hget(keys.cursor(user_id), "epoch")) or b"").decode()


def _run(server: RedisServer, database: Database, examples: int) -> None:
    with raising_greenlets() as errors:
        run_state_machine_as_test(
            cast(type[RuleBasedStateMachine], lambda: DeliveryMachine(server, database)),
            settings=settings(
                max_examples=examples,
                stateful_step_count=50,
                deadline=None,
                phases=[phase for phase in Phase if phase is not Phase.shrink or _IS_SHRINKING],
                print_blob=True,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    assert not errors


@pytest.mark.timeout(max(900, 30 * _EXAMPLES))
def test_delivery_keeps_its_promises(redis_server: RedisServer, rig_database: Database) -> None:
    """Whatever happens in whatever order, what clients see is what the reference allows."""
    is_sqlite = rig_database.is_sqlite
    _run(redis_server, rig_database, _EXAMPLES if is_sqlite else max(_EXAMPLES // 3, 1))
