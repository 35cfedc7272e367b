"""Executions of workflows and their steps; the table of the first migration was never written."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_FINAL = "'canceled', 'completed', 'failed', 'unprocessable'"


def _prefix() -> str:
    # Read when it runs: Alembic imports this file before it knows the installation.
    prefix: str = context.config.attributes["schema"].prefix
    return f"{prefix}coordinator_"


def _checks() -> tuple[sa.CheckConstraint, sa.CheckConstraint]:
    return (
        sa.CheckConstraint(
            f"(finished_at IS NOT NULL) = (state IN ({_FINAL}))", name="end_in_final_state"
        ),
        sa.CheckConstraint(
            "state IN ('delayed', 'waiting', 'dispatched', 'running', 'stopping', "
            "'completed', 'failed', 'unprocessable', 'canceled')",
            name="known_state",
        ),
    )


def upgrade() -> None:
    prefix = _prefix()
    op.drop_table(f"{prefix}workflows")
    op.create_table(
        f"{prefix}workflow_executions",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("required_models", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("hold", sa.Text(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("inputs", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("requested_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default="waiting", nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        *_checks(),
        sa.CheckConstraint("execution_id <> '' AND workflow <> '' AND steps > 0", name="named"),
        sa.PrimaryKeyConstraint("execution_id"),
    )
    op.create_index(
        f"{prefix}workflow_executions_by_time",
        f"{prefix}workflow_executions",
        ["queued_at", "execution_id"],
    )
    op.create_index(
        f"{prefix}workflow_executions_by_end", f"{prefix}workflow_executions", ["finished_at"]
    )
    op.create_table(
        f"{prefix}workflow_steps",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("models", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["execution_id"], [f"{prefix}workflow_executions.execution_id"], ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("execution_id", "position"),
        sa.UniqueConstraint("job_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        f"{prefix}jobs_by_owner",
        f"{prefix}jobs",
        ["owner"],
        sqlite_where=sa.text("owner <> ''"),
        postgresql_where=sa.text("owner <> ''"),
    )


def downgrade() -> None:
    prefix = _prefix()
    op.drop_index(f"{prefix}jobs_by_owner", f"{prefix}jobs")
    op.drop_table(f"{prefix}workflow_steps")
    op.drop_table(f"{prefix}workflow_executions")
    op.create_table(
        f"{prefix}workflows",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("workflow", sa.Text(), nullable=False),
        sa.Column("required_models", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("current_step", sa.Text(), nullable=True),
        sa.Column("current_step_model", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("blocked_by_job_id", sa.Text(), nullable=True),
        sa.Column("conflict_reason", sa.Text(), nullable=True),
        sa.Column("requested_by", sa.Text(), nullable=True),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=True),
        *_checks(),
        sa.PrimaryKeyConstraint("execution_id"),
    )
    op.create_index(f"{prefix}workflows_by_state", f"{prefix}workflows", ["state", "queued_at"])
    op.create_index(
        f"{prefix}workflows_by_time", f"{prefix}workflows", ["queued_at", "execution_id"]
    )
