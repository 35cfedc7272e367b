"""The tables of the workers, and of the moments up to which something is known to be complete."""

from __future__ import annotations

import sqlalchemy as sa

from coordinator.schema.texts import words

#: What a worker can be: it has a lease, it left in order, or its lease ended.
WORKER_STATES = ("live", "left", "expired")


def workers(metadata: sa.MetaData, prefix: str) -> sa.Table:
    name = f"{prefix}coordinator_workers"
    big, text, json = sa.BigInteger, sa.Text, sa.JSON(none_as_null=True)

    def counter(column: str) -> sa.Column[int]:
        return sa.Column(column, big, nullable=False, server_default="0")

    return sa.Table(
        name,
        metadata,
        sa.Column("worker", text, primary_key=True),
        sa.Column("node", text, nullable=False),
        sa.Column("queues", json, nullable=False),
        sa.Column("slots", sa.Integer, nullable=False, server_default="0"),
        sa.Column("versions", json, nullable=False),
        sa.Column("state", text, nullable=False),
        sa.Column("reason", text),
        # Redis's clock, like all times of this table: a worker's own may be off by hours.
        sa.Column("first_heartbeat", big, nullable=False),
        sa.Column("last_heartbeat", big, nullable=False),
        counter("assigned"),
        counter("completed"),
        counter("failed"),
        # What the ledger counted when it was last asked: it begins at nothing with each epoch, these do not.
        counter("counted_epoch"),
        counter("counted_assigned"),
        counter("counted_completed"),
        counter("counted_failed"),
        # A state the code does not know would be awaited by no restore, and forgotten by no retention.
        sa.CheckConstraint(f"state IN ({words(*WORKER_STATES)})", name="known_state"),
        # A nameless worker could not be told from another one.
        sa.CheckConstraint("worker <> '' AND node <> ''", name="named"),
        # These are shown as what a worker has done: never less than nothing.
        sa.CheckConstraint(
            "assigned >= 0 AND completed >= 0 AND failed >= 0", name="counters_not_negative"
        ),
        sa.Index(f"{name}_by_state", "state", "last_heartbeat"),
        sqlite_with_rowid=False,
    )


def moments(metadata: sa.MetaData, prefix: str) -> sa.Table:
    return sa.Table(
        f"{prefix}coordinator_moments",
        metadata,
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
