"""Workers, and the moments up to which they are known completely."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def _prefix() -> str:
    # Read when it runs: Alembic imports this file before it knows the installation.
    prefix: str = context.config.attributes["schema"].prefix
    return prefix


def _counter(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def upgrade() -> None:
    p = _prefix()
    op.create_table(
        f"{p}coordinator_moments",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        f"{p}coordinator_workers",
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("node", sa.Text(), nullable=False),
        sa.Column("queues", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("slots", sa.Integer(), server_default="0", nullable=False),
        sa.Column("versions", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("first_heartbeat", sa.BigInteger(), nullable=False),
        sa.Column("last_heartbeat", sa.BigInteger(), nullable=False),
        _counter("assigned"),
        _counter("completed"),
        _counter("failed"),
        _counter("counted_epoch"),
        _counter("counted_assigned"),
        _counter("counted_completed"),
        _counter("counted_failed"),
        sa.CheckConstraint("state IN ('live', 'left', 'expired')", name="known_state"),
        sa.CheckConstraint("worker <> '' AND node <> ''", name="named"),
        sa.CheckConstraint(
            "assigned >= 0 AND completed >= 0 AND failed >= 0", name="counters_not_negative"
        ),
        sa.PrimaryKeyConstraint("worker"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        f"{p}coordinator_workers_by_state",
        f"{p}coordinator_workers",
        ["state", "last_heartbeat"],
    )


def downgrade() -> None:
    p = _prefix()
    op.drop_table(f"{p}coordinator_workers")
    op.drop_table(f"{p}coordinator_moments")
