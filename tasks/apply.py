"""Apply: put what was decided into Redis, and collect the news of it for the web processes.

Everything here may be repeated: inboxes and logs ignore the positions they have, and an entry that was appended by an
earlier try is told of again, as something to be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from models.database import Database
from models.errors import StoreUnavailable
from models.store import bus, chatlog, inbox, presence
from models.store.connection import Client, Command, run
from settings import Settings
from tasks.decide import Outcome
from tasks.rebuild import load_inbox

_CHUNK = 400  # appends per round trip: about 5 ms of Redis's time, in which nobody else is served


@dataclass(slots=True)
class News:
    """Publications under way, one per web process."""

    by_process: dict[str, bus.Publication] = field(default_factory=dict)

    def of(self, process_id: str) -> bus.Publication:
        found = self.by_process.get(process_id)
        if found is None:
            found = self.by_process[process_id] = bus.Publication()
        return found

    def commands(self) -> list[Command]:
        return bus.publish_commands(self.by_process.items())


@dataclass(frozen=True, slots=True)
class _Written:
    """One entry of an append: whose news it is, and what to tell of it. Shared by all recipients of a message."""

    outcome: Outcome
    body: bytes
    is_own: bool
    entry: inbox.LogEntry


class Applier:
    def __init__(self, settings: Settings, database: Database, client: Client) -> None:
        self._inbox_max = settings.inbox_max_entries
        self._log_max = settings.chatlog_max_entries
        self._database = database
        self._client = client

    def apply(
        self,
        decided: Mapping[int, Sequence[Outcome]],
        keep_leases: Callable[[], None],
        together_with: Sequence[Command] = (),
    ) -> News:
        """Write logs and inboxes, and give the news. `keep_leases` is called between round trips.

        together_with: what else Redis is to be told, which goes out with the first of them

        Raises StoreUnavailable, DatabaseUnavailable: some of it may be written; repeating is safe.
        """
        news = News()
        written: dict[tuple[int, int], list[_Written]] = {}  # by user and shard, in order of position
        cursors: dict[str, tuple[int, str]] = {}
        for shard, outcomes in decided.items():
            for outcome in _each_once(outcomes):
                _spread(shard, outcome, written)
        # Before the inbox entries that refer to them, in the same round trip.
        first = [*together_with, *self._group_log_commands(decided)]
        # Beside what Redis syncs itself: nobody is told before both are through.
        sync: Callable[[], None] | None = self._database.sync
        todo = list(written.items())
        for start in range(0, max(len(todo), 1), _CHUNK):
            chunk = todo[start : start + _CHUNK]
            for ((user_id, _), entries), answer in zip(chunk, self._append(chunk, first, sync), strict=True):
                _note_deliveries(news, user_id, answer, entries, cursors)
            first, sync = [], None
            keep_leases()
        self._leave_tombstones(decided)
        self._note_verdicts(news, [outcome for outcomes in decided.values() for outcome in outcomes], cursors)
        return news

    def _group_log_commands(self, decided: Mapping[int, Sequence[Outcome]]) -> list[Command]:
        """Give what writes the groups' logs."""
        logs: dict[int, list[tuple[int, bytes]]] = {}
        for outcomes in decided.values():
            for outcome in _each_once(outcomes):
                row = outcome.row or {}
                if row["group_id"] is not None and row["seq"] is not None:
                    logs.setdefault(row["group_id"], []).append((row["seq"], outcome.body))
        return [chatlog.append_group_command(g, entries, log_max=self._log_max) for g, entries in logs.items()]

    def _leave_tombstones(self, decided: Mapping[int, Sequence[Outcome]]) -> None:
        """Replace what was recalled. After the appends: only these make sure that there is an inbox to replace it in."""
        targets = [o.target for outcomes in decided.values() for o in _each_once(outcomes) if o.target is not None]
        run(self._client, [command for target in targets for command in _tombstones(*target)])

    def _append(
        self,
        appends: Sequence[tuple[tuple[int, int], list[_Written]]],
        first: list[Command],
        meanwhile: Callable[[], None] | None,
    ) -> list[inbox.Appended]:
        commands = [
            inbox.append_command(
                user_id, shard, [w.entry for w in entries], inbox_max=self._inbox_max, log_max=self._log_max
            )
            for (user_id, shard), entries in appends
        ]
        answers = list(map(inbox.Appended.parse, run(self._client, [*first, *commands], meanwhile)[len(first) :]))
        closed = [index for index, answer in enumerate(answers) if not answer.epoch]
        if closed:
            users = {appends[index][0][0] for index in closed}
            run(self._client, [load_inbox(self._database, user_id, self._inbox_max) for user_id in users])
            for index, answer in zip(closed, run(self._client, [commands[index] for index in closed]), strict=True):
                answers[index] = inbox.Appended.parse(answer)
        return answers

    def _note_verdicts(self, news: News, outcomes: Sequence[Outcome], cursors: Mapping[str, tuple[int, str]]) -> None:
        refused: list[Outcome] = []
        for outcome in outcomes:
            # Of what has no row the id is that of another send, which stands: only who waits is told of a conflict.
            if outcome.code is not None and outcome.row is not None and outcome.request.kind == "send":
                refused.append(outcome)
            if outcome.request.reply_to is None:
                continue
            process_id, wait = outcome.request.reply_to
            publication = news.of(process_id)
            place = publication.place(outcome.sender_body) if outcome.code is None else -1
            cursor, epoch = cursors.get(outcome.request.id, (0, ""))
            publication.verdicts.append(bus.Verdict(wait, outcome.request.id, outcome.code, place, cursor, epoch))
        if refused:
            self._note_refusals(news, refused)

    def _note_refusals(self, news: News, refused: Sequence[Outcome]) -> None:
        """Tell the device that sent, wherever its socket lives: a stored message reaches it through its inbox."""
        requests = [outcome.request for outcome in refused]
        commands = [presence.find_command(request.sender_id, request.device) for request in requests]
        for outcome, answer in zip(refused, run(self._client, commands), strict=True):
            live = presence.live_connection(answer)
            if live is not None:
                request, code = outcome.request, outcome.code or ""
                refusal = bus.Refusal(request.sender_id, request.device, request.id, code)
                news.of(presence.process_of(live)).refusals.append(refusal)


def _spread(shard: int, outcome: Outcome, written: dict[tuple[int, int], list[_Written]]) -> None:
    """Note the entry that each owner's inbox gets."""
    request, row = outcome.request, outcome.row or {}
    position, group_id, seq = row["shard_seq"], row["group_id"], row["seq"]
    reference = (group_id, seq) if group_id is not None and seq is not None else None
    # A recall has no place in the log, and a group's log is not the owner's.
    is_logged = group_id is None and seq is not None

    def entry_of(own_device: str | None, peer_id: int, body: bytes) -> inbox.LogEntry:
        entry = inbox.Entry(shard, position, own_device, b"" if reference else body, reference)
        return inbox.LogEntry(entry, peer_id if is_logged else None)

    theirs = _Written(outcome, outcome.body, False, entry_of(None, request.sender_id, outcome.body))
    for owner_id in outcome.recipient_ids:
        written.setdefault((owner_id, shard), []).append(theirs)
    if row["is_to_sender"]:
        # A notice comes from nobody's device, and a group's recall is shown to the recaller too (ORIG 6.5).
        is_own = request.kind == "send" or (request.kind == "recall" and group_id is None)
        own = entry_of(request.device if is_own else None, request.to_id, outcome.sender_body)
        written.setdefault((request.sender_id, shard), []).append(_Written(outcome, outcome.sender_body, is_own, own))


def _each_once(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return what is stored, repeats of the same message left out."""
    stored = {o.request.id: o for o in reversed(outcomes) if o.row is not None and o.code is None}
    return [o for o in outcomes if stored.get(o.request.id) is o]


def _tombstones(target: Mapping[str, object], body: bytes, sender_body: bytes) -> list[Command]:
    row = dict(target)
    message_id, sender_id, recipient_id, group_id, seq = (
        row[name] for name in ("id", "sender_id", "recipient_id", "group_id", "seq")
    )
    if group_id is not None:
        return [chatlog.tombstone_group_command(int(str(group_id)), int(str(seq)), body)]
    shard, position = int(str(row["shard"])), int(str(row["shard_seq"]))
    sides = ((recipient_id, sender_id, body), (sender_id, recipient_id, sender_body))
    return [
        inbox.tombstone_command(int(str(owner)), int(str(peer)), shard, position, str(message_id), left)
        for owner, peer, left in sides
    ]


def _note_deliveries(
    news: News,
    user_id: int,
    answer: inbox.Appended,
    entries: Sequence[_Written],
    cursors: dict[str, tuple[int, str]],
) -> None:
    if not answer.epoch:
        # Emptied again within a millisecond. The batch is done over, from the rows that stand.
        raise StoreUnavailable("an inbox vanished while it was being written")
    live = presence.live_processes(answer.online)
    for entry, cursor in zip(entries, answer.cursors, strict=True):
        request = entry.outcome.request
        if entry.is_own:
            cursors[request.id] = (cursor, answer.epoch)
        for process_id in live:
            publication = news.of(process_id)
            place = publication.place(entry.body) if cursor else -1
            own_id = request.id if request.kind == "send" else None  # a recall's result is the route's answer
            own = (request.device, own_id) if entry.is_own else (None, None)
            publication.deliveries.append(bus.Delivery(user_id, answer.epoch, cursor or answer.newest, place, *own))
