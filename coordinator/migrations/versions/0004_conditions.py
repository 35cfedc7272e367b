"""Conditions: circuit breakers, alerts and the populator's rounds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def _name() -> str:
    # Read when it runs: Alembic imports this file before it knows the installation.
    prefix: str = context.config.attributes["schema"].prefix
    return f"{prefix}coordinator_conditions"


def upgrade() -> None:
    op.create_table(
        _name(),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.CheckConstraint("kind IN ('breaker', 'alert', 'populator')", name="known_kind"),
        sa.PrimaryKeyConstraint("kind", "name"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table(_name())
