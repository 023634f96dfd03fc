"""Runs migrations on the application's own engine: `flask --app wsgi db upgrade`."""

from __future__ import annotations

from alembic import context
from flask import current_app

database = current_app.extensions["migrate"].db

with database.engine.connect() as connection:
    # SQLite cannot alter a column in place, so Alembic copies the table (batch mode).
    context.configure(connection=connection, target_metadata=database.metadata, render_as_batch=True, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
