"""Runs migrations on the application's own engine: `flask --app wsgi db upgrade`."""

from __future__ import annotations

from alembic import context
from flask import current_app

database = current_app.extensions["migrate"].db

with database.engine.connect() as connection:
    if connection.dialect.name == "postgresql":
        # The application's second for a statement is not enough for an index on a large table. A lock is waited for a little
        # longer than our transactions can hold one, no longer: whoever comes after us waits behind us.
        connection.exec_driver_sql(
            "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = '5s'"
        )
        connection.commit()  # else a rollback would bring the limits back
        connection.detach()  # nor is it given to anybody else
    # SQLite cannot alter a column in place, so Alembic copies the table (batch mode).
    context.configure(connection=connection, target_metadata=database.metadata, render_as_batch=True, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
