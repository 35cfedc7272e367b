"""The table of what happened: the log."""

from __future__ import annotations

import sqlalchemy as sa


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
