"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _prefix() -> str:
    # Read when it runs: Alembic imports this file before it knows the installation.
    prefix: str = context.config.attributes["schema"].prefix
    return prefix


def upgrade() -> None:
    p = _prefix()
    op.create_table(
        f"{p}coordinator_epochs",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("epoch >= 0", name="epoch_not_negative"),
        sa.CheckConstraint("id = 1", name="one_row"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        f"{p}coordinator_events",
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=True),
        sa.Column("queue", sa.Text(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("who", sa.Text(), nullable=True),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("resource", sa.Text(), nullable=True),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("after", sa.Text(), nullable=True),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.CheckConstraint("event_id <> '' AND event_type <> ''", name="named"),
        sa.CheckConstraint("epoch > 0 AND version >= 0", name="versions_not_negative"),
        sa.PrimaryKeyConstraint("epoch", "event_id"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        f"{p}coordinator_events_by_job", f"{p}coordinator_events", ["job_id", "ordinal"]
    )
    op.create_index(
        f"{p}coordinator_events_by_time", f"{p}coordinator_events", ["ordinal", "event_id"]
    )
    op.create_index(
        f"{p}coordinator_events_by_type", f"{p}coordinator_events", ["event_type", "ordinal"]
    )
    op.create_table(
        f"{p}coordinator_jobs",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("required_models", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("needs", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("org", sa.Text(), nullable=True),
        sa.Column("owner", sa.Text(), server_default="", nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("queue_position", sa.Integer(), nullable=True),
        sa.Column("blocked_by_job_id", sa.Text(), nullable=True),
        sa.Column("conflict_reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("args_repr", sa.Text(), nullable=False),
        sa.Column("kwargs_repr", sa.Text(), nullable=False),
        sa.Column("root_id", sa.Text(), nullable=True),
        sa.Column("parent_id", sa.Text(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("queued_at", sa.BigInteger(), nullable=False),
        sa.Column("dispatched_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("retries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_retries", sa.Integer(), nullable=False),
        sa.Column("timeout", sa.Double(), nullable=True),
        sa.Column("heartbeat_timeout", sa.Double(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("token", sa.BigInteger(), nullable=True),
        sa.Column("last_heartbeat", sa.BigInteger(), nullable=True),
        sa.Column("progress", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('canceled', 'completed', 'failed', 'unprocessable'))",
            name="end_in_final_state",
        ),
        sa.CheckConstraint(
            "NOT state IN ('running', 'stopping') OR (worker IS NOT NULL AND token IS NOT NULL)",
            name="run_has_owner",
        ),
        sa.CheckConstraint("job_id <> '' AND task <> '' AND queue <> ''", name="named"),
        sa.CheckConstraint("state <> 'delayed' OR due_at IS NOT NULL", name="delay_has_end"),
        sa.CheckConstraint("state <> 'dispatched' OR token IS NOT NULL", name="dispatch_has_token"),
        sa.CheckConstraint(
            "state IN ('delayed', 'waiting', 'dispatched', 'running', 'stopping', "
            "'completed', 'failed', 'unprocessable', 'canceled')",
            name="known_state",
        ),
        sa.CheckConstraint(
            "attempts >= 0 AND retries >= 0 AND losses >= 0", name="counters_not_negative"
        ),
        sa.CheckConstraint("epoch >= 0 AND version >= 0", name="versions_not_negative"),
        sa.CheckConstraint("max_retries >= -1", name="known_max_retries"),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name="known_priority"),
        sa.PrimaryKeyConstraint("job_id"),
    )
    op.create_index(
        f"{p}coordinator_jobs_by_end", f"{p}coordinator_jobs", ["state", "finished_at", "job_id"]
    )
    op.create_index(
        f"{p}coordinator_jobs_by_model", f"{p}coordinator_jobs", ["model", "sequence", "job_id"]
    )
    op.create_index(f"{p}coordinator_jobs_by_order", f"{p}coordinator_jobs", ["sequence", "job_id"])
    op.create_index(
        f"{p}coordinator_jobs_by_org", f"{p}coordinator_jobs", ["org", "sequence", "job_id"]
    )
    op.create_index(
        f"{p}coordinator_jobs_by_queue", f"{p}coordinator_jobs", ["queue", "sequence", "job_id"]
    )
    op.create_index(
        f"{p}coordinator_jobs_by_state", f"{p}coordinator_jobs", ["state", "sequence", "job_id"]
    )
    op.create_index(
        f"{p}coordinator_jobs_by_state_and_queue",
        f"{p}coordinator_jobs",
        ["state", "queue", "sequence", "job_id"],
    )
    op.create_index(
        f"{p}coordinator_jobs_by_worker",
        f"{p}coordinator_jobs",
        ["worker"],
        sqlite_where=sa.text("state IN ('running', 'stopping')"),
        postgresql_where=sa.text("state IN ('running', 'stopping')"),
    )
    op.create_index(
        f"{p}coordinator_jobs_retrying",
        f"{p}coordinator_jobs",
        ["finished_at", "sequence", "job_id"],
        sqlite_where=sa.text("retries > 0 AND finished_at IS NULL"),
        postgresql_where=sa.text("retries > 0 AND finished_at IS NULL"),
    )
    op.create_index(
        f"{p}coordinator_jobs_unfinished",
        f"{p}coordinator_jobs",
        ["sequence", "job_id"],
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        f"{p}coordinator_poison_events",
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("set_aside_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("epoch", "event_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        f"{p}coordinator_settings",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("value", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("set_by", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("until_at", sa.BigInteger(), nullable=True),
        sa.Column("set_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('limit', 'hold', 'override', 'weight')", name="known_kind"),
        sa.PrimaryKeyConstraint("kind", "resource"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        f"{p}coordinator_totals",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("value >= 0", name="value_not_negative"),
        sa.PrimaryKeyConstraint("name", "queue", "label"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        f"{p}coordinator_workflows",
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
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('canceled', 'completed', 'failed', 'unprocessable'))",
            name="end_in_final_state",
        ),
        sa.CheckConstraint(
            "state IN ('delayed', 'waiting', 'dispatched', 'running', 'stopping', "
            "'completed', 'failed', 'unprocessable', 'canceled')",
            name="known_state",
        ),
        sa.PrimaryKeyConstraint("execution_id"),
    )
    op.create_index(
        f"{p}coordinator_workflows_by_state", f"{p}coordinator_workflows", ["state", "queued_at"]
    )
    op.create_index(
        f"{p}coordinator_workflows_by_time",
        f"{p}coordinator_workflows",
        ["queued_at", "execution_id"],
    )
    op.create_table(
        f"{p}coordinator_job_models",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], [f"{p}coordinator_jobs.job_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "model"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        f"{p}coordinator_job_models_by_model", f"{p}coordinator_job_models", ["model", "job_id"]
    )


def downgrade() -> None:
    p = _prefix()
    op.drop_table(f"{p}coordinator_job_models")
    op.drop_table(f"{p}coordinator_workflows")
    op.drop_table(f"{p}coordinator_totals")
    op.drop_table(f"{p}coordinator_settings")
    op.drop_table(f"{p}coordinator_poison_events")
    op.drop_table(f"{p}coordinator_jobs")
    op.drop_table(f"{p}coordinator_events")
    op.drop_table(f"{p}coordinator_epochs")
