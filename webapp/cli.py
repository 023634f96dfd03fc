"""Commands of `flask --app wsgi`: `load-seed` here, `db` from Flask-Migrate."""

from __future__ import annotations

import json
import secrets
import time
import uuid
from pathlib import Path
from typing import Any

import click
from argon2 import PasswordHasher
from flask import Flask
from sqlalchemy import func, insert, select

from models import friendships, groups, sessions
from models.database import Database, insert_missing
from models.groups import Group
from models.users import User
from settings import Settings
from webapp.tokens import Tokens

_SEED_DEVICE = "default"
_ROWS_PER_STATEMENT = 1_000


def add_commands(app: Flask, settings: Settings, database: Database, tokens: Tokens) -> None:
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
        seeded = seed(settings, database, tokens, user_count=users, group_size=group)
        out.write_text(json.dumps(seeded))
        click.echo(f"{users} users, {group + 1 if group else 0} group members; tokens in {out}")


def seed(settings: Settings, database: Database, tokens: Tokens, *, user_count: int, group_size: int) -> dict[str, str]:
    """Create the users, friendships, group and sessions of `load-seed`; return the tokens by user id.

    Raises click.ClickException: the ids are taken by users that are not the seed's.
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
    with database.writing() as connection:
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
                connection.execute(insert(Group), [{"id": 1, "uuid": group_uuid, "user_id": 1, "name": "seed"}])
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
