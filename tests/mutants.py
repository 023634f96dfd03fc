"""Deliberate breaks of the delivery core, each of which some test must catch: `python -m tests.mutants [NAME …]`.

Applies one break at a time to a copy of the tree, runs the tests named for it, and prints which one failed first. Exits
non-zero where a break went unnoticed. `test_mutants_fit` keeps the list applicable to the code as it is.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_TIMEOUT_SECONDS = 600

MODEL = ("tests/model",)
CRASHES = ("tests/model/test_drain_crashes.py",)


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    breaks: str  # the guarantee it breaks, and how
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    @property
    def guarantee(self) -> str:
        """`G1` to `G8` of docs/guarantees.md; `-` where it breaks something else."""
        promise = self.breaks.partition(":")[0]
        return promise if re.fullmatch(r"G\d", promise) else "-"


MUTANTS = (
    Mutant(
        "verdict-before-commit",
        "G1: verdicts and inboxes go out, the decision rows are never committed",
        "tasks/decide.py",
        "        if self._rows:\n            self._insert()\n",
        "",
        CRASHES,
    ),
    Mutant(
        "accepted-before-durable",
        "G1: a send is answered before Redis has it",
        "webapp/sockets/registry.py",
        "        self._acceptance.get()\n",
        "",
        ("tests/e2e/test_sending.py::test_nothing_is_accepted_that_redis_has_not_confirmed",),
    ),
    Mutant(
        "pop-before-commit",
        "G1: a batch leaves the outbox before it is decided",
        "tasks/drain.py",
        "        decided = self._decider.decide(",
        "        run(self._client, [outbox.pop_command(s, self._token, len(h.raw)) for s, h in batch.items()])\n"
        "        decided = self._decider.decide(",
        CRASHES,
    ),
    Mutant(
        "told-before-the-sync",
        "G1: a verdict is told of a decision that the disk does not hold yet",
        "tasks/apply.py",
        " = self._database.sync\n",
        " = None\n",
        CRASHES,
    ),
    Mutant(
        "no-fence",
        "G4: a drain that was stopped and woken commits under an old fence",
        "models/shards.py",
        "for shard, (fence, _) in wanted.items() if stands.get(shard, (0, 0))[0] != fence)",
        "for shard in wanted if False)",
        ("tests/models", *MODEL),
    ),
    Mutant(
        "settled-of-a-lost-shard",
        "G1: a drain that has lost a shard pops from it as many as it had settled there before",
        "tasks/drain.py",
        " if shard in self._fences})",
        "})",
        CRASHES,
    ),
    Mutant(
        "heard-across-a-gap",
        "G1: a drain that has missed a ring removes what it was not told of with what it was",
        "tasks/drain.py",
        "            if ring.start != self._ends[ring.shard] or len(head)",
        "            if len(head)",
        ("tests/model/test_drain_hearing.py",),
    ),
    Mutant(
        "pop-without-lease",
        "G1: a drain that was stopped and woken removes what others have accepted since",
        "models/store/scripts/pop.lua",
        "if redis.call('GET', KEYS[2]) ~= ARGV[1] then",
        "if false then",
        ("tests/store", *MODEL),
    ),
    Mutant(
        "position-ignored",
        "G3: a redo appends to inboxes and logs what stands there",
        "models/store/scripts/append.lua",
        "  if position > applied then",
        "  if true then",
        CRASHES,
    ),
    Mutant(
        "group-log-position-ignored",
        "G3: a redo appends to a group's log what stands there",
        "models/store/scripts/append_group.lua",
        "  if seq > newest then",
        "  if true then",
        ("tests/store", *CRASHES),
    ),
    Mutant(
        "acknowledged-beyond-written",
        "G2: an acknowledgement of what was never written is believed",
        "webapp/sockets/connection.py",
        "        if self.acknowledged < cursor <= self.written:",
        "        if self.acknowledged < cursor:",
        ("tests/webapp/test_connection.py", *MODEL),
    ),
    Mutant(
        "gap-written",
        "G2: an entry is written though the one before it was not",
        "webapp/sockets/connection.py",
        "            if cursor == self.written + 1 and body is not None and not self._is_reading:",
        "            if body is not None and not self._is_reading:",
        ("tests/webapp/test_connection.py", *MODEL),
    ),
    Mutant(
        "written-twice",
        "G3: an entry that was written is written again when it is published again",
        "webapp/sockets/connection.py",
        "            if cursor <= self.written:\n                return\n            if cursor == self.written + 1 and",
        "            if cursor <= self.written + 1 and",
        ("tests/webapp/test_connection.py", *MODEL),
    ),
    Mutant(
        "old-pong-believed",
        "G2: any pong acknowledges everything written",
        "webapp/sockets/connection.py",
        '        if self._ping_cursor is None or payload != b"%s:%d" % (self._nonce, self._ping_cursor):\n            return\n',
        "        if self._ping_cursor is None:\n            return\n        self._ping_cursor = self.written\n",
        ("tests/e2e/test_protocol1.py", *MODEL),
    ),
    Mutant(
        "epoch-ignored",
        "G2: a cursor of a lost history acknowledges entries of the new one",
        "models/store/scripts/acknowledge.lua",
        "if state['epoch'] ~= ARGV[1] or not state[mine] then",
        "if not state[mine] then",
        ("tests/store", *MODEL),
    ),
    Mutant(
        "trimmed-to-the-fastest",
        "G2: the inbox forgets what a slower device of the user still lacks",
        "models/store/scripts/acknowledge.lua",
        "    if not lowest or acknowledged < lowest then",
        "    if not lowest or acknowledged > lowest then",
        ("tests/store", *MODEL),
    ),
    Mutant(
        "deleted-after-read",
        "G2: reading an inbox empties it (ORIG B1, B2)",
        "models/store/scripts/read_inbox.lua",
        "return {state[1], tonumber(state[2]), base,",
        "redis.call('LTRIM', KEYS[2], 0, -1 - tonumber(ARGV[2]))\nreturn {state[1], tonumber(state[2]), base,",
        ("tests/store",),
    ),
    Mutant(
        "facts-never-checked",
        "G5: a worker decides on facts it read before a block was answered",
        "models/facts.py",
        "    return len(versions) == len(known) and all(",
        "    return True or all(",
        MODEL,
    ),
    Mutant(
        "first-contact-not-recorded",
        "G5: a stranger's one message is never counted",
        "tasks/decide.py",
        "        if verdict.is_first_contact:",
        "        if False:",
        ("tests/e2e/test_policy_races.py",),
    ),
    Mutant(
        "remark-leaked",
        "G8: the recipient is shown the sender's private remark about him (ORIG C19)",
        "tasks/decide.py",
        "bodies.personalised(message, from_name=from_name)",
        "bodies.personalised(message, from_name=from_name, to_name=to_name)",
        ("tests/e2e/test_original_client.py",),
    ),
    Mutant(
        "presence-not-renewed",
        "ORIG A3: who stays connected for longer than a lease is taken for absent",
        "webapp/sockets/office.py",
        "*presence.renew_commands(users)",
        '*([("PING",)] * len(users))',
        ("tests/model/test_office.py",),
    ),
    Mutant(
        "greetings-without-order",
        "ORIG section 4: the client shows what comes last on top",
        "webapp/sockets/greetings.py",
        "for notice in notices]",
        "for notice in reversed(list(notices))]",
        ("tests/e2e/test_original_client.py",),
    ),
    Mutant(
        "repeat-is-new-content",
        "G3: the same clientMsgId with other content is answered as if it were the first",
        "tasks/decide.py",
        '    if first.row is None or first.row["content_hash"] != request.content_hash():',
        "    if first.row is None:",
        ("tests/e2e/test_sending.py",),
    ),
    Mutant(
        "recall-leaves-the-inbox",
        "G8: a recalled message is still shown to who comes later (ORIG D3)",
        "tasks/apply.py",
        "        self._leave_tombstones(decided)\n",
        "",
        CRASHES,
    ),
    Mutant(
        "rebuild-forgets",
        "G1: what was decided is not put back when Redis has lost its data",
        "tasks/rebuild.py",
        "        if newest > seen:",
        "        if False:",
        CRASHES,
    ),
    Mutant(
        "batch-decided-backwards",
        "G4: what is read together is decided in the reverse of its acceptance",
        "tasks/decide.py",
        "        decided = {shard: [self._outcome(shard, r) for r in requests] for",
        "        decided = {shard: [self._outcome(shard, r) for r in reversed(requests)][::-1] for",
        CRASHES,
    ),
    Mutant(
        "conversation-scattered",
        "G4: the messages of one conversation wait in several lists",
        "webapp/services.py",
        "by_shard.setdefault(shard_of(one.request.conversation, self._shards), []).append(",
        "by_shard.setdefault(shard_of(one.request.id, self._shards), []).append(",
        ("tests/webapp/test_acceptor.py",),
    ),
    Mutant(
        "refusal-untold",
        "G6: a refused send never gets its verdict",
        "tasks/apply.py",
        "            if outcome.request.reply_to is None:",
        "            if outcome.request.reply_to is None or outcome.code is not None:",
        ("tests/e2e/test_sending.py::test_a_repeat_gives_the_first_refusal",),
    ),
    Mutant(
        "reset-left-out",
        "G6: what an inbox could not keep is passed over without a word",
        "webapp/sockets/office.py",
        "        gaps.append((cursor + 1, connected.base))",
        "        pass",
        ("tests/e2e/test_bounds.py::test_an_overflow_is_told",),
    ),
    Mutant(
        "gap-unmarked-while-connected",
        "G6: what an inbox lost behind a connection is passed over without a word",
        "webapp/sockets/connection.py",
        "                data = encode_frame(frames.reset(self.epoch, self.written + 1, page.first - 1))",
        "                pass",
        ("tests/webapp/test_connection.py",),
    ),
    Mutant(
        "dropped-without-code",
        "G6: a protocol 2 client is dropped without being told why",
        "webapp/sockets/connection.py",
        "        if self.protocol == 1:\n            self.transport.abort()",
        "        if True:\n            self.transport.abort()",
        ("tests/e2e/test_protocol2.py::test_a_stopping_process_says_that_it_restarts",),
    ),
    Mutant(
        "restart-closes-cleanly",
        "G6: a protocol 1 client is sent a close frame by a process that stops, and does not come back",
        "webapp/sockets/connection.py",
        "        if self.protocol == 1:\n            self.transport.abort()",
        "        if False:\n            self.transport.abort()",
        ("tests/e2e/test_protocol1.py::test_a_stopping_process_drops_its_connections",),
    ),
    Mutant(
        "outbox-unbounded",
        "G7: a reader who stops reading fills the memory of his web process",
        "webapp/sockets/transport.py",
        "        elif self.unsent_bytes + len(data) > self._max_unsent_bytes:",
        # Not without any end: the tests that fill it would take this machine's memory.
        "        elif self.unsent_bytes + len(data) > 20 * self._max_unsent_bytes:",
        ("tests/webapp/test_transport.py",),
    ),
    Mutant(
        "inbox-unbounded",
        "G7: the inbox of somebody who never comes back grows for ever",
        "models/store/scripts/append.lua",
        "if length > inbox_max then",
        "if false then",
        ("tests/store/test_scripts.py::test_an_overflow_drops_the_oldest",),
    ),
    Mutant(
        "full-outbox-ignored",
        "G7: sends are accepted however many wait for a verdict already",
        "webapp/services.py",
        "        if shard_of(request.conversation, self._shards) in self._full or",
        "        if False and",
        ("tests/e2e/test_overload.py",),
    ),
    Mutant(
        "slow-bodies-awaited",
        "G7: a client that sends half a body keeps a greenlet and a connection for as long as it likes",
        "webapp/arriving.py",
        "max(0.001, self._deadline - time.monotonic())",
        "3_600.0",
        ("tests/e2e/test_overload.py",),
    ),
    Mutant(
        "batch-unbounded",
        "G7: one batch makes as many deliveries as there happen to be, and holds its shard for so long",
        "tasks/drain.py",
        "                if left < 0 and (bounded or count):",
        "                if False:",
        ("tests/model/test_drain_crashes.py::test_the_deliveries_bound_splits_a_batch",),
    ),
    Mutant(
        "frames-uncounted",
        "G7: a socket may say as much as it likes",
        "webapp/sockets/connection.py",
        "        return self._frames_left >= 0",
        "        return True",
        ("tests/e2e/test_session_ends.py::test_a_socket_that_says_too_much_is_closed",),
    ),
    Mutant(
        "frame-size-unlimited",
        "G7: a frame of any size is kept until it is whole",
        "webapp/sockets/wire.py",
        "            if length > self._max_bytes:",
        "            if False:",
        ("tests/webapp/test_wire.py",),
    ),
    Mutant(
        "connections-uncounted",
        "G7: a user may open any number of connections",
        "models/store/scripts/connect.lua",
        "if count >= tonumber(ARGV[4]) then",
        "if false then",
        ("tests/store/test_scripts.py::test_connections_of_a_user_are_counted_over_all_devices",),
    ),
    Mutant(
        "session-unchecked",
        "G8: a token admits whose session has ended",
        "webapp/auth.py",
        "        if held != claims.session_id:",
        "        if False:",
        ("tests/e2e/test_accounts.py::test_logging_out_ends_this_session",),
    ),
    Mutant(
        "sender-session-unchecked",
        "G8: a send is accepted whose session has ended",
        "models/store/scripts/accept.lua",
        "  if sessions > 0 and redis.call",
        "  if false and redis.call",
        ("tests/e2e/test_sending.py::test_whose_session_has_ended_sends_nothing",),
    ),
    Mutant(
        "socket-session-unchecked",
        "G8: a socket is opened for a session that has ended meanwhile",
        "models/store/scripts/connect.lua",
        "if held ~= ARGV[5] then",
        "if false then",
        ("tests/store/test_scripts.py::test_a_connection_whose_session_does_not_stand_is_not_registered",),
    ),
    Mutant(
        "socket-outlives-session",
        "G8: the sockets of a session that has ended stay open",
        "webapp/sockets/office.py",
        "            gevent.spawn(self.sessions.end, connection, cast(Cause, order.what))",
        "            pass",
        ("tests/e2e/test_session_ends.py::test_a_session_that_ends_loses_its_sockets",),
    ),
    Mutant(
        "ended-session-readmitted",
        "G8: a request that read SQL just before puts an ended session back into Redis",
        "models/store/scripts/remember_session.lua",
        "if (redis.call('HGET', KEYS[1], '') or '') ~= ARGV[2] then",
        "if false then",
        ("tests/store/test_scripts.py::test_a_session_that_ended_is_not_remembered",),
    ),
    Mutant(
        "token-in-log",
        "G8: what others quote into a log stands there with its token",
        "logs.py",
        "    return _SECRETS.sub(_HIDDEN, text)",
        "    return text",
        ("tests/test_logs.py",),
    ),
    Mutant(
        "trace-for-everybody",
        "G8: whoever knows the id of a message sees who has read it on which device",
        "webapp/traces.py",
        "        return viewer_id == found.sender_id or",
        "        return True or",
        ("tests/e2e/test_trace.py::test_only_those_concerned_see_the_way",),
    ),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a mutant. test: the one that failed first; said: why nothing is proved, where none failed or passed."""

    mutant: Mutant
    seconds: float
    test: str | None = None
    said: str = "SURVIVED"


def run(mutant: Mutant, timeout_seconds: float = _TIMEOUT_SECONDS) -> Outcome:
    """Apply a mutant to a copy of the tree and run its tests."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(
            ".git", ".venv", "var", ".*_cache", "__pycache__", ".hypothesis", "chaos-report"
        )
        shutil.copytree(ROOT, copy, ignore=ignored)
        broken = copy / mutant.path
        if mutant.old:
            broken.write_text(broken.read_text().replace(mutant.old, mutant.new))
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *mutant.tests],
            cwd=copy,
            env={
                **os.environ,
                "MODEL_EXAMPLES": os.environ.get("MODEL_EXAMPLES", "40"),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            out, _ = process.communicate(timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # pytest takes down what it has started
            process.communicate()
            return Outcome(mutant, time.monotonic() - started, None, f"no end within {timeout_seconds:.0f} s")
    seconds = time.monotonic() - started
    if process.returncode == 0:
        return Outcome(mutant, seconds)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", out, re.MULTILINE)
    # Anything but a failed test is no proof: the break must be noticed, not merely fail to run.
    if process.returncode == 1 and failed:
        return Outcome(mutant, seconds, failed.group(1))
    return Outcome(mutant, seconds, None, f"pytest exit {process.returncode}: {out[-400:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="mutants to run; all of them where none is named")
    parser.add_argument("--jobs", type=int, default=1, help="how many at once")
    parser.add_argument("--list", action="store_true", help="only list them")
    options = parser.parse_args()
    unknown = set(options.names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name:28} {mutant.breaks}")
        return 0
    # A test that fails on the code as it is would "catch" everything.
    every_test = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
    whole = run(Mutant("unbroken", "", "tests/mutants.py", "", "", every_test), len(every_test) * _TIMEOUT_SECONDS)
    if whole.test is not None or whole.said != "SURVIVED":
        print(f"the unbroken tree fails {whole.test or whole.said}: nothing would be proved")
        return 2
    print(_row("", "mutant", "seconds", "caught by"))
    print(_row("", "unbroken", f"{whole.seconds:.0f}", "passes"), flush=True)
    caught_by: Counter[str] = Counter()
    with ThreadPoolExecutor(options.jobs) as pool:
        for outcome in pool.map(run, chosen):
            mutant = outcome.mutant
            caught_by[mutant.guarantee] += outcome.test is not None
            print(
                _row(mutant.guarantee, mutant.name, f"{outcome.seconds:.0f}", outcome.test or outcome.said), flush=True
            )
    tried = Counter(mutant.guarantee for mutant in chosen)
    print("; ".join(f"{name}: {caught_by[name]} of {tried[name]}" for name in sorted(tried)))
    print(f"{caught_by.total()} of {len(chosen)} caught")
    return 0 if caught_by == tried else 1


def _row(guarantee: str, name: str, seconds: str, caught: str) -> str:
    return f"{guarantee:3} {name:29} {seconds:>7}  {caught}"


if __name__ == "__main__":
    sys.exit(main())
