"""Retention: old rows go in small batches, totals stay."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import sqlalchemy as sa

from coordinator.errors import InvalidValue
from coordinator.states import FINAL
from coordinator.store.database import now_ms
from coordinator.store.executions import Executions
from coordinator.store.log import Log
from coordinator.store.transitions import first_ordinal
from coordinator.store.workers import Workers

DAY_SECONDS = 24 * 3600
DAY_MS = DAY_SECONDS * 1000


@dataclass(frozen=True)
class Pruned:
    """How many rows went: events of the log, finished jobs, events set aside, workers long gone."""

    events: int
    jobs: int
    poison: int
    workers: int


class Retention(Executions, Workers, Log):
    """The verbs that forget."""

    def prune(
        self,
        log_days: float = 7,
        finished_days: float = 30,
        batch: int = 1000,
        at_ms: int = 0,
        *,
        by: str = "coordinator",
        reason: str = "",
        dry_run: bool = False,
    ) -> Pruned:
        """Remove old events and old finished jobs; totals stay as they are.

        Args:
            log_days: age in days at which events go; events set aside and workers that are not live any
                more go with the finished jobs.
            finished_days: age in days, since their end, at which finished jobs go. Unfinished never do.
            batch: rows per transaction, so that writers wait for milliseconds only.
            at_ms: the present moment (Unix milliseconds); 0 is the clock's.
            by, reason: kept in the log, when something went.
            dry_run: whether to count only.

        Raises:
            InvalidValue: a negative age, or an empty batch.
        """
        for name, value, least in (
            ("log_days", log_days, 0),
            ("finished_days", finished_days, 0),
            ("batch", batch, 1),
        ):
            if not value >= least:
                raise InvalidValue(name, value, f"a number from {least} up")
        now = at_ms or now_ms()
        log_end, job_end = now - int(log_days * DAY_MS), now - int(finished_days * DAY_MS)
        if dry_run:
            return self._prunable(first_ordinal(log_end), job_end, now, finished_days)
        self.seal_executions()
        jobs, poison = self.schema.jobs, self.schema.poison
        ended, aside = jobs.c.finished_at, poison.c.set_aside_at
        gone = Pruned(
            events=self._prune_log(first_ordinal(log_end), batch),
            jobs=sum(
                self._prune(jobs.c.job_id, ended, job_end, batch, jobs.c.state == state.value)
                for state in sorted(FINAL)
            ),
            poison=self._prune(poison.c.event_id, aside, job_end, batch),
            workers=self.forget_workers(finished_days * DAY_SECONDS, now),
        )
        self.forget_executions(job_end)
        if gone != Pruned(0, 0, 0, 0):
            counts = {"log_days": log_days, "finished_days": finished_days, **asdict(gone)}
            self.note("pruned", by, reason, at_ms=now, data=counts)
        return gone

    def _prunable(self, log_end: int, job_end: int, now: int, finished_days: float) -> Pruned:
        events, jobs, poison = self.schema.events, self.schema.jobs, self.schema.poison
        old = (
            (events, [events.c.ordinal < log_end]),
            (
                jobs,
                [
                    jobs.c.state.in_([state.value for state in FINAL]),
                    jobs.c.finished_at < job_end,
                ],
            ),
            (poison, [poison.c.set_aside_at < job_end]),
        )
        with self.reading() as connection:
            rows = [
                connection.scalar(sa.select(sa.func.count()).select_from(table).where(*only)) or 0
                for table, only in old
            ]
        gone = len(self.inactive_workers(finished_days * DAY_SECONDS, now))
        return Pruned(rows[0], rows[1], rows[2], gone)

    def _prune(
        self,
        key: sa.Column[str],
        time: sa.Column[int],
        end: int,
        batch: int,
        *only: sa.ColumnElement[bool],
    ) -> int:
        chosen = sa.select(key).where(*only, time < end).limit(batch)
        # The time is asked twice: PostgreSQL could have waited here for a transaction that resubmits one of
        # the chosen. Not as a bare column, or SQLite goes through all old rows for each batch.
        statement = sa.delete(key.table).where(key.in_(chosen), time + 0 < end)
        total = 0
        while True:
            with self.writing() as connection:
                gone = connection.execute(statement).rowcount
            total += gone
            if gone < batch:
                return total

    def _prune_log(self, end: int, batch: int) -> int:
        # By ranges of its order: an IN over the two columns of its key makes SQLite read a whole epoch.
        table = self.schema.events
        border = (
            sa.select(table.c.ordinal)
            .where(table.c.ordinal < end)
            .order_by(table.c.ordinal)
            .offset(batch - 1)
            .limit(1)
        )
        total = 0
        while True:
            with self.writing() as connection:
                last = connection.scalar(border)
                old = table.c.ordinal < end if last is None else table.c.ordinal <= last
                total += connection.execute(sa.delete(table).where(old)).rowcount
            if last is None:
                return total
