"""`flask --app wsgi import-original`: takes over an original's data. Here it is asked for and told of; `tasks/original/` does it."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from flask import Flask
from sqlalchemy.exc import SQLAlchemyError

from models.database import Database
from models.errors import DatabaseUnavailable, StoreUnavailable
from models.takeovers import Overtaken
from settings import Settings
from tasks.original.dump import DumpError
from tasks.original.report import Report
from tasks.original.scratch import ScratchBusy
from tasks.original.takeover import LEFT_FILE, Outcome, Refused, Source, Takeover
from webapp.passwords import Passwords

_TOLD_SECONDS = 0.5
_CLOCK = re.compile(r"([+-])(\d\d):(\d\d)\Z")


class _Refusal(click.ClickException):
    exit_code = 3


class _Unreadable(click.ClickException):
    exit_code = 4


class _Clock(click.ParamType[timedelta]):
    name = "±HH:MM"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        match = _CLOCK.match(str(value))
        if match is None or int(match[2]) > 14 or int(match[3]) > 59:
            self.fail(f"{value!r} is no difference to UTC such as +08:00", param, ctx)
        minutes = int(match[2]) * 60 + int(match[3])
        return timedelta(minutes=-minutes if match[1] == "-" else minutes)


def add_command(app: Flask, settings: Settings, database: Database) -> None:
    """Add `import-original`."""

    @app.cli.command("import-original", short_help="Take over an original's users, friends, groups and queues.")
    @click.argument("dump", type=click.Path(exists=True, dir_okay=False, path_type=Path))
    @click.option("--redis", "redis_url", metavar="URL", help="The original's Redis, for what waits for its users.")
    @click.option(
        "--database", "database_name", metavar="NAME", help="Whose tables, where the dump holds several databases."
    )
    @click.option(
        "--timezone", "ahead", type=_Clock(), default="+00:00", show_default=True, help="The clock of its times."
    )
    @click.option("--dry-run", is_flag=True, help="Write nothing; print the report that an import would print.")
    @click.option(
        "--report", "report_path", type=click.Path(dir_okay=False, path_type=Path), help="The report as JSON."
    )
    def import_original(
        dump: Path,
        redis_url: str | None,
        database_name: str | None,
        ahead: timedelta,
        dry_run: bool,
        report_path: Path | None,
    ) -> None:
        """Take over an original's data from DUMP, a file that mysqldump wrote, plain or packed with gzip.

        Users, friends, applications, groups, settings, and with --redis the messages that wait for users, each shown at his
        next login with its id and time. Ids of users and groups stay, so it wants an empty system, which may run
        meanwhile: nobody of the original gets in before all is there. The original must be stopped. Its passwords hold: each is
        hashed anew at the first login. Nobody stays logged in. docs/migrating.md tells the steps and every rule.

        An import that was interrupted goes on when the same command is repeated. One that is finished is not repeated:
        the same dump adds nothing.

        \b
        Exit codes:
          0  taken over, now or before
          1  a database or Redis does not answer, or an import is at work here: repeat the command
          2  an argument is wrong
          3  refused: the system is not empty, or has taken over another dump
          4  the dump cannot be read; the message says where
        """
        with _told(report_path):
            takeover = Takeover(settings, database, Passwords().wrap_original, _Progress().tell)
            outcome = takeover.run(Source(dump, redis_url, database_name, ahead), is_dry_run=dry_run)
        _show(outcome, settings, report_path, is_dry_run=dry_run)


@contextmanager
def _told(report_path: Path | None) -> Iterator[None]:
    """Turn what can go wrong into a sentence and an exit code."""
    try:
        if report_path is not None and not os.access(report_path.absolute().parent, os.W_OK):
            raise click.UsageError(f"the report cannot be written to {report_path}")
        yield
    except Refused as error:
        raise _Refusal(str(error)) from error
    except DumpError as error:
        raise _Unreadable(f"the dump cannot be read: {error}") from error
    except ScratchBusy as error:
        raise click.ClickException("another import is at work here") from error
    except StoreUnavailable as error:
        raise click.ClickException(f"the original's Redis cannot be read ({error}); repeat the command") from error
    except (DatabaseUnavailable, SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise click.ClickException(
            f"the database cannot be used ({reason}); repeat the command, after `flask --app wsgi db upgrade` or `make run` "
            "where it has no tables yet"
        ) from error
    except Overtaken as error:
        raise click.ClickException(
            f"{error}: another import goes on with it, or this one has lost the database"
        ) from error
    except (OSError, sqlite3.Error) as error:  # of the dump, or of the scratch file: no disk is left, perhaps
        raise click.ClickException(str(error)) from error


def _show(outcome: Outcome, settings: Settings, report_path: Path | None, *, is_dry_run: bool) -> None:
    if outcome.report is None:
        finished = datetime.fromtimestamp(outcome.finished_at_ms / 1000, UTC).isoformat(timespec="seconds")
        click.echo(f"this dump was taken over at {finished}: nothing to do")
        return
    click.echo(outcome.report.as_text())
    if report_path is not None:
        descriptor = os.open(report_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(outcome.report.as_json(), file, ensure_ascii=False, indent=2)
    if is_dry_run:
        click.echo("nothing was written: this was a dry run", err=True)
    elif _has_left(outcome.report):
        click.echo(f"what nobody can be shown is kept in {settings.data_dir / LEFT_FILE}", err=True)


def _has_left(report: Report) -> bool:
    return any(report.count(code) for code in ("entry_unreadable", "entry_too_large", "queue_of_nobody"))


class _Progress:
    """Tells on a terminal how far it is."""

    def __init__(self) -> None:
        self._told_at = 0.0
        self._done = ""  # what was told to be done
        self._is_wanted = sys.stderr.isatty()

    def tell(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._is_wanted or what == self._done or (now - self._told_at < _TOLD_SECONDS and done != total):
            return
        self._told_at = now
        self._done = what if total and done == total else ""
        share = f" {done * 100 // total} %" if total else f" {done:,}" if done else ""
        end = "\n" if self._done else ""
        click.echo(f"\r\x1b[K{what}{share}{end}", nl=False, err=True)
