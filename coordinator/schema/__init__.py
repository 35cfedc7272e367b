"""The tables of the store, and the views of them for people who look with SQL.

Tables carry the project's name and times as Unix milliseconds; the views (``coordinator.schema.views``) have the
names and words that are promised to the outside. A change here needs a new migration; a test compares the two.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa

from coordinator.errors import InvalidSetting
from coordinator.schema.accounts import AccountTables, accounts
from coordinator.schema.conditions import conditions
from coordinator.schema.jobs import jobs, models
from coordinator.schema.log import events
from coordinator.schema.texts import words
from coordinator.schema.workers import moments, workers
from coordinator.schema.workflows import executions, steps

#: The newest migration; what ``Store.upgrade`` brings a database to.
HEAD = "0006"

#: Kinds of operator settings.
SETTING_KINDS = ("limit", "hold", "override", "weight")

MAX_PREFIX = 20


@dataclass(frozen=True)
class Schema:
    """All tables of one installation."""

    prefix: str
    metadata: sa.MetaData
    jobs: sa.Table
    models: sa.Table
    events: sa.Table
    totals: sa.Table
    settings: sa.Table
    epochs: sa.Table
    poison: sa.Table
    executions: sa.Table
    steps: sa.Table
    workers: sa.Table
    moments: sa.Table
    conditions: sa.Table
    accounts: AccountTables

    @property
    def version_table(self) -> str:
        """Where Alembic notes the migration, apart from the ``alembic_version`` of the application."""
        return f"{self.prefix}coordinator_schema_version"


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if it can begin the names of tables.

    Raises:
        InvalidSetting: not lower-case letters, digits and underscores, or too long for PostgreSQL's names.
    """
    if not re.fullmatch(rf"([a-z_][a-z0-9_]{{0,{MAX_PREFIX - 1}}})?", prefix):
        raise InvalidSetting(
            "table_prefix",
            prefix,
            f"at most {MAX_PREFIX} lower-case letters, digits and underscores",
        )
    return prefix


@lru_cache
def schema(prefix: str = "", dialect: str = "sqlite") -> Schema:
    """Return the tables whose names begin with ``prefix``, as the database ``dialect`` has them.

    Raises:
        InvalidSetting: a prefix that cannot begin the name of a table.
    """
    check_prefix(prefix)
    metadata = sa.MetaData()
    text, big = sa.Text, sa.BigInteger
    return Schema(
        prefix=prefix,
        metadata=metadata,
        jobs=jobs(metadata, prefix, dialect),
        models=models(metadata, prefix),
        events=events(metadata, prefix),
        totals=sa.Table(
            f"{prefix}coordinator_totals",
            metadata,
            sa.Column("name", text, primary_key=True),
            sa.Column("queue", text, primary_key=True),
            sa.Column("label", text, primary_key=True),
            sa.Column("value", big, nullable=False),
            # Totals are added to, never counted again: below zero one was taken away from.
            sa.CheckConstraint("value >= 0", name="value_not_negative"),
            sqlite_with_rowid=False,
        ),
        settings=sa.Table(
            f"{prefix}coordinator_settings",
            metadata,
            # One value per kind and resource: two would leave it to chance which one is restored.
            sa.Column("kind", text, primary_key=True),
            sa.Column("resource", text, primary_key=True),
            sa.Column("value", sa.JSON(none_as_null=True)),
            sa.Column("set_by", text, nullable=False),
            sa.Column("reason", text, nullable=False),
            sa.Column("until_at", big),
            sa.Column("set_at", big, nullable=False),
            # An unknown kind would be kept and never applied.
            sa.CheckConstraint(f"kind IN ({words(*SETTING_KINDS)})", name="known_kind"),
            sqlite_with_rowid=False,
        ),
        epochs=sa.Table(
            f"{prefix}coordinator_epochs",
            metadata,
            sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("epoch", big, nullable=False),
            sa.Column("opened_at", big),
            # A second row would be a second clock: tokens of two epochs could be equal.
            sa.CheckConstraint("id = 1", name="one_row"),
            sa.CheckConstraint("epoch >= 0", name="epoch_not_negative"),
        ),
        poison=sa.Table(
            f"{prefix}coordinator_poison_events",
            metadata,
            sa.Column("epoch", big, primary_key=True, autoincrement=False),
            sa.Column("event_id", text, primary_key=True),
            sa.Column("event", text, nullable=False),
            sa.Column("error", text, nullable=False),
            sa.Column("set_aside_at", big, nullable=False),
            sqlite_with_rowid=False,
        ),
        executions=executions(metadata, prefix),
        steps=steps(metadata, prefix),
        workers=workers(metadata, prefix),
        moments=moments(metadata, prefix),
        conditions=conditions(metadata, prefix),
        accounts=accounts(metadata, prefix),
    )
