"""Alembic runs the migrations on the connection of ``voxtrial.db.migrate``, in its transaction."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=False,  # begin and commit are the caller's
    render_as_batch=True,  # SQLite changes a column by copying the table
)
context.run_migrations()
