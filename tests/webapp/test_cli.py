"""The commands of `flask --app wsgi`: what they say, how they end, and that no server needs to run for them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import psycopg
import pytest
from sqlalchemy import select

from models.database import open_database
from models.users import User
from settings import load_settings
from webapp.cli import seed
from webapp.tokens import Tokens

_ROOT = Path(__file__).resolve().parents[2]
_Flask = Callable[..., CompletedProcess[str]]
# As if there were many rows: to build the first index takes longer than the application lets a statement take.
_FIRST_INDEX_TAKES_LONG = """
CREATE TABLE taken (statement_timeout text, idle_timeout text);
CREATE FUNCTION take_long() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM taken) THEN
        PERFORM pg_sleep(1.2);
        INSERT INTO taken
        VALUES (current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout'));
    END IF;
END $$;
CREATE EVENT TRIGGER slow_index ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION take_long();
"""


@pytest.fixture
def flask(tmp_path: Path) -> _Flask:
    """Run a command on a data folder of its own, without a server. `_HONGYAN_ENV` and the like are environment variables."""

    def run(*arguments: str, **environment: str) -> CompletedProcess[str]:
        clean = dict.fromkeys(("DATABASE_URL", "REDIS_URL", "CELERY_BROKER_URL", "JWT_SECRET"), "")
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", *arguments],
            cwd=_ROOT,
            env={**os.environ, **clean, "HONGYAN_ENV": "development", "DATA_DIR": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def seeded(flask: _Flask, tmp_path: Path) -> _Flask:
    """The commands on a database with users seed1 to seed4."""
    assert flask("db", "upgrade").returncode == 0
    done = flask("load-seed", "--users", "4", "--group", "2", "--out", str(tmp_path / "tokens.json"))
    assert done.returncode == 0, done.stderr
    return flask


def test_a_bad_setting_is_told_in_one_line(flask: _Flask) -> None:
    """Whoever runs a command reads which setting is wrong, and no traceback."""
    done = flask("admin", "list", PORT="abc")
    weak = flask("admin", "list", HONGYAN_ENV="production", JWT_SECRET="weak")

    for each, setting in ((done, "PORT"), (weak, "JWT_SECRET")):
        assert each.returncode != 0
        assert setting in each.stderr
        assert len(each.stderr.splitlines()) == 1, each.stderr


def test_administrators_are_made_and_unmade(seeded: _Flask) -> None:
    """`grant`, `list` and `revoke` say what is so afterwards, and may be repeated."""
    assert seeded("admin", "grant", "seed2").stdout == "seed2 is an administrator now\n"
    assert seeded("admin", "grant", "seed2").stdout == "seed2 is an administrator already\n"
    assert seeded("admin", "list").stdout == "2\tseed2\t用户2\n"
    assert seeded("admin", "revoke", "seed2").stdout == "seed2 is no administrator any more\n"
    done = seeded("admin", "revoke", "seed2")
    assert (done.stdout, done.returncode) == ("seed2 is no administrator\n", 0)

    nobody = seeded("admin", "list")

    assert (nobody.stdout, nobody.returncode) == ("", 0)
    assert "admin grant" in nobody.stderr


@pytest.mark.parametrize("command", ["grant", "revoke"])
def test_an_unknown_user_is_an_error(seeded: _Flask, command: str) -> None:
    done = seeded("admin", command, "nobody")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: there is no user 'nobody': the username is what he logs in with\n"


def test_an_empty_database_is_an_error_that_names_the_remedy(flask: _Flask) -> None:
    done = flask("admin", "grant", "somebody")

    assert done.returncode == 1
    assert "db upgrade" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("is_locked", [False, True])
def test_seeding_a_database_that_cannot_be_used_is_an_error(flask: _Flask, tmp_path: Path, is_locked: bool) -> None:
    """One without tables, or one that somebody else is writing to all the time: a sentence, and no file of tokens."""
    out = tmp_path / "tokens.json"
    with contextlib.ExitStack() as stack:
        if is_locked:
            assert flask("db", "upgrade").returncode == 0
            other = stack.enter_context(contextlib.closing(sqlite3.connect(tmp_path / "hongyan.db")))
            other.execute("BEGIN IMMEDIATE")

        done = flask("load-seed", "--users", "2", "--out", str(out))

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: the database cannot be used (")
    assert ("locked" if is_locked else "no such table") in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_seeding_without_a_place_for_the_tokens_ends_no_session(seeded: _Flask, tmp_path: Path) -> None:
    """A sentence, and the tokens that were written before stay good."""

    def sessions() -> list[tuple[str]]:
        with contextlib.closing(sqlite3.connect(tmp_path / "hongyan.db")) as connection:
            return connection.execute("SELECT session_id FROM chat_session ORDER BY user_id").fetchall()

    before = sessions()
    done = seeded("load-seed", "--users", "4", "--out", str(tmp_path / "missing" / "tokens.json"))

    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "tokens.json cannot be written" in done.stderr
    assert sessions() == before


def test_a_postgresql_without_tables_is_an_error_that_names_the_remedy(flask: _Flask, postgres_url: str) -> None:
    done = flask("admin", "list", DATABASE_URL=postgres_url)

    assert done.returncode == 1
    assert "db upgrade" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_migration_takes_as_long_as_it_needs(flask: _Flask, postgres_url: str) -> None:
    """An index on a large table takes minutes, and to the application a second is too long."""
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(_FIRST_INDEX_TAKES_LONG)

        done = flask("db", "upgrade", DATABASE_URL=postgres_url)

        assert done.returncode == 0, done.stderr
        assert connection.execute("SELECT * FROM taken").fetchall() == [("0", "0")]


def test_a_worker_opens_the_file_that_was_migrated(
    flask: _Flask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flask-SQLAlchemy moves a relative file of SQLite into `instance/`, where workers do not look for it."""
    url = f"sqlite:///{os.path.relpath(tmp_path / 'chat.db', _ROOT)}"
    assert flask("db", "upgrade", DATABASE_URL=url).returncode == 0
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", url)

    database = open_database(load_settings().database_url)
    with database.reading() as connection:
        assert connection.execute(select(User.id)).all() == []
    database.engine.dispose()

    assert (tmp_path / "chat.db").exists()


def test_every_admin_command_explains_itself(flask: _Flask) -> None:
    listed = flask("admin", "--help").stdout

    for command in ("grant", "revoke", "list"):
        assert command in listed
        assert "administrator" in flask("admin", command, "--help").stdout
    assert flask("admin", "grant").returncode == 2


def test_seeding_a_thousand_users_is_quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 users with a group of all of them take less than two seconds of this processor, whatever else it has to do."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", "")
    settings = load_settings()
    database = open_database(settings.database_url)
    User.metadata.create_all(database.engine)
    tokens = Tokens(settings.jwt_secret, settings.token_ttl_seconds)
    started = time.process_time()

    seeded = seed(settings, database, tokens, user_count=1_000, group_size=999)

    assert time.process_time() - started < 2.0
    assert len(seeded) == 1_000
    with database.reading() as connection:
        assert set(connection.execute(select(User.avatar)).scalars()) == {f"{settings.media_url}user.jpg"}
    database.engine.dispose()


def test_seeding_is_refused_in_production(flask: _Flask, tmp_path: Path) -> None:
    done = flask(
        "load-seed",
        *("--users", "2", "--out", str(tmp_path / "tokens.json")),
        HONGYAN_ENV="production",
        JWT_SECRET="0123456789abcdef" * 2,
    )

    assert done.returncode == 1
    assert "production" in done.stderr
