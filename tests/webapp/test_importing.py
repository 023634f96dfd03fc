"""The command `import-original`: what it says, what it writes beside the database, and how it ends."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from sqlalchemy import insert, select

from models.database import Database, open_database
from models.users import User
from settings import load_settings
from tasks.original.report import RULES
from tests.support import original_data as data
from webapp import importing
from webapp.passwords import Passwords

_Command = Callable[..., Result]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """An empty database with tables, in a data folder of its own."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "")
    opened = open_database(load_settings().database_url)
    User.metadata.create_all(opened.engine)
    yield opened
    opened.engine.dispose()


@pytest.fixture
def command(database: Database) -> _Command:
    app = Flask("importing")
    importing.add_command(app, load_settings(), database)

    def run(*arguments: str | Path) -> Result:
        return app.test_cli_runner().invoke(args=["import-original", *map(str, arguments)])

    return run


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    return data.write_dump(tmp_path / "dump.sql")


def test_it_explains_itself(command: _Command) -> None:
    """Every option, what it does to a system that runs or is not empty, and every exit code."""
    told = command("--help").output

    for word in ("--redis", "--database", "--timezone", "--dry-run", "--report", "empty", "repeated", "migrating.md"):
        assert word in told
    for code in range(5):
        assert f"\n    {code}  " in told


def test_it_reports_and_takes_over_the_passwords(
    command: _Command, database: Database, dump: Path, tmp_path: Path
) -> None:
    """The report is its owner's alone; a hash of the original is stored nowhere as it was."""
    path = tmp_path / "report.json"

    done = command(dump, "--report", path)

    assert done.exit_code == 0, done.output
    assert "6  users" in done.output
    assert "without --redis" in done.output
    report = json.loads(path.read_text())
    assert report["taken_over"]["users"] == 6
    assert report["tables_left"] == {"chat_complaint": 1}
    assert report["changed"]["settings_unreadable"] == {
        "count": 1,
        "what": RULES["settings_unreadable"][1],
        "examples": [str(data.BERT)],
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with database.reading() as connection:
        stored = {row.id: row.password for row in connection.execute(select(User.id, User.password))}
    passwords = Passwords()
    for user_id, password in data.PASSWORDS.items():
        assert stored[user_id].startswith("original:$argon2id$")
        assert passwords.is_right(password, stored[user_id])
        assert not passwords.is_right("another", stored[user_id])
        assert passwords.needs_rehash(stored[user_id])
    assert stored[data.VISITOR] == "!"
    assert command(dump).output.startswith("this dump was taken over at ")


def test_it_ends_with_a_code_that_says_what_to_do(
    command: _Command, database: Database, dump: Path, tmp_path: Path
) -> None:
    """And with a sentence, never with a traceback."""
    cut = tmp_path / "cut.sql"
    cut.write_text(dump.read_text()[:2_000])

    def ended(code: int, *arguments: str | Path) -> str:
        done = command(*arguments)
        assert (done.exit_code, "Traceback" in done.output) == (code, False), done.output
        return done.output

    assert "cut off" in ended(4, cut)
    assert "+08:00" in ended(2, dump, "--timezone", "8")
    assert "does not exist" in ended(2, tmp_path / "nowhere.sql")
    assert "cannot be written" in ended(2, dump, "--report", tmp_path / "no" / "folder.json")
    assert "Redis" in ended(3, dump, "--redis", "nonsense")
    assert "repeat the command" in ended(1, dump, "--redis", f"unix://{tmp_path}/no.sock")
    assert "dry run" in ended(0, dump, "--dry-run")
    with database.writing() as connection:
        connection.execute(insert(User), {"uuid": data.uuid_of(1), "username": "first", "password": "!"})
    assert "empty system" in ended(3, dump, "--dry-run")
    with database.engine.begin() as connection:
        connection.exec_driver_sql('DROP TABLE "takeover"')
    assert "db upgrade" in ended(1, dump)
