"""The index of ends holds ended jobs only: what has not ended need not be moved about in it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _table() -> str:
    # Read when it runs: Alembic imports this file before it knows the installation.
    prefix: str = context.config.attributes["schema"].prefix
    return f"{prefix}coordinator_jobs"


def upgrade() -> None:
    name = f"{_table()}_by_end"
    op.drop_index(name, _table())
    op.create_index(
        name,
        _table(),
        ["state", "finished_at", "job_id"],
        sqlite_where=sa.text("finished_at IS NOT NULL"),
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )


def downgrade() -> None:
    name = f"{_table()}_by_end"
    op.drop_index(name, _table())
    op.create_index(name, _table(), ["state", "finished_at", "job_id"])
