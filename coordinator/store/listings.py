"""Listings: pages of chosen jobs for bulk verbs, and what happened over time."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from coordinator.selection import Selection
from coordinator.states import FINAL, State, Verb
from coordinator.store.database import Row
from coordinator.store.queries import Queries
from coordinator.store.restoration import START
from coordinator.store.transitions import first_ordinal

#: Events that are counted over time.
COUNTED = (
    Verb.SUBMITTED,
    Verb.BLOCKED,
    Verb.COMPLETED,
    Verb.FAILED,
    Verb.UNPROCESSABLE,
    Verb.RETRIED,
)


class Listings(Queries):
    """The verbs that read many jobs, or many events."""

    def chosen(
        self,
        selection: Selection,
        states: Collection[str],
        *,
        upto: int,
        after: tuple[int, str] = START,
        limit: int = 500,
    ) -> list[Row]:
        """Return a page of jobs in their order, without messages.

        Args:
            selection: which.
            states: of the ledger, as last recorded.
            upto: only jobs up to this sequence: what comes while the pages are read is left alone.
            after: ``(sequence, job_id)`` of the last job of the previous page.
            limit: jobs at most; fewer are the last page.
        """
        table = self.schema.jobs.c
        here = sa.tuple_(table.sequence, table.job_id)
        there = sa.tuple_(sa.literal(after[0], sa.BigInteger), sa.literal(after[1], sa.Text))
        where = (*self._chosen(selection), table.sequence <= upto, here > there)
        selects = [
            sa.select(*self._shown_columns()).where(table.state == state, *where)
            for state in sorted(states)
        ]
        return self._merged(selects, [("sequence", False), ("job_id", False)], limit)

    def chosen_count(self, selection: Selection, states: Collection[str], *, upto: int) -> int:
        """Return how many jobs ``chosen`` goes through."""
        table = self.schema.jobs.c
        query = sa.select(sa.func.count()).where(
            table.state.in_(sorted(states)), *self._chosen(selection), table.sequence <= upto
        )
        with self.reading() as connection:
            return connection.scalar(query) or 0

    def _chosen(self, selection: Selection) -> list[sa.ColumnElement[bool]]:
        table, more = self.schema.jobs.c, self.schema.models
        given = (
            (table.queue, selection.queue),
            (table.org, selection.org),
            (table.task, selection.task),
            (table.job_id, selection.job_id),
        )
        found = [column == value for column, value in given if value is not None]
        if selection.error is not None:
            found.append(self.has_text(table.error, selection.error))
        if selection.model is not None:
            second = sa.select(more.c.job_id).where(more.c.model == selection.model)
            found.append(sa.or_(table.model == selection.model, table.job_id.in_(second)))
        return found

    def has_text(self, column: Any, text: str) -> sa.ColumnElement[bool]:
        """Return whether a column contains a text, the same on both databases: SQLite's LIKE ignores case."""
        if self.dialect == "sqlite":
            return sa.func.instr(column, text) > 0
        return sa.func.strpos(column, text) > 0

    def throughput(
        self, since_ms: int, bucket_ms: int, queue: str | None = None
    ) -> dict[int, dict[str, int]]:
        """Return the number of events by verb, by the beginning of their bucket (Unix milliseconds).

        Args:
            since_ms: from this moment on.
            bucket_ms: length of a bucket.
            queue: only jobs of this queue.
        """
        table = self.schema.events.c
        # By the number that the index has, not by ``at``: the rows themselves are not read.
        bucket = (table.ordinal // first_ordinal(bucket_ms)) * bucket_ms
        query = (
            sa.select(bucket.label("at"), table.event_type, sa.func.count().label("number"))
            .where(
                table.event_type.in_([verb.value for verb in COUNTED]),
                table.ordinal >= first_ordinal(since_ms),
            )
            .group_by(sa.literal_column("1"), table.event_type)
        )
        if queue is not None:
            query = query.where(table.queue == queue)
        found: dict[int, dict[str, int]] = {}
        for row in self.rows(query):
            found.setdefault(int(row["at"]), {})[row["event_type"]] = int(row["number"])
        return found

    def averages(
        self, since_ms: int, queue: str | None = None
    ) -> tuple[float | None, float | None, float | None]:
        """Return how long jobs that ended since a moment waited on average, at most, and ran on average, in ms."""
        table = self.schema.jobs.c
        query = sa.select(
            sa.func.avg(table.started_at - table.queued_at).label("waited"),
            sa.func.max(table.started_at - table.queued_at).label("longest"),
            sa.func.avg(table.finished_at - table.started_at).label("ran"),
        ).where(*self._ended(since_ms, queue))
        (row,) = self.rows(query)
        waited, longest, ran = (
            None if row[name] is None else float(row[name]) for name in ("waited", "longest", "ran")
        )
        return waited, longest, ran

    def timings(
        self, since_ms: int, bucket_ms: int, queue: str | None = None
    ) -> dict[int, tuple[int, int, int, int]]:
        """Return how many jobs ended, and in ms how long all had waited, one at most, and all had run, by bucket.

        Args:
            since_ms, bucket_ms, queue: as for ``throughput``.
        """
        table = self.schema.jobs.c
        query = (
            sa.select(
                ((table.finished_at // bucket_ms) * bucket_ms).label("at"),
                sa.func.count().label("ended"),
                sa.func.sum(table.started_at - table.queued_at).label("waited"),
                sa.func.max(table.started_at - table.queued_at).label("longest"),
                sa.func.sum(table.finished_at - table.started_at).label("ran"),
            )
            .where(*self._ended(since_ms, queue))
            .group_by(sa.literal_column("1"))
        )
        return {
            int(row["at"]): (
                int(row["ended"]),
                int(row["waited"]),
                int(row["longest"]),
                int(row["ran"]),
            )
            for row in self.rows(query)
        }

    def slowest(self, since_ms: int, limit: int, queue: str | None = None) -> list[Row]:
        """Return jobs that ended since a moment, those whose last run took longest first."""
        table = self.schema.jobs.c
        query = (
            sa.select(*self._shown_columns())
            .where(*self._ended(since_ms, queue))
            .order_by((table.finished_at - table.started_at).desc(), table.job_id)
            .limit(limit)
        )
        return self.rows(query)

    def _ended(self, since_ms: int, queue: str | None) -> list[sa.ColumnElement[bool]]:
        table = self.schema.jobs.c
        found = [
            table.state.in_([State(state).value for state in sorted(FINAL)]),
            table.finished_at >= since_ms,
            table.started_at.is_not(None),
        ]
        return found if queue is None else [*found, table.queue == queue]

    def first_pause(self, queue: str) -> bool:
        """Note that the configuration pauses a queue; False when it did so before, ever.

        Kept among the totals, which outlive the log: what an operator resumed must not be paused again by the
        next start.
        """
        table = self.schema.totals
        row = {"name": "paused", "queue": queue, "label": "configuration", "value": 1}
        insert = self.upsert(table).values(row).on_conflict_do_nothing()
        with self.writing() as connection:
            return connection.execute(insert).rowcount > 0
