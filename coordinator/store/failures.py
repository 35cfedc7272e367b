"""Failures: what went wrong, counted, and how it is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from coordinator.errors import InvalidValue
from coordinator.states import State
from coordinator.store.database import Row, now_ms
from coordinator.store.retention import Retention

FAILED_STATES = (State.FAILED, State.UNPROCESSABLE)


class Failures(Retention):
    """The verbs about failed and unprocessable jobs."""

    def errors(self, since_ms: int = 0, queue: str | None = None) -> list[Row]:
        """Return each error text of failed and unprocessable jobs once.

        Args:
            since_ms: only of jobs that ended since (Unix milliseconds).
            queue: only of this queue.

        Returns:
            Rows ``error``, ``jobs``, ``first_at``, ``last_at`` (Unix milliseconds) and ``job_id`` of one of them.
        """
        table = self.schema.jobs.c
        error = sa.func.coalesce(table.error, "")
        query: Any = (
            sa.select(
                error.label("error"),
                sa.func.count().label("jobs"),
                sa.func.min(table.finished_at).label("first_at"),
                sa.func.max(table.finished_at).label("last_at"),
                sa.func.max(table.job_id).label("job_id"),
            )
            .where(*self._failed(queue), table.finished_at >= since_ms)
            .group_by(error)
        )
        return self.rows(query)

    def purge_failed(
        self,
        before_ms: int,
        queue: str | None = None,
        batch: int = 1000,
        *,
        by: str,
        reason: str = "",
        dry_run: bool = False,
        progress: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Delete failed and unprocessable jobs that ended before a moment; their events stay in the log.

        Args:
            before_ms: Unix milliseconds.
            queue: only of this queue.
            batch: rows per transaction, so that writers wait for milliseconds only.
            by, reason: kept in the log.
            dry_run: whether to count only.
            progress: is given the number deleted so far, after each batch.

        Returns:
            How many.
        """
        if batch < 1:
            raise InvalidValue("batch", batch, "a number from 1 up")
        table = self.schema.jobs
        if dry_run:
            query = sa.select(sa.func.count()).where(
                *self._failed(queue), table.c.finished_at < before_ms
            )
            with self.reading() as connection:
                return connection.scalar(query) or 0
        # What those of workflows tell of their executions must outlive them.
        self.seal_executions()
        total = 0
        for state in FAILED_STATES:
            only = [table.c.state == state.value, table.c.finished_at < before_ms]
            if queue is not None:
                only.append(table.c.queue == queue)
            chosen = sa.select(table.c.job_id).where(*only).limit(batch)
            # Asked twice: on PostgreSQL one that was chosen may have been resubmitted meanwhile.
            statement = sa.delete(table).where(table.c.job_id.in_(chosen), *only)
            gone = batch
            while gone == batch:
                with self.writing() as connection:
                    gone = connection.execute(statement).rowcount
                total += gone
                progress(total)
        if total:
            data = {"queue": queue, "before_ms": before_ms, "jobs": total}
            self.note("purged", by, reason, at_ms=now_ms(), data=data)
        return total

    def _failed(self, queue: str | None) -> list[sa.ColumnElement[bool]]:
        table = self.schema.jobs.c
        found: list[sa.ColumnElement[bool]] = [
            table.state.in_([state.value for state in FAILED_STATES])
        ]
        return found if queue is None else [*found, table.queue == queue]
