"""The tables of jobs and of the models they need."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from coordinator.schema.texts import FINAL_STATES, HELD, RETRYING, UNFINISHED, words
from coordinator.states import State


def jobs(metadata: sa.MetaData, prefix: str, dialect: str) -> sa.Table:
    def partial(name: str, where: str, *columns: str) -> sa.Index:
        # Said for the other database too, it would bring its 2 MiB of modules into each worker.
        condition: Any = {f"{dialect}_where": sa.text(where)}
        return sa.Index(name, *columns, **condition)

    name = f"{prefix}coordinator_jobs"
    big, text, json = sa.BigInteger, sa.Text, sa.JSON(none_as_null=True)

    def counter(column: str, kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
        return sa.Column(column, kind, nullable=False, server_default="0")

    return sa.Table(
        name,
        metadata,
        sa.Column("job_id", text, primary_key=True),
        sa.Column("task", text, nullable=False),
        sa.Column("queue", text, nullable=False),
        sa.Column("model", text),
        sa.Column("required_models", json, nullable=False),
        sa.Column("needs", json, nullable=False),
        sa.Column("org", text),
        sa.Column("owner", text, nullable=False, server_default=""),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("sequence", big, nullable=False),
        sa.Column("state", text, nullable=False),
        sa.Column("queue_position", sa.Integer),
        sa.Column("blocked_by_job_id", text),
        sa.Column("conflict_reason", text),
        sa.Column("message", text, nullable=False),
        sa.Column("args_repr", text, nullable=False),
        sa.Column("kwargs_repr", text, nullable=False),
        sa.Column("root_id", text),
        sa.Column("parent_id", text),
        sa.Column("due_at", big),
        sa.Column("expires_at", big),
        sa.Column("queued_at", big, nullable=False),
        sa.Column("dispatched_at", big),
        sa.Column("started_at", big),
        sa.Column("finished_at", big),
        counter("attempts"),
        counter("retries"),
        counter("losses"),
        sa.Column("max_retries", sa.Integer, nullable=False),
        sa.Column("timeout", sa.Double),
        sa.Column("heartbeat_timeout", sa.Double),
        sa.Column("worker", text),
        sa.Column("token", big),
        sa.Column("last_heartbeat", big),
        sa.Column("progress", json),
        sa.Column("result", text),
        sa.Column("error", text),
        counter("epoch", sa.BigInteger),
        counter("version", sa.BigInteger),
        # A nameless job, task or queue could be neither dispatched nor found again.
        sa.CheckConstraint("job_id <> '' AND task <> '' AND queue <> ''", name="named"),
        # A state the code does not know would be left out of every listing and restore.
        sa.CheckConstraint(f"state IN ({words(*State)})", name="known_state"),
        # An unfinished job with an end is not restored; a finished one without is never pruned.
        sa.CheckConstraint(
            f"(finished_at IS NOT NULL) = (state IN ({FINAL_STATES}))", name="end_in_final_state"
        ),
        # Restore could not tell whose a running job is, nor refuse the finish of an older run.
        sa.CheckConstraint(
            f"NOT {HELD} OR (worker IS NOT NULL AND token IS NOT NULL)", name="run_has_owner"
        ),
        # A delivery without its token would be taken for a stale one, for ever.
        sa.CheckConstraint("state <> 'dispatched' OR token IS NOT NULL", name="dispatch_has_token"),
        # A delayed job without a due time would never be promoted after a restore.
        sa.CheckConstraint("state <> 'delayed' OR due_at IS NOT NULL", name="delay_has_end"),
        # Celery on Redis knows ten priorities; others would fall outside the order.
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name="known_priority"),
        # A negative counter would allow more runs than were granted.
        sa.CheckConstraint(
            "attempts >= 0 AND retries >= 0 AND losses >= 0", name="counters_not_negative"
        ),
        # -1 is unlimited; less has no meaning and would end every job at its first failure.
        sa.CheckConstraint("max_retries >= -1", name="known_max_retries"),
        # Versions below the first would let an old event overwrite a new one.
        sa.CheckConstraint("epoch >= 0 AND version >= 0", name="versions_not_negative"),
        sa.Index(f"{name}_by_order", "sequence", "job_id"),
        partial(f"{name}_unfinished", UNFINISHED, "sequence", "job_id"),
        # Its first column is always NULL: a constant to look for, which SQLite takes before any range.
        partial(f"{name}_retrying", RETRYING, "finished_at", "sequence", "job_id"),
        partial(f"{name}_by_worker", HELD, "worker"),
        partial(f"{name}_by_owner", "owner <> ''", "owner"),
        sa.Index(f"{name}_by_state", "state", "sequence", "job_id"),
        sa.Index(f"{name}_by_state_and_queue", "state", "queue", "sequence", "job_id"),
        sa.Index(f"{name}_by_queue", "queue", "sequence", "job_id"),
        sa.Index(f"{name}_by_org", "org", "sequence", "job_id"),
        sa.Index(f"{name}_by_model", "model", "sequence", "job_id"),
        partial(f"{name}_by_end", "finished_at IS NOT NULL", "state", "finished_at", "job_id"),
    )


def models(metadata: sa.MetaData, prefix: str) -> sa.Table:
    # Only the second and further models of a job: the first is in its row, so that most jobs are one insert.
    return sa.Table(
        f"{prefix}coordinator_job_models",
        metadata,
        sa.Column(
            "job_id",
            sa.Text,
            sa.ForeignKey(f"{prefix}coordinator_jobs.job_id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("model", sa.Text, primary_key=True),
        sa.Index(f"{prefix}coordinator_job_models_by_model", "model", "job_id"),
        sqlite_with_rowid=False,
    )
