"""Commands of `flask --app wsgi`: `load-seed` and `admin` here, `import-original` in importing.py, `db` from Flask-Migrate.

A process that serves has none.
"""

from __future__ import annotations

import json
import os
import secrets
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from argon2 import PasswordHasher
from flask import Flask
from flask.cli import AppGroup
from flask_migrate import Migrate
from sqlalchemy import Connection, func, insert, select
from sqlalchemy.exc import ProgrammingError

from models import administration, friendships, groups, sessions
from models.database import Database, db, insert_missing
from models.errors import DatabaseUnavailable, ModelError
from models.groups import Group
from models.users import ACTIVE, User
from settings import Settings
from webapp import importing
from webapp.devices import Devices
from webapp.tokens import Tokens

_SEED_DEVICE = "default"
_ROWS_PER_STATEMENT = 1_000

# What a change of `admin grant` and `admin revoke` that did not come to pass means for whoever asked for it.
_REFUSALS = {
    "no_such_user": "there is no user {username!r}: the username is what he logs in with",
    "visitor": "{username!r} is a visitor: only a registered user can be an administrator",
    "disabled": "{username!r} is disabled: enable him first",
}


def add_commands(app: Flask, settings: Settings, database: Database, tokens: Tokens, devices: Devices) -> None:
    """Add every command to `flask --app wsgi`."""
    Migrate(app, db, directory="migrations", render_as_batch=True)
    _add_load_seed(app, settings, database, tokens, devices)
    app.cli.add_command(_admin_commands(database))
    importing.add_command(app, settings, database)


def _admin_commands(database: Database) -> AppGroup:
    group = AppGroup("admin", help="Say who is an administrator.")

    @group.command("grant")
    @click.argument("username")
    def grant(username: str) -> None:
        """Make the user who logs in as USERNAME an administrator.

        Administrators disable and enable users, friend rows and groups with POST /api/admin/…. It holds at once, for the
        sessions he has too.
        """
        with _operating(database) as connection:
            change = administration.grant(connection, username)
        _tell(change, username, changed="is an administrator now", unchanged="is an administrator already")

    @group.command("revoke")
    @click.argument("username")
    def revoke(username: str) -> None:
        """Make the administrator USERNAME an ordinary user again. It holds at once; his sessions go on."""
        with _operating(database) as connection:
            change = administration.revoke(connection, username)
        _tell(change, username, changed="is no administrator any more", unchanged="is no administrator")

    @group.command("list")
    def show() -> None:
        """List the administrators: id, username, nickname, tab-separated; marked where disabled."""
        with _operating(database) as connection:
            found = administration.load_administrators(connection)
        for each in found:
            mark = "" if each.status == ACTIVE else "\tdisabled"
            click.echo(f"{each.user_id}\t{each.username}\t{each.nickname}{mark}")
        if not found:
            click.echo("there are no administrators: `flask --app wsgi admin grant <username>` makes one", err=True)

    return group


def _tell(change: administration.Change, username: str, *, changed: str, unchanged: str) -> None:
    if change in _REFUSALS:
        raise click.ClickException(_REFUSALS[change].format(username=username))
    click.echo(f"{username} {changed if change == 'changed' else unchanged}")


@contextmanager
def _operating(database: Database) -> Iterator[Connection]:
    """One transaction of a command. Raises click.ClickException: the database does not answer, or has no tables yet."""
    try:
        with database.writing() as connection:
            yield connection
    except (DatabaseUnavailable, ProgrammingError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise click.ClickException(
            f"the database cannot be used ({reason}); `flask --app wsgi db upgrade` or `make run` makes its tables"
        ) from error


def _add_load_seed(app: Flask, settings: Settings, database: Database, tokens: Tokens, devices: Devices) -> None:
    @app.cli.command("load-seed")
    @click.option("--users", type=click.IntRange(1, 1_000_000), required=True, help="Users 1..N, 2i-1 and 2i friends.")
    @click.option("--group", type=click.IntRange(0), default=0, help="Members of group 1 besides its owner, user 1.")
    @click.option(
        "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="JSON: user id to token."
    )
    def load_seed(users: int, group: int, out: Path) -> None:
        """Fill an empty system with users, friends and a group for load tests, and write their tokens.

        Repeating it keeps what is there and gives every user a new session.
        """
        if settings.production:
            raise click.ClickException("load-seed is refused in production (HONGYAN_ENV=production)")
        if group >= users:
            raise click.ClickException(f"--group {group} needs at least {group + 1} users")
        # Before their sessions end: nobody could be them any more.
        if not os.access(out if out.exists() else out.parent, os.W_OK):
            raise click.ClickException(f"{out} cannot be written: the sessions of the seed's users stay as they are")
        seeded = seed(settings, database, tokens, user_count=users, group_size=group)
        try:
            devices.register_all(range(1, users + 1), _SEED_DEVICE)  # as their logins would have done
        except ModelError as error:
            click.echo(f"no device is registered before it connects: {error}", err=True)
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)  # tokens are credentials
        with os.fdopen(descriptor, "w") as file:
            json.dump(seeded, file)
        click.echo(f"{users} users, {group + 1 if group else 0} group members; tokens in {out}")


def seed(settings: Settings, database: Database, tokens: Tokens, *, user_count: int, group_size: int) -> dict[str, str]:
    """Create the users, friendships, group and sessions of `load-seed`; return the tokens by user id.

    Raises click.ClickException: the ids are taken by users that are not the seed's, or the database does not answer.
    """
    # One hash for all: argon2 takes 50 ms each, and nobody logs in with these passwords.
    password = PasswordHasher().hash(secrets.token_hex(16))
    user_ids = range(1, user_count + 1)
    user_rows: list[dict[str, Any]] = [
        {
            "id": user_id,
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, f"hongyan-seed-{user_id}")),
            "username": f"seed{user_id}",
            "password": password,
            "nickname": f"用户{user_id}",
            "avatar": f"{settings.media_url}user.jpg",
        }
        for user_id in user_ids
    ]
    now_ms = time.time_ns() // 1_000_000
    session_rows: list[dict[str, Any]] = [
        {
            "user_id": user_id,
            "device": _SEED_DEVICE,
            "session_id": secrets.token_hex(8),
            "created_at_ms": now_ms,
            "expires_at_ms": now_ms + settings.token_ttl_seconds * 1000,
        }
        for user_id in user_ids
    ]
    with _operating(database) as connection:
        foreign = select(func.count()).select_from(User).where(User.id <= user_count, User.username.not_like("seed%"))
        if connection.execute(foreign).scalar_one():
            raise click.ClickException(
                "users that are not the seed's are there already: load-seed wants an empty system"
            )
        for start in range(0, user_count, _ROWS_PER_STATEMENT):
            insert_missing(connection, User, user_rows[start : start + _ROWS_PER_STATEMENT], key=("id",))
        friendships.befriend(connection, [(low, low + 1) for low in range(1, user_count, 2)])
        if group_size:
            if connection.execute(select(Group.id).where(Group.id == 1)).first() is None:
                group_uuid = str(uuid.uuid5(uuid.NAMESPACE_OID, "hongyan-seed-group-1"))
                avatar = f"{settings.media_url}group.png"
                row = {"id": 1, "uuid": group_uuid, "user_id": 1, "name": "seed", "avatar": avatar}
                connection.execute(insert(Group), [row])
            groups.add_members(connection, 1, range(1, group_size + 2))
        sessions.start_sessions(connection, session_rows)
        if connection.dialect.name == "postgresql":
            # Ids were given by hand, so the sequences must be moved past them.
            for table in ("user", "group"):
                newest = f'(SELECT greatest(max(id), 1) FROM "{table}")'
                connection.exec_driver_sql(f"SELECT setval(pg_get_serial_sequence('\"{table}\"', 'id'), {newest})")
    return {
        str(row["user_id"]): tokens.sign(
            user_id=row["user_id"],
            uuid=user_rows[row["user_id"] - 1]["uuid"],
            role="user",
            session_id=row["session_id"],
            device=_SEED_DEVICE,
        )
        for row in session_rows
    }
