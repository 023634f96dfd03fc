"""How far the import of an original's data is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "takeover",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("dump_sha256", sa.String(64), nullable=False),
        sa.Column("has_queues", sa.Boolean(), nullable=False),
        sa.Column("step", sa.String(20), nullable=False),
        sa.Column("place", sa.BigInteger(), nullable=False),
        sa.Column("started_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("report", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_takeover"),
    )


def downgrade() -> None:
    op.drop_table("takeover")
