"""Complaints, questions and answers, and the questions that wait for one."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "chat_complaint",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("target_id", sa.Integer(), nullable=False),
        sa.Column("target_type", sa.String(length=10), nullable=False),
        sa.Column("target_name", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.String(length=500), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("images", sa.JSON(), nullable=False),
        sa.Column("complaint_chatinfo", sa.JSON(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("admin_reply", sa.Text(), nullable=True),
        sa.Column("create_time", sa.DateTime(), nullable=False),
        sa.Column("update_time", sa.DateTime(), nullable=False),
        sa.Column("is_deleted", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name=op.f("fk_chat_complaint_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chat_complaint")),
    )
    op.create_index(op.f("ix_chat_complaint_user_id"), "chat_complaint", ["user_id"])
    op.create_index(op.f("ix_chat_complaint_status"), "chat_complaint", ["status"])
    op.create_table(
        "askanswer",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("type", sa.String(length=10), nullable=False),
        sa.Column("owner_id", sa.Integer(), nullable=False),
        sa.Column("ask", sa.String(length=200), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("like_count", sa.Integer(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_askanswer")),
        sa.UniqueConstraint("type", "owner_id", "ask", name=op.f("uq_askanswer_type_owner_id_ask")),
    )
    op.create_table(
        "pending_answer",
        sa.Column("question_id", sa.String(length=36), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("handed_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("question_id", name=op.f("pk_pending_answer")),
    )
    op.create_index(op.f("ix_pending_answer_created_at_ms"), "pending_answer", ["created_at_ms"])


def downgrade() -> None:
    for table in ("pending_answer", "askanswer", "chat_complaint"):
        op.drop_table(table)
