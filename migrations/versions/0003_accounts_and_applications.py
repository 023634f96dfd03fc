"""Accounts: profiles, friend applications, administrators, external ids, the role of a session."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "goodfriendapply",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("friend_id", sa.Integer(), nullable=False),
        sa.Column("nickname", sa.String(length=50), nullable=False),
        sa.Column("friendlookme", sa.SmallInteger(), nullable=False),
        sa.Column("melookfriend", sa.SmallInteger(), nullable=False),
        sa.Column("ismystarfriend", sa.SmallInteger(), nullable=False),
        sa.Column("isblack", sa.SmallInteger(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("order", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.DateTime(), nullable=False),
        sa.Column("update_time", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["friend_id"], ["user.id"], name=op.f("fk_goodfriendapply_friend_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name=op.f("fk_goodfriendapply_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_goodfriendapply")),
    )
    with op.batch_alter_table("goodfriendapply", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_goodfriendapply_friend_id"), ["friend_id"], unique=False)
        batch_op.create_index(
            "uq_goodfriendapply_pending",
            ["user_id", "friend_id"],
            unique=True,
            sqlite_where=sa.text("status = 'pending'"),
            postgresql_where=sa.text("status = 'pending'"),
        )

    op.create_table(
        "user_info",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column(
            "gender", sa.Enum("male", "female", "unknown", name="gender", native_enum=False, length=10), nullable=False
        ),
        sa.Column("birthday", sa.DateTime(), nullable=True),
        sa.Column("bio", sa.String(length=200), nullable=True),
        sa.Column("location", sa.String(length=100), nullable=True),
        sa.Column("website", sa.String(length=255), nullable=True),
        sa.Column("order", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.DateTime(), nullable=False),
        sa.Column("update_time", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user.id"], name=op.f("fk_user_info_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_user_info")),
        sa.UniqueConstraint("user_id", name=op.f("uq_user_info_user_id")),
    )
    # Plain ADD COLUMN and unique indexes: batch mode would make SQLite drop "user", and what refers to it would go with it.
    op.add_column("chat_session", sa.Column("role", sa.String(length=20), nullable=False, server_default="user"))
    op.add_column("user", sa.Column("mobile", sa.String(length=20), nullable=True))
    op.add_column("user", sa.Column("email", sa.String(length=100), nullable=True))
    op.add_column("user", sa.Column("is_administrator", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("user", sa.Column("external_id", sa.String(length=128), nullable=True))
    op.add_column("user", sa.Column("last_login_ip", sa.String(length=45), nullable=True))
    op.add_column("user", sa.Column("register_ip", sa.String(length=45), nullable=True))
    for column in ("mobile", "email", "external_id"):
        op.create_index(op.f(f"ix_user_{column}"), "user", [column], unique=True)


def downgrade() -> None:
    for column in ("external_id", "email", "mobile"):
        op.drop_index(op.f(f"ix_user_{column}"), table_name="user")
    for column in ("register_ip", "last_login_ip", "external_id", "is_administrator", "email", "mobile"):
        op.drop_column("user", column)
    op.drop_column("chat_session", "role")
    op.drop_table("user_info")
    op.drop_table("goodfriendapply")
