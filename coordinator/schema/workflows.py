"""The tables of workflows' executions and their steps.

What an execution is doing follows from the jobs of its steps (``workflow_standing``), so that the two never
differ. ``state`` counts only for what no job tells: nothing yet, or nothing any more since the jobs were pruned.
"""

from __future__ import annotations

import sqlalchemy as sa

from coordinator.schema.texts import FINAL_STATES, words
from coordinator.states import State


def executions(metadata: sa.MetaData, prefix: str) -> sa.Table:
    name = f"{prefix}coordinator_workflow_executions"
    text, big, json = sa.Text, sa.BigInteger, sa.JSON(none_as_null=True)
    return sa.Table(
        name,
        metadata,
        sa.Column("execution_id", text, primary_key=True),
        sa.Column("workflow", text, nullable=False),
        sa.Column("required_models", json, nullable=False),
        sa.Column("hold", text, nullable=False),
        sa.Column("steps", sa.Integer, nullable=False),
        sa.Column("inputs", json, nullable=False),
        sa.Column("requested_by", text, nullable=False),
        sa.Column("reason", text),
        sa.Column("queued_at", big, nullable=False),
        sa.Column("state", text, nullable=False, server_default=State.WAITING.value),
        sa.Column("finished_at", big),
        sa.Column("error", text),
        # As for jobs: an end in a state that goes on, or none in one that does not, hides the execution.
        sa.CheckConstraint(
            f"(finished_at IS NOT NULL) = (state IN ({FINAL_STATES}))", name="end_in_final_state"
        ),
        sa.CheckConstraint(f"state IN ({words(*State)})", name="known_state"),
        # Without a step it would never begin, nor end.
        sa.CheckConstraint("execution_id <> '' AND workflow <> '' AND steps > 0", name="named"),
        sa.Index(f"{name}_by_time", "queued_at", "execution_id"),
        sa.Index(f"{name}_by_end", "finished_at"),
    )


def steps(metadata: sa.MetaData, prefix: str) -> sa.Table:
    name = f"{prefix}coordinator_workflow_steps"
    text = sa.Text
    return sa.Table(
        name,
        metadata,
        sa.Column(
            "execution_id",
            text,
            sa.ForeignKey(
                f"{prefix}coordinator_workflow_executions.execution_id", ondelete="CASCADE"
            ),
            primary_key=True,
        ),
        # From 1.
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("step", text, nullable=False),
        sa.Column("task", text, nullable=False),
        sa.Column("queue", text, nullable=False),
        sa.Column("model", text),
        sa.Column("models", sa.JSON(none_as_null=True), nullable=False),
        # No foreign key: its job is there once the step before has ended, and may be pruned before the execution.
        # Two steps of one job would each take its end for theirs.
        sa.Column("job_id", text, nullable=False, unique=True),
        sqlite_with_rowid=False,
    )
