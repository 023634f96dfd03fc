"""What a takeover writes on each database: every rule counted, nothing by a dry run, the same after any crash, nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import insert, select

from models import tables, takeovers
from models.database import Database
from models.store import inbox
from models.users import User
from settings import Settings
from tasks.original.dump import DumpError
from tasks.original.report import Report
from tasks.original.takeover import LEFT_FILE, Outcome, Refused, Source, Takeover
from tasks.rebuild import load_inbox
from tests.model.rig import RedisServer, open_rig_database
from tests.support import original_data as data
from tests.support.instance import wait_until
from tests.support.original_data import ANNA, BERT, CARL, GONE_GROUP_ID, GROUP_ID, VISITOR

_ROOT = Path(__file__).resolve().parents[3]
_QUEUES_DB = 5


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The original's Redis."""
    server = RedisServer()
    yield server
    server.stop()


class System:
    """An empty system with a database of its own, and an original to take over."""

    def __init__(self, folder: Path, database_url: str, server: RedisServer) -> None:
        self.database_url = database_url or f"sqlite:///{folder / 'ours.db'}"
        self.database: Database = open_rig_database(self.database_url)
        tables.User.metadata.create_all(self.database.engine)
        self.settings: Settings = replace(server.settings, data_dir=folder, database_url=self.database_url)
        self.redis_url = f"unix://{server.settings.redis_socket}?db={_QUEUES_DB}"
        self.dump = data.write_dump(folder / "dump.sql")

    def takeover(self) -> Takeover:
        return Takeover(self.settings, self.database, lambda digest: f"wrapped {digest}", lambda *_: None)

    def run(self, *, is_dry_run: bool = False, redis_url: str | None = "", **changes: Any) -> Report:
        """Take it over and return the report. redis_url: None = without queues."""
        outcome = self.outcome(is_dry_run=is_dry_run, redis_url=redis_url, **changes)
        assert outcome.report is not None
        return outcome.report

    def outcome(self, *, is_dry_run: bool = False, redis_url: str | None = "", **changes: Any) -> Outcome:
        source = Source(self.dump, self.redis_url if redis_url == "" else redis_url, None, timedelta(0))
        return self.takeover().run(replace(source, **changes), is_dry_run=is_dry_run)

    def rows(self, table: Any) -> list[dict[str, Any]]:
        """Return all rows of a table, but for what time and tries decide."""
        with self.database.reading() as connection:
            found = [dict(row._mapping) for row in connection.execute(select(table.__table__))]
        volatile = ("started_at_ms", "finished_at_ms", "create_time", "update_time", "fence")
        kept = [{name: value for name, value in row.items() if name not in volatile} for row in found]
        return sorted(kept, key=lambda row: json.dumps(row, default=str, sort_keys=True))

    def everything(self) -> dict[str, list[dict[str, Any]]]:
        named = ((name, getattr(tables, name)) for name in tables.__all__)
        # Blocks have the time of the import, and what a database numbers may have holes.
        without = {"Block": ("created_at_ms",)}
        return {
            name: [
                {key: value for key, value in row.items() if key not in without.get(name, ())}
                for row in self.rows(table)
            ]
            for name, table in named
        }

    def inbox_of(self, user_id: int) -> list[dict[str, Any]]:
        """Return what a user's first login opens his inbox with, group messages as what they refer to."""
        command = load_inbox(self.database, user_id, 10_000)
        entries = [inbox.decode(raw) for raw in command[3:] if isinstance(raw, bytes) and b"|" in raw]
        said = {(row["group_id"], row["seq"]): row["body"] for row in self.rows(tables.Message)}
        return [json.loads(said[entry.reference] if entry.reference else entry.body) for entry in entries]


@pytest.fixture
def system(tmp_path: Path, database_url: str, redis_server: RedisServer) -> Iterator[System]:
    """A system on each database in turn, and the small original with its odd cases."""
    made = _make(tmp_path, database_url, redis_server)
    yield made
    made.database.engine.dispose()


@pytest.fixture
def on_sqlite(tmp_path: Path, redis_server: RedisServer) -> Iterator[System]:
    made = _make(tmp_path, "", redis_server)
    yield made
    made.database.engine.dispose()


def _make(folder: Path, database_url: str, server: RedisServer) -> System:
    server.empty()
    made = System(folder, database_url, server)
    with closing(_original_redis(made.redis_url)) as client:
        data.fill_redis(client)
    return made


def _original_redis(url: str) -> redis.Redis:
    return redis.Redis.from_url(url)


def _counts(report: Report) -> dict[str, int]:
    told = report.as_json()
    return {code: rule["count"] for kind in ("left_out", "changed", "noted") for code, rule in told[kind].items()}


_EXPECTED = {
    "table_unknown": 1,
    "column_unknown": 1,
    "settings_unreadable": 1,
    "invite_mode_unknown": 1,
    "role_unknown": 1,
    "avatar_on_the_originals_host": 1,
    "profile_made": 5,
    "friend_of_nobody": 1,
    "friend_of_himself": 1,
    "friend_doubled": 1,
    "friend_one_sided": 1,
    "application_of_nobody": 1,
    "application_doubled": 1,
    "application_settled": 1,
    "group_of_nobody": 1,
    "member_of_nothing": 1,
    "member_doubled": 1,
    "owner_made_member": 1,
    "queue_of_nobody": 1,
    "entry_unreadable": 1,
    "entry_too_large": 1,
    "entry_doubled": 1,
    "greeting_dropped": 1,
    "application_notice_dropped": 1,
    "message_id_replaced": 1,
    "message_time_replaced": 1,
    "message_without_group": 1,
    "recall_applied": 1,
    "history_left": 2,
}


def test_everything_is_taken_over_and_every_rule_is_counted(system: System) -> None:
    """Each row and each entry is either there, or in the report."""
    report = system.run()

    assert _counts(report) == _EXPECTED
    assert report.tables_left == {"chat_complaint": 1}
    users = {row["id"]: row for row in system.rows(tables.User)}
    assert {user_id: row["status"] for user_id, row in users.items()} == {1: 1, 2: 1, 3: 1, 7: 1, 8: 1, 9: 0}
    assert users[ANNA]["userset"] == '{"chatset":{"visitor":0,"user":0}}'  # older, and read (C10)
    assert users[BERT]["userset"] == ""
    assert users[VISITOR]["devicefingeruuid"] == data.DEVICE_ID
    assert users[8]["devicefingeruuid"] is users[9]["devicefingeruuid"] is None  # the original's default '' (E10)
    assert users[VISITOR]["password"] == "!"
    assert users[ANNA]["password"].startswith("wrapped ")
    friends = {(row["user_id"], row["friend_id"]): row for row in system.rows(tables.Friendship)}
    assert {pair: row["nickname"] for pair, row in friends.items()} == {
        (ANNA, BERT): "Bertie",
        (BERT, ANNA): "Annchen",
        (CARL, ANNA): "",
    }
    assert [(row["blocker_id"], row["blocked_id"]) for row in system.rows(tables.Block)] == [(CARL, ANNA)]
    statuses = Counter(
        (row["user_id"], row["friend_id"], row["status"]) for row in system.rows(tables.FriendApplication)
    )
    assert statuses == {(CARL, BERT, "pending"): 1, (ANNA, BERT, "agree"): 1, (BERT, CARL, "refuse"): 1}
    (group,) = system.rows(tables.Group)
    assert (group["id"], group["name"], group["status"]) == (GROUP_ID, '鸿雁 "group" it\'s\n', 1)
    members = {row["user_id"]: row["status"] for row in system.rows(tables.GroupMember)}
    assert members == {ANNA: 1, BERT: 1, CARL: 2}
    assert len(system.rows(tables.UserInfo)) == len(users)
    assert report.taken["messages"] == len(system.rows(tables.Message)) == 11
    left = [json.loads(line) for line in (system.settings.data_dir / LEFT_FILE).read_text().splitlines()]
    assert Counter(each["why"] for each in left) == {"entry_unreadable": 1, "entry_too_large": 1, "queue_of_nobody": 1}
    assert left[0]["entry"] == "{no json" or left[1]["entry"] == "{no json" or left[2]["entry"] == "{no json"


def test_what_waits_is_shown_in_the_order_of_the_queue(system: System) -> None:
    """Once, with its id and time, under names that its reader may see; what was recalled says nothing any more."""
    system.run()

    shown = system.inbox_of(BERT)
    numbers = [1, 2, 3, 4, 5, 6, 8, 4]
    assert [message["id"] for message in shown[:8]] == [data.uuid_of(100_000 + number) for number in numbers]
    assert [message["create_time"] for message in shown[:3]] == [data.SENT_AT_MS + n * 1_000 for n in (1, 2, 3)]
    assert "a mistake" not in json.dumps(shown)
    assert (shown[3]["isremove"], shown[7]["actionType"]) == (1, "revoke")
    assert shown[5]["from_id"] == f"redirect-applyFriend-{CARL}"
    assert (shown[6]["chatType"], shown[6]["to_id"]) == ("group", GONE_GROUP_ID)
    assert "remark for" not in json.dumps([message for message in shown if message["chatType"] == "single"])
    for message in shown:
        assert "group_users" not in json.dumps(message)
    # A group's message waits for those alone in whose queue it stood.
    assert [message["id"] for message in system.inbox_of(CARL)] == [data.uuid_of(100_014)]
    conversations: dict[str, list[int]] = {}
    for row in system.rows(tables.Message):
        if row["seq"] is not None:
            conversations.setdefault(row["conversation"], []).append(row["seq"])
    assert all(sorted(seqs) == list(range(1, len(seqs) + 1)) for seqs in conversations.values())
    contacts = {(row["sender_id"], row["recipient_id"]) for row in system.rows(tables.FirstContact)}
    assert contacts == {(VISITOR, BERT)}  # the others are listed by those they wrote to


def test_a_dry_run_writes_nothing_and_tells_the_same(system: System) -> None:
    before = system.everything()

    told = system.run(is_dry_run=True)

    assert system.everything() == before
    assert sorted(path.name for path in system.settings.data_dir.iterdir() if path.is_dir()) == []
    assert not (system.settings.data_dir / LEFT_FILE).exists()
    assert told.as_json() == system.run().as_json()


def test_a_second_run_adds_nothing(system: System) -> None:
    """Of the same dump, packed or not; another dump, and queues that come too late, are refused."""
    system.run()
    before = system.everything()

    assert system.outcome().report is None
    assert system.outcome(redis_url=None).report is None
    other = data.write_dump(system.settings.data_dir / "other.sql", {"user": [data.user(100, "other")]})
    with pytest.raises(Refused, match="another dump"):
        system.run(dump=other)

    assert system.everything() == before


def test_queues_cannot_follow_later(on_sqlite: System) -> None:
    on_sqlite.run(redis_url=None)

    with pytest.raises(Refused, match="without queues"):
        on_sqlite.run()


def test_a_system_with_users_is_refused(system: System) -> None:
    with system.database.writing() as connection:
        row = {"uuid": data.uuid_of(77), "username": "first", "password": "!"}
        connection.execute(insert(User), row)

    with pytest.raises(Refused, match="empty system"):
        system.run(is_dry_run=True)
    with pytest.raises(Refused, match="empty system"):
        system.run()

    assert len(system.rows(tables.User)) == 1


class _Killed(BaseException):
    """Stands for the end of the process."""


def test_a_crash_at_any_place_leaves_what_the_next_run_completes(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each transaction in turn. Until then nobody of the original is let in."""
    whole = _make(_folder(tmp_path, "whole"), "", redis_server)
    complete = whole.run().as_json()
    expected = whole.everything()
    crashed_count = 0
    monkeypatch.setattr("tasks.original.scratch._CLEAN_ROWS", 4)  # more batches
    monkeypatch.setattr("tasks.original.waiting._BATCH", 4)
    for crash_at in range(1, 60):
        one = _make(_folder(tmp_path, str(crash_at)), "", redis_server)
        takeover = one.takeover()
        writes, persist = iter(range(1, 1_000)), takeover._persist

        def dying(*args: Any, writes: Iterator[int] = writes, persist: Any = persist, last: int = crash_at) -> Any:
            if next(writes) > last:
                raise _Killed
            return persist(*args)

        monkeypatch.setattr(takeover, "_persist", dying)
        source = Source(one.dump, one.redis_url, None, timedelta(0))
        try:
            takeover.run(source, is_dry_run=False)
        except _Killed:
            crashed_count += 1
            assert one.rows(tables.Takeover)[0]["report"] is None
        else:
            one.database.engine.dispose()
            break
        is_released = one.rows(tables.Takeover)[0]["step"] == "users out"
        assert is_released or all(row["status"] >= 10 for row in one.rows(tables.User))
        with pytest.raises(Refused, match="has begun here"):
            one.run(redis_url=None)

        assert one.run().as_json() == complete

        found = one.everything()
        # Each table as it would have been, but for ids that a database gives.
        assert _without_ids(found) == _without_ids(expected)
        one.database.engine.dispose()
    whole.database.engine.dispose()
    assert crashed_count > 20


def _folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


def _without_ids(found: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    numbered = ("UserInfo", "Friendship", "FriendApplication", "GroupMember")
    return {
        name: [{key: value for key, value in row.items() if key != "id" or name not in numbered} for row in rows]
        for name, rows in found.items()
        if name != "Takeover"
    }


def test_who_registers_meanwhile_keeps_his_name_and_gets_an_id_behind(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system may run: nobody is overwritten, and nobody of the original is lost."""
    monkeypatch.setattr("tasks.original.scratch._CLEAN_ROWS", 1)
    takeover = system.takeover()
    move = takeover._move
    registered: list[int] = []

    def moved(*args: Any) -> Any:
        if not registered:
            with system.database.writing() as connection:
                row = {
                    "uuid": data.uuid_of(77),
                    "username": "bert",
                    "password": "!",
                    "devicefingeruuid": data.DEVICE_ID,
                }
                registered.append(connection.execute(insert(User).returning(User.id), row).scalar_one())
        return move(*args)

    monkeypatch.setattr(takeover, "_move", moved)
    outcome = takeover.run(Source(system.dump, system.redis_url, None, timedelta(0)), is_dry_run=False)

    assert registered == [data.BANNED + 1]
    users = {row["id"]: row for row in system.rows(tables.User)}
    assert users[registered[0]]["username"] == "bert"
    assert users[BERT]["username"] == "bert_2"
    assert users[VISITOR]["devicefingeruuid"] is None
    assert outcome.report is not None
    assert outcome.report.count("username_taken_meanwhile") == outcome.report.count("fingerprint_taken_meanwhile") == 1


def test_a_killed_command_goes_on_when_it_is_repeated(on_sqlite: System) -> None:
    """The real command, killed with SIGKILL in the middle of writing."""
    many = [data.user(n, f"VIS{n}", role="visitor") for n in range(1, 2_001)]
    data.write_dump(on_sqlite.dump, {"user": many})
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "import-original", str(on_sqlite.dump)]
    clean = dict.fromkeys(("REDIS_URL", "CELERY_BROKER_URL", "JWT_SECRET"), "")
    environment = {**os.environ, **clean, "HONGYAN_ENV": "development", "DATABASE_URL": on_sqlite.database_url}
    environment["DATA_DIR"] = str(on_sqlite.settings.data_dir)

    def is_writing() -> bool:
        with on_sqlite.database.reading() as connection:
            return takeovers.load(connection) is not None

    killed = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert wait_until(is_writing, 60.0, 0.005)
    time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert on_sqlite.rows(tables.Takeover)[0]["report"] is None

    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "2,000  users" in done.stdout
    users = on_sqlite.rows(tables.User)
    assert len(users) == 2_000
    assert {row["status"] for row in users} == {1}
    assert len(on_sqlite.rows(tables.UserInfo)) == 2_000
    assert sorted(path.name for path in on_sqlite.settings.data_dir.iterdir() if path.is_dir()) == []


# Rules about single columns

_Row = dict[str, Any]


@pytest.mark.parametrize(
    ("changes", "code", "column", "expected"),
    [
        ({"uuid": "none"}, "uuid_replaced", None, None),
        ({"username": ""}, "username_replaced", "username", "user_1"),
        ({"username": "n" * 60}, "text_cut", "username", "n" * 50),
        ({"password": "plain"}, "password_unusable", "password", "!"),
        ({"password": None}, "password_unusable", "password", "!"),
        ({"nickname": "a\0b"}, "text_with_nul", "nickname", "ab"),
        ({"avatar": "javascript:alert(1)"}, "avatar_unsafe", "avatar", "/static/media/user.jpg"),
        ({"avatar": None}, None, "avatar", "/static/media/user.jpg"),
        ({"userset": "[1]"}, "settings_unreadable", "userset", ""),
        ({"userset": '{"a":"' + "x" * 20_000 + '"}'}, "settings_unreadable", "userset", ""),
        ({"userset": '{"chatset":{"visitor":1}}'}, None, "userset", '{"chatset":{"visitor":1}}'),
        ({"status": 3}, "status_unknown", "status", 2),
        ({"status": 2}, None, "status", 2),
        ({"is_deleted": 1}, "flag_deleted", "status", 1),
        ({"is_deleted": "\1"}, "flag_deleted", "status", 1),
        ({"is_deleted": "\0"}, None, "status", 1),
        ({"mobile": "", "email": ""}, None, "mobile", None),
        ({"last_login": "0000-00-00 00:00:00"}, None, "last_login", None),
        ({"last_login": "2025-01-02 03:04:05.600"}, None, "last_login", datetime(2025, 1, 2, 3, 4, 5, 600_000)),
        ({"order": 10**12}, None, "order", 50),
    ],
)
def test_a_column_of_a_user_has_its_rule(
    on_sqlite: System, changes: _Row, code: str | None, column: str | None, expected: Any
) -> None:
    data.write_dump(on_sqlite.dump, {"user": [data.user(1, "anna") | changes]})

    report = on_sqlite.run(redis_url=None)

    assert set(_counts(report)) - {"profile_made"} == ({code} if code else set())
    (row,) = on_sqlite.rows(tables.User)
    if column is not None:
        assert row[column] == expected


def test_users_that_are_one_too_many_have_their_rules(on_sqlite: System) -> None:
    """Same id, name, public id, device, number; ids that are none."""
    registered = data.user(2, "two", devicefingeruuid=data.DEVICE_ID)
    rows = [
        data.user(1, "one", mobile="1"),
        {**data.user(1, "again")},
        registered,
        data.user(3, "VIS3", role="visitor", devicefingeruuid=data.DEVICE_ID),
        data.user(4, "VIS4", role="visitor", devicefingeruuid=data.DEVICE_ID),
        data.user(5, "one", mobile="1", uuid=data.uuid_of(1)),
        data.user(0, "zero"),
        data.user(2**31, "large"),
    ]
    data.write_dump(on_sqlite.dump, {"user": rows})

    counts = _counts(on_sqlite.run(redis_url=None))

    assert counts == {
        "user_doubled": 1,
        "user_id_unusable": 2,
        "fingerprint_shared": 3,
        "username_replaced": 1,
        "uuid_replaced": 1,
        "contact_shared": 1,
        "profile_made": 5,
    }
    users = {row["id"]: row for row in on_sqlite.rows(tables.User)}
    # As a device that registered and then came back as a visitor: the newest visitor is the device's.
    device = {user_id: row["devicefingeruuid"] for user_id, row in users.items() if user_id in (2, 3, 4)}
    assert device == {2: data.DEVICE_ID, 4: f"{data.DEVICE_ID}#1", 3: f"{data.DEVICE_ID}#2"}
    assert users[5]["username"] == "one_5"


@pytest.mark.parametrize(
    "fingerprints",
    [
        pytest.param(["d" * 250 + "1", "d" * 250 + "2"], id="alike once cut"),
        pytest.param(["device#1", "device", "device"], id="alike once numbered"),
    ],
)
def test_fingerprints_that_become_alike_stop_no_import(on_sqlite: System, fingerprints: list[str]) -> None:
    """Two rows with one fingerprint broke the unique key in the middle of the writing, at every try."""
    rows = [
        data.user(number, f"VIS{number}", role="visitor", devicefingeruuid=fingerprint)
        for number, fingerprint in enumerate(fingerprints, 1)
    ]
    data.write_dump(on_sqlite.dump, {"user": rows})

    dry, report = on_sqlite.run(redis_url=None, is_dry_run=True), on_sqlite.run(redis_url=None)

    assert _counts(report) == _counts(dry)
    assert report.count("fingerprint_shared") == len(fingerprints) - 1
    kept = [row["devicefingeruuid"] for row in on_sqlite.rows(tables.User)]
    assert len(kept) == len(fingerprints)
    assert sorted(filter(None, kept)) == sorted({each[:200] for each in fingerprints})


def test_rows_of_the_other_tables_have_their_rules(on_sqlite: System) -> None:
    """What refers to nothing, stands there twice, or holds what nobody knows."""
    tail = {"order": 50, "create_time": None, "update_time": None}
    empty = {"birthday": None, "bio": None, "location": None, "website": None}
    profile = {**tail, **empty, "gender": "other"}
    many = [data.member(n, GROUP_ID, user_id) for n, user_id in enumerate((ANNA, BERT, CARL), 1)]
    of = {
        "goodfriend": [
            data.friend(1, ANNA, BERT, status=1),
            data.friend(2, ANNA, BERT, status=0, isblack=1, nickname="n" * 60),
            data.friend(3, BERT, ANNA, status=7),
        ],
        "goodfriendapply": [data.application(1, ANNA, CARL, "maybe")],
        "group": [data.group(GROUP_ID, ANNA, "one", invite_confirm=3, status=9), data.group(GROUP_ID, ANNA, "again")],
        "group_user": [*many, data.member(9, GROUP_ID, CARL, 0), data.member(10, GROUP_ID, BERT, 5)],
        "user": [data.user(ANNA, "anna"), data.user(BERT, "bert"), data.user(CARL, "carl")],
        "user_info": [
            {"id": 1, "user_id": ANNA, **profile},
            {"id": 2, "user_id": ANNA, **profile},
            {"id": 3, "user_id": 4_711, **profile},
        ],
    }
    data.write_dump(on_sqlite.dump, of)
    on_sqlite.settings = replace(on_sqlite.settings, group_max_members=2, inbox_max_entries=2)

    counts = _counts(on_sqlite.run())

    assert {code: count for code, count in counts.items() if "entry" not in code and "message" not in code} == {
        "text_cut": 1,
        "friend_doubled": 1,
        "status_unknown": 3,
        "application_unreadable": 1,
        "invite_mode_unknown": 1,
        "group_id_unusable": 1,
        "group_over_limit": 1,
        "member_doubled": 2,
        "profile_doubled": 1,
        "profile_of_nobody": 1,
        "profile_made": 2,
        "queue_longer_than_inbox": 1,
        "queue_of_nobody": 1,
        "greeting_dropped": 1,
        "application_notice_dropped": 2,
        "sender_unknown": 1,
        "recall_applied": 1,
        "history_left": 2,
    }
    friends = {(row["user_id"], row["friend_id"]): row for row in on_sqlite.rows(tables.Friendship)}
    assert (friends[ANNA, BERT]["status"], friends[ANNA, BERT]["isblack"]) == (0, 1)
    assert friends[BERT, ANNA]["status"] == 2
    assert {row["user_id"]: row["status"] for row in on_sqlite.rows(tables.GroupMember)} == {ANNA: 1, BERT: 0, CARL: 0}
    (group,) = on_sqlite.rows(tables.Group)
    assert (group["name"], group["status"], group["invite_confirm"]) == ("one", 2, 1)


def test_long_texts_of_a_dump_do_not_fill_the_memory(on_sqlite: System) -> None:
    """Of a value no more is kept than MySQL's TEXT holds: 40 MB of settings came to 40 MB and more."""
    rows = [data.user(number, f"user{number}", userset="x" * 1_000_000) for number in range(1, 41)]
    groups = [data.group(GROUP_ID, 1, "a group", remark="x" * 70_000)]
    data.write_dump(on_sqlite.dump, {"user": rows, "group": groups})
    del rows

    tracemalloc.start()
    report = on_sqlite.run(redis_url=None)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 20_000_000
    assert report.count("settings_unreadable") == 40
    assert report.count("text_cut") == 1
    (group,) = on_sqlite.rows(tables.Group)
    assert len(group["remark"]) == 65_535


def test_examples_in_a_report_are_fit_for_a_terminal(on_sqlite: System) -> None:
    data.write_dump(
        on_sqlite.dump, {"user": [data.user(1, "anna"), {**data.user(2, "x"), "id": "\x1b[2J" + "9" * 500}]}
    )

    report = on_sqlite.run(redis_url=None, is_dry_run=True)

    assert "\x1b" not in report.as_text()
    (example,) = report.as_json()["left_out"]["user_id_unusable"]["examples"]
    assert example == "\ufffd[2J" + "9" * 96


def test_times_are_those_of_the_originals_clock(on_sqlite: System) -> None:
    data.write_dump(on_sqlite.dump, {"user": [data.user(1, "anna", last_login="2025-01-02 03:04:05")]})

    on_sqlite.run(redis_url=None, ahead=timedelta(hours=8))

    assert on_sqlite.rows(tables.User)[0]["last_login"] == datetime(2025, 1, 1, 19, 4, 5)


def test_entries_have_their_rules(on_sqlite: System) -> None:
    """One id for two messages (B19), somebody else's recall, an unknown sender, a key that is no queue."""
    with closing(_original_redis(on_sqlite.redis_url)) as client:
        client.flushdb()
        both = "我们已经是好友了，可以开始聊天了"
        waiting = {
            ANNA: [data.notice(1, BERT, ANNA, both), data.message(2, 4_711, ANNA, "who?")],
            BERT: [
                data.notice(1, ANNA, BERT, both),
                data.message(3, ANNA, BERT, "mine"),
                data.notice(4, CARL, BERT, "Carl撤回了一条消息", id=data.uuid_of(100_003), actionType="revoke"),
                data.message(5, ANNA, BERT, "in the future", create_time=10**14),
            ],
        }
        data.fill_redis(client, waiting)
        client.set("chat_getmessage_x", "1")

    report = on_sqlite.run()

    counts = _counts(report)
    rules = ("message_id_replaced", "sender_unknown", "recall_of_another", "queue_unreadable", "message_time_replaced")
    assert {code: counts.get(code) for code in rules} == dict.fromkeys(rules, 1)
    assert [each["from_id"] for each in on_sqlite.inbox_of(ANNA) if each["type"] == "systemNotice"] == [BERT]
    bert = on_sqlite.inbox_of(BERT)
    assert [each["from_id"] for each in bert] == [ANNA] * 3
    assert "mine" in bert[1]["data"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "no rows of a table `user`"),
        ("INSERT INTO `user` VALUES (1);", "--complete-insert"),
        ("USE a; INSERT INTO user (id) VALUES (1); USE b; INSERT INTO user (id) VALUES (1);", "--database"),
        ("USE mysql; INSERT INTO user (Host) VALUES ('%');", "no rows of a table `user`"),
        ("INSERT INTO user (id) VALUES (1", "cut off"),
    ],
)
def test_a_dump_that_is_none_writes_nothing(on_sqlite: System, text: str, told: str) -> None:
    on_sqlite.dump.write_text(text)

    with pytest.raises(DumpError, match=told):
        on_sqlite.run(redis_url=None)

    assert on_sqlite.rows(tables.Takeover) == []


def test_a_groups_message_is_one_for_all_who_lack_it(system: System) -> None:
    """Whatever the queues are in which it stands; who waits to be let in is shown his own, as before."""
    with closing(_original_redis(system.redis_url)) as client:
        client.flushdb()
        first, second = data.to_group(1, VISITOR, GROUP_ID, "to all"), data.to_group(2, BERT, GROUP_ID, "to Anna")
        third = data.to_group(3, BERT, GROUP_ID, "a mistake")
        recall = data.notice(4, BERT, GROUP_ID, "撤回了一条消息", id=third["id"], chatType="group", actionType="revoke")
        data.fill_redis(client, {ANNA: [first, second], BERT: [first], CARL: [first, third, recall]})

    report = system.run()

    assert report.taken["messages"] == 5
    assert report.count("message_without_group") == 2
    rows = {row["id"]: row for row in system.rows(tables.Message) if row["group_id"] == GROUP_ID}
    assert {message_id: row["seq"] for message_id, row in rows.items()} == {first["id"]: 1, second["id"]: 2}
    heard = {row["facts_version"]: json.loads(row["user_ids"]) for row in system.rows(tables.Audience)}
    # With the sender, who may read it again.
    assert heard[rows[first["id"]]["audience_version"]] == [ANNA, BERT, VISITOR]
    assert heard[rows[second["id"]]["audience_version"]] == [ANNA, BERT]
    assert [message["id"] for message in system.inbox_of(ANNA)] == [first["id"], second["id"]]
    shown = system.inbox_of(CARL)
    assert (shown[0]["data"], shown[0]["id"] != first["id"]) == (first["data"], True)
    assert "a mistake" not in json.dumps(shown)
