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
        "webapp/services.py",
        "        self._batcher.call(request)\n",
        "        self._batcher.submit(request, lambda *_: None)\n",
        ("tests/e2e/test_sending.py::test_nothing_is_accepted_that_redis_has_not_confirmed",),
    ),
    Mutant(
        "pop-before-commit",
        "G1: a batch leaves the outbox before it is decided",
        "tasks/drain.py",
        "        decided = self._decider.decide(",
        "        self._publish_and_pop(batch, News())\n        decided = self._decider.decide(",
        CRASHES,
    ),
    Mutant(
        "no-fence",
        "G4: a drain that was stopped and woken commits under an old fence",
        "models/shards.py",
        "        .where(Shard.shard == shard, Shard.fence == fence)",
        "        .where(Shard.shard == shard)",
        ("tests/models", *MODEL),
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
        "    return entry is not None and entry.facts_version == version",
        "    return entry is not None",
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
)


def run(mutant: Mutant) -> tuple[Mutant, str | None, float]:
    """Apply a mutant to a copy of the tree; return the test that caught it, None where none did, and the seconds."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".git", ".venv", "var", ".*_cache", "__pycache__", ".hypothesis")
        shutil.copytree(ROOT, copy, ignore=ignored)
        broken = copy / mutant.path
        if mutant.old:
            broken.write_text(broken.read_text().replace(mutant.old, mutant.new))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *mutant.tests],
            cwd=copy,
            env={
                **os.environ,
                "MODEL_EXAMPLES": os.environ.get("MODEL_EXAMPLES", "40"),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    if done.returncode == 0:
        return mutant, None, time.monotonic() - started
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    # Anything but a failed test is no proof: the break must be noticed, not merely fail to run.
    caught = (
        failed.group(1) if done.returncode == 1 and failed else f"pytest exit {done.returncode}: {done.stdout[-400:]}"
    )
    return mutant, caught, time.monotonic() - started


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
    _, failed, seconds = run(Mutant("unbroken", "", "tests/mutants.py", "", "", every_test))
    if failed is not None:
        print(f"the unbroken tree fails {failed}: nothing would be proved")
        return 2
    print(f"{'unbroken':28} {seconds:5.0f} s  passes", flush=True)
    survived = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, caught, seconds in pool.map(run, chosen):
            survived += caught is None
            print(f"{mutant.name:28} {seconds:5.0f} s  {caught or 'SURVIVED'}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} caught")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
