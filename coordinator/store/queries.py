"""Queries: the read side, for people and for edges. Nothing here is on the path of a job."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa

from coordinator.errors import InvalidValue
from coordinator.schema.texts import HELD, RETRYING
from coordinator.states import FINAL, State, status
from coordinator.store.database import Database, Row, chunks, now_ms

#: State, and whether jobs between two retries count; no state: all jobs between two retries.
_Leg: TypeAlias = tuple[str | None, bool]

_OPEN = (State.DELAYED, State.WAITING, State.DISPATCHED)
_FLAGGED = (State.FAILED, State.UNPROCESSABLE)

#: The outside words, and the states behind them.
STATUSES: dict[str, tuple[_Leg, ...]] = {
    "PENDING": tuple((state.value, False) for state in _OPEN),
    "PROCESSING": (
        (State.RUNNING.value, True),
        (State.STOPPING.value, True),
        (None, True),
    ),
    **{state.value.upper(): ((state.value, True),) for state in FINAL},
}


class Queries(Database):
    """The verbs that only read."""

    def job(self, job_id: str) -> Row | None:
        """Return a job with its message, or None when it is not known."""
        table = self.schema.jobs
        with self.reading() as connection:
            row = (
                connection.execute(sa.select(table).where(table.c.job_id == job_id))
                .mappings()
                .first()
            )
        return None if row is None else _job(row)

    def standing(self, job_ids: Sequence[str]) -> dict[str, Row]:
        """Return ``state``, ``started_at`` and ``error`` of jobs by id; unknown ids are left out."""
        table = self.schema.jobs.c
        found: dict[str, Row] = {}
        for some in chunks(job_ids):
            query = sa.select(table.job_id, table.state, table.started_at, table.error)
            found |= {
                row["job_id"]: row for row in self.rows(query.where(self.among(table.job_id, some)))
            }
        return found

    def jobs(
        self,
        *,
        status: str | None = None,
        states: Collection[str] = (),
        queue: str | None = None,
        model: str | None = None,
        org: str | None = None,
        text: str | None = None,
        limit: int = 50,
        cursor: tuple[int, str] | None = None,
        oldest_first: bool = False,
    ) -> list[Row]:
        """Return jobs in the order of their sequence, newest first, without their messages.

        Args:
            status: an outside word such as ``PENDING``; in any case.
            states: states of the ledger, when no status is given.
            queue, model, org: only jobs of these; each of a job's models counts.
            text: only jobs whose id, task, arguments or error contain it; this one filter has no index.
            limit: jobs at most.
            cursor: ``(sequence, job_id)`` of the last row of the previous page.
            oldest_first: the other way round.

        Raises:
            InvalidValue: an unknown status or state.
        """
        table = self.schema.jobs
        legs: Sequence[_Leg | None] = _legs(status, states) or (None,)
        filters = [
            column == value
            for column, value in ((table.c.queue, queue), (table.c.org, org))
            if value is not None
        ]
        if text is not None:
            filters.append(
                sa.or_(
                    *(
                        column.contains(text, autoescape=True)
                        for column in (
                            table.c.job_id,
                            table.c.task,
                            table.c.args_repr,
                            table.c.kwargs_repr,
                            table.c.error,
                        )
                    )
                )
            )
        if cursor is not None:
            here = sa.tuple_(table.c.sequence, table.c.job_id)
            there = sa.tuple_(sa.literal(cursor[0], sa.BigInteger), sa.literal(cursor[1], sa.Text))
            filters.append(here > there if oldest_first else here < there)
        order = [("sequence", not oldest_first), ("job_id", not oldest_first)]
        selects = []
        for leg in legs:
            query = sa.select(*self._shown_columns()).where(*filters, *_leg(table, leg))
            if model is None:
                selects.append(query)
                continue
            selects.append(query.where(table.c.model == model))
            more = self.schema.models
            selects.append(
                query.join(more, more.c.job_id == table.c.job_id).where(more.c.model == model)
            )
        return self._merged(selects, order, limit)

    def failures(
        self,
        limit: int = 50,
        *,
        since_ms: int = 0,
        queue: str | None = None,
        text: str | None = None,
    ) -> list[Row]:
        """Return failed and unprocessable jobs, the latest end first.

        Args:
            limit: jobs at most.
            since_ms: only jobs that ended since (Unix milliseconds).
            queue: only jobs of this queue.
            text: only jobs whose error contains it.
        """
        table = self.schema.jobs.c
        selects = []
        for state in _FLAGGED:
            query = sa.select(*self._shown_columns()).where(
                table.state == state.value, table.finished_at >= since_ms
            )
            if queue is not None:
                query = query.where(table.queue == queue)
            if text is not None:
                query = query.where(table.error.contains(text, autoescape=True))
            selects.append(query)
        return self._merged(selects, [("finished_at", True), ("job_id", True)], limit)

    def counts(self, queue: str | None = None) -> dict[str, int]:
        """Return the number of jobs by state, of one queue or of all; states without jobs are left out."""
        table = self.schema.jobs.c
        query = sa.select(table.state, sa.func.count()).group_by(table.state)
        if queue is not None:
            query = query.where(table.queue == queue)
        with self.reading() as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query)}

    def oldest_pending_age(self, queue: str | None = None) -> float | None:
        """Return for how many seconds the pending job that is first in the order waits, or None."""
        rows = self.jobs(
            states=[state.value for state in _OPEN], queue=queue, limit=1, oldest_first=True
        )
        return max(0.0, (now_ms() - rows[0]["queued_at"]) / 1000) if rows else None

    def _shown_columns(self) -> list[sa.Column[Any]]:
        return [column for column in self.schema.jobs.c if column.name != "message"]

    def _merged(
        self, selects: Sequence[sa.Select[Any]], order: Sequence[tuple[str, bool]], limit: int
    ) -> list[Row]:
        # Each part is read from its index in order and stops at the limit. One query with IN or OR
        # instead would sort all jobs of those states, a million of them, for the first fifty.
        parts = [_ordered(query, self.schema.jobs.c, order, limit) for query in selects]
        if len(parts) > 1:
            union = sa.union_all(*(sa.select(part.subquery()) for part in parts)).subquery()
            parts = [_ordered(sa.select(union), union.c, order, limit)]
        return [_job(row) for row in self.rows(parts[0])]


def _ordered(
    query: sa.Select[Any], columns: Any, order: Sequence[tuple[str, bool]], limit: int
) -> sa.Select[Any]:
    keys = [columns[name].desc() if down else columns[name] for name, down in order]
    return query.order_by(*keys).limit(limit)


def _legs(wanted: str | None, states: Collection[str]) -> tuple[_Leg, ...]:
    if wanted is not None:
        try:
            return STATUSES[wanted.upper()]
        except KeyError:
            raise InvalidValue(
                "status", wanted, "one of " + ", ".join(STATUSES), STATUSES
            ) from None
    try:
        return tuple((State(state).value, True) for state in states)
    except ValueError:
        names = [state.value for state in State]
        raise InvalidValue("states", list(states), "of " + ", ".join(names)) from None


def _leg(table: sa.Table, leg: _Leg | None) -> list[sa.ColumnElement[bool]]:
    if leg is None:
        return []
    state, retried = leg
    if state is None:
        return [sa.literal_column(f"{RETRYING} AND NOT {HELD}", sa.Boolean)]
    found: list[sa.ColumnElement[bool]] = [table.c.state == state]
    if not retried:
        found.append(table.c.retries == 0)
    return found


def _job(row: Any) -> Row:
    found = dict(row)
    found["status"], found["detail"] = status(State(found["state"]), found["retries"])
    found["job_type"] = found["task"]
    return found
