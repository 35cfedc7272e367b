"""The table of conditions: what is true for a while, and since when."""

from __future__ import annotations

import sqlalchemy as sa

from coordinator.schema.texts import words

#: Circuit breakers and alerts by scope; what the populator and its wishes have come to.
CONDITION_KINDS = ("breaker", "alert", "populator")


def conditions(metadata: sa.MetaData, prefix: str) -> sa.Table:
    text = sa.Text
    return sa.Table(
        f"{prefix}coordinator_conditions",
        metadata,
        # One state per kind and name: with two it would be left to chance which breaker is open.
        sa.Column("kind", text, primary_key=True),
        sa.Column("name", text, primary_key=True),
        sa.Column("state", text, nullable=False),
        # Unix milliseconds of Redis's clock.
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        # An unknown kind would be kept and never looked at.
        sa.CheckConstraint(f"kind IN ({words(*CONDITION_KINDS)})", name="known_kind"),
        sqlite_with_rowid=False,
    )
