"""The tables of what happened: the log, and the executions of workflows."""

from __future__ import annotations

import sqlalchemy as sa

from coordinator.schema.texts import FINAL_STATES, words
from coordinator.states import State


def events(metadata: sa.MetaData, prefix: str) -> sa.Table:
    name = f"{prefix}coordinator_events"
    text = sa.Text
    return sa.Table(
        name,
        metadata,
        # The key that makes a replayed batch change nothing.
        sa.Column("epoch", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("event_id", text, primary_key=True),
        # Stream ids do not sort as text (9 after 10): this is the same id as one number.
        sa.Column("ordinal", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        # No foreign key: the log tells of jobs that were pruned, and of no job at all.
        sa.Column("job_id", text, nullable=False),
        sa.Column("task", text),
        sa.Column("queue", text),
        sa.Column("event_type", text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("who", text),
        sa.Column("why", text),
        sa.Column("resource", text),
        sa.Column("before", text),
        sa.Column("after", text),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        # A nameless event could not be filtered for, nor told from a damaged one.
        sa.CheckConstraint("event_id <> '' AND event_type <> ''", name="named"),
        # Events of before the first epoch would collide with rows that no event has touched.
        sa.CheckConstraint("epoch > 0 AND version >= 0", name="versions_not_negative"),
        sa.Index(f"{name}_by_time", "ordinal", "event_id"),
        sa.Index(f"{name}_by_job", "job_id", "ordinal"),
        sa.Index(f"{name}_by_type", "event_type", "ordinal"),
        sqlite_with_rowid=False,
    )


def workflows(metadata: sa.MetaData, prefix: str) -> sa.Table:
    name = f"{prefix}coordinator_workflows"
    text, big, json = sa.Text, sa.BigInteger, sa.JSON(none_as_null=True)
    return sa.Table(
        name,
        metadata,
        sa.Column("execution_id", text, primary_key=True),
        sa.Column("workflow", text, nullable=False),
        sa.Column("required_models", json, nullable=False),
        sa.Column("current_step", text),
        sa.Column("current_step_model", text),
        sa.Column("state", text, nullable=False),
        sa.Column("blocked_by_job_id", text),
        sa.Column("conflict_reason", text),
        sa.Column("requested_by", text),
        sa.Column("queued_at", big, nullable=False),
        sa.Column("started_at", big),
        sa.Column("finished_at", big),
        sa.Column("error", text),
        sa.Column("data", json),
        # As for jobs: an end in a state that goes on, or none in one that does not, hides the execution.
        sa.CheckConstraint(
            f"(finished_at IS NOT NULL) = (state IN ({FINAL_STATES}))", name="end_in_final_state"
        ),
        sa.CheckConstraint(f"state IN ({words(*State)})", name="known_state"),
        sa.Index(f"{name}_by_state", "state", "queued_at"),
        sa.Index(f"{name}_by_time", "queued_at", "execution_id"),
    )
