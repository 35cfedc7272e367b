"""Alembic's entry: runs the migrations on the connection of ``Store.upgrade``, in its transaction."""

from __future__ import annotations

from alembic import context

attributes = context.config.attributes
if "connection" not in attributes:
    raise RuntimeError(
        "migrations are run by 'coordinator db upgrade', which holds the lock they need"
    )

context.configure(
    connection=attributes["connection"],
    target_metadata=attributes["schema"].metadata,
    version_table=attributes["schema"].version_table,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
