"""The log: every transition and every operator's action, and the totals that outlive it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from coordinator.states import ALIASES, State
from coordinator.store.database import Database, Row, now_ms
from coordinator.store.measures import PREFIX
from coordinator.store.transitions import NOTES, first_ordinal


class Log(Database):
    """The verbs that read the log."""

    def history(self, job_id: str) -> list[Row]:
        """Return all events of a job, oldest first."""
        table = self.schema.events
        return self.rows(
            sa.select(table)
            .where(table.c.job_id == job_id)
            .order_by(table.c.epoch, table.c.ordinal, table.c.event_id)
        )

    def audit(
        self,
        *,
        event: str | None = None,
        job_id: str | None = None,
        resource: str | None = None,
        who: str | None = None,
        since_ms: int = 0,
        until_ms: int = 0,
        limit: int = 100,
        cursor: tuple[int, str] | None = None,
    ) -> list[Row]:
        """Return events of the log, newest first.

        Args:
            event: a verb or one of its older names (``WORK_QUEUED`` ...).
            job_id, resource, who: only events of these.
            since_ms, until_ms: from and up to (not with) these moments (Unix milliseconds); 0 is open.
            limit: events at most.
            cursor: ``(ordinal, event_id)`` of the last row of the previous page.
        """
        table = self.schema.events
        wanted = (
            (table.c.event_type, ALIASES.get(event, event) if event else None),
            (table.c.job_id, job_id),
            (table.c.resource, resource),
            (table.c.who, who),
        )
        query = sa.select(table).where(
            *(column == value for column, value in wanted if value is not None)
        )
        if since_ms:
            query = query.where(table.c.ordinal >= first_ordinal(since_ms))
        if until_ms:
            query = query.where(table.c.ordinal < first_ordinal(until_ms))
        if cursor is not None:
            query = query.where(
                sa.tuple_(table.c.ordinal, table.c.event_id)
                < sa.tuple_(sa.literal(cursor[0], sa.BigInteger), sa.literal(cursor[1], sa.Text))
            )
        return self.rows(
            query.order_by(table.c.ordinal.desc(), table.c.event_id.desc()).limit(limit)
        )

    def export(self, since_ms: int = 0, until_ms: int = 0, page: int = 1000) -> Iterator[str]:
        """Yield the log as JSON lines (without line ends), oldest first.

        Read page by page, so that no transaction stays open while the caller writes.

        Args:
            since_ms, until_ms: from and up to (not with) these moments (Unix milliseconds); 0 is open.
            page: events per query.
        """
        table = self.schema.events
        position: tuple[int, str] = (first_ordinal(since_ms), "")
        while True:
            query = (
                sa.select(table)
                .where(
                    sa.tuple_(table.c.ordinal, table.c.event_id)
                    > sa.tuple_(
                        sa.literal(position[0], sa.BigInteger), sa.literal(position[1], sa.Text)
                    )
                )
                .order_by(table.c.ordinal, table.c.event_id)
                .limit(page)
            )
            if until_ms:
                query = query.where(table.c.ordinal < first_ordinal(until_ms))
            with self.reading() as connection:
                rows = connection.execute(query).mappings().all()
            for row in rows:
                yield json.dumps(_line(row), separators=(",", ":"))
            if len(rows) < page:
                return
            position = (rows[-1]["ordinal"], rows[-1]["event_id"])

    def note(
        self,
        verb: str,
        by: str,
        reason: str = "",
        *,
        job_id: str = "",
        resource: str | None = None,
        before: str | None = None,
        after: str | None = None,
        at_ms: int = 0,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Write an operator's action to the log that the ledger has no part in.

        Args:
            verb: what was done, as a past participle.
            by, reason: who, and why.
            job_id: the job it is about, if it is about one.
            resource, before, after: what it was done to, and what that changed.
            at_ms: when (Unix milliseconds); 0 is now.
            data: anything else that JSON can hold.
        """
        table = self.schema.events
        at = at_ms or now_ms()
        # Like an id of the ledger's stream, but with a second part that no stream reaches.
        part = NOTES + secrets.randbelow(NOTES)
        redacted = self.redactor.value({"by": by, "reason": reason, **(data or {})})
        row = {
            "epoch": max(1, self._present_epoch()),
            "event_id": f"{at}-{part}",
            "ordinal": first_ordinal(at) + part,
            "version": 0,
            "job_id": job_id,
            "event_type": verb,
            "at": at,
            "who": redacted["by"],
            "why": redacted["reason"] or None,
            "resource": resource,
            "before": before,
            "after": after,
            "data": redacted,
        }
        with self.writing() as connection:
            connection.execute(sa.insert(table).values(row))

    def _present_epoch(self) -> int:
        with self.reading() as connection:
            return connection.scalar(sa.select(self.schema.epochs.c.epoch)) or 0

    def completed_since(self, since_ms: int, queue: str | None = None) -> int:
        """Return how many jobs were completed since a moment (Unix milliseconds), as far as the log goes."""
        return self._ended_since((State.COMPLETED,), since_ms, queue)

    def failed_since(self, since_ms: int, queue: str | None = None) -> int:
        """Return how many jobs failed or became unprocessable since a moment (Unix milliseconds)."""
        return self._ended_since((State.FAILED, State.UNPROCESSABLE), since_ms, queue)

    def totals(self) -> dict[tuple[str, str, str], int]:
        """Return the totals since the beginning, by (name, queue, label); they never fall.

        Names are the verbs of events, and ``runtime_ms`` (sum of the run times of runs that ended); the
        label is the task.
        """
        return self._kept_totals(measures=False)

    def measures(self) -> dict[tuple[str, str, str], int]:
        """Return the totals of ``coordinator.store.measures`` by (name, queue, label); they never fall."""
        found = self._kept_totals(measures=True)
        return {
            (name.removeprefix(PREFIX), queue, label): value
            for (name, queue, label), value in found.items()
        }

    def _kept_totals(self, measures: bool) -> dict[tuple[str, str, str], int]:
        table = self.schema.totals.c
        measure = table.name.startswith(PREFIX, autoescape=True)
        query = sa.select(table.name, table.queue, table.label, table.value)
        with self.reading() as connection:
            rows = connection.execute(query.where(measure if measures else sa.not_(measure)))
            return {(name, queue, label): int(value) for name, queue, label, value in rows}

    def _ended_since(self, states: Collection[State], since_ms: int, queue: str | None) -> int:
        # Counted in the log: a job that failed and was resubmitted is no failure by its row any more.
        table = self.schema.events.c
        query = sa.select(sa.func.count()).where(
            table.event_type.in_([state.value for state in states]),
            table.ordinal >= first_ordinal(since_ms),
        )
        if queue is not None:
            query = query.where(table.queue == queue)
        with self.reading() as connection:
            return connection.scalar(query) or 0


def _line(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "ordinal"}
