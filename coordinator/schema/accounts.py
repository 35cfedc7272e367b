"""The tables of those who may call over HTTP: users, their sessions, tokens; and what they were answered."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from coordinator.schema.texts import words

#: What somebody may do, each with all before it: look; act on jobs and queues; change limits and stop everything.
SCOPES = ("viewer", "operator", "admin")


@dataclass(frozen=True)
class AccountTables:
    """The tables of this file."""

    users: sa.Table
    sessions: sa.Table
    tokens: sa.Table
    answers: sa.Table


def accounts(metadata: sa.MetaData, prefix: str) -> AccountTables:
    text, big = sa.Text, sa.BigInteger

    def scope() -> tuple[sa.Column[str], sa.CheckConstraint]:
        # A scope the code does not know would be compared as none, or as the highest.
        known = sa.CheckConstraint(f"scope IN ({words(*SCOPES)})", name="known_scope")
        return sa.Column("scope", text, nullable=False), known

    users = sa.Table(
        f"{prefix}coordinator_users",
        metadata,
        sa.Column("name", text, primary_key=True),
        sa.Column("password", text, nullable=False),
        *scope(),
        sa.Column("created_at", big, nullable=False),
        # A nameless user could not be told from nobody in the log.
        sa.CheckConstraint("name <> ''", name="named"),
        sqlite_with_rowid=False,
    )
    sessions = sa.Table(
        f"{prefix}coordinator_sessions",
        metadata,
        # The hash of what the browser has: who reads this table cannot enter with it.
        sa.Column("digest", text, primary_key=True),
        sa.Column(
            "name",
            text,
            sa.ForeignKey(f"{prefix}coordinator_users.name", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("created_at", big, nullable=False),
        sa.Column("used_at", big, nullable=False),
        sa.Index(f"{prefix}coordinator_sessions_by_name", "name"),
        sqlite_with_rowid=False,
    )
    tokens = sa.Table(
        f"{prefix}coordinator_tokens",
        metadata,
        sa.Column("token_id", text, primary_key=True),
        # Two tokens of one name could not be told apart in the log.
        sa.Column("name", text, nullable=False, unique=True),
        sa.Column("digest", text, nullable=False),
        *scope(),
        sa.Column("created_by", text, nullable=False),
        sa.Column("created_at", big, nullable=False),
        sa.Column("until_at", big),
        sa.Column("used_at", big),
        sa.CheckConstraint("name <> ''", name="named"),
        sqlite_with_rowid=False,
    )
    answers = sa.Table(
        f"{prefix}coordinator_answers",
        metadata,
        # One answer per caller and key: with two it would be left to chance which one is given again.
        sa.Column("caller", text, primary_key=True),
        sa.Column("key", text, primary_key=True),
        sa.Column("request", text, nullable=False),
        sa.Column("nonce", text, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("body", text),
        sa.Column("created_at", big, nullable=False),
        sa.Index(f"{prefix}coordinator_answers_by_age", "created_at"),
        sqlite_with_rowid=False,
    )
    return AccountTables(users, sessions, tokens, answers)
