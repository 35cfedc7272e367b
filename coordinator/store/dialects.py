"""What the two databases say differently; a dialect that is not spoken is not imported: 2 MiB in each worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite


def insert(dialect: str, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Return a database's own INSERT, the one that knows ON CONFLICT.

    Args:
        dialect: SQLAlchemy's name of it.
        table: into which.
    """
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)
