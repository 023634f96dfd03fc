"""Indexes of messages by recipient and group hold only the rows that have one: a message writes one index less."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_INDEXES = (("ix_message_recipient", ["recipient_id", "shard", "shard_seq"]), ("ix_message_group_id", ["group_id"]))


def upgrade() -> None:
    for name, columns in _INDEXES:
        is_there = sa.text(f"{columns[0]} IS NOT NULL")
        op.drop_index(name, table_name="message")
        op.create_index(name, "message", columns, sqlite_where=is_there, postgresql_where=is_there)


def downgrade() -> None:
    for name, columns in _INDEXES:
        op.drop_index(name, table_name="message")
        op.create_index(name, "message", columns)
