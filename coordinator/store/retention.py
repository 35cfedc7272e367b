"""Retention: old rows go in small batches, totals stay."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from coordinator.errors import InvalidValue
from coordinator.states import FINAL
from coordinator.store.database import Database, now_ms
from coordinator.store.transitions import first_ordinal

DAY_MS = 24 * 3600 * 1000


@dataclass(frozen=True)
class Pruned:
    """How many rows went: events of the log, finished jobs, events set aside."""

    events: int
    jobs: int
    poison: int


class Retention(Database):
    """The verbs that forget."""

    def prune(
        self,
        log_days: float = 7,
        finished_days: float = 30,
        batch: int = 1000,
        at_ms: int = 0,
    ) -> Pruned:
        """Remove old events and old finished jobs; totals stay as they are.

        Args:
            log_days: age in days at which events go; events set aside go with the finished jobs.
            finished_days: age in days, since their end, at which finished jobs go. Unfinished never do.
            batch: rows per transaction, so that writers wait for milliseconds only.
            at_ms: the present moment (Unix milliseconds); 0 is the clock's.

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
        events, jobs, poison = self.schema.events, self.schema.jobs, self.schema.poison
        return Pruned(
            events=self._prune(events, events.c.ordinal < first_ordinal(log_end), batch),
            jobs=sum(
                self._prune(
                    jobs, sa.and_(jobs.c.state == state.value, jobs.c.finished_at < job_end), batch
                )
                for state in sorted(FINAL)
            ),
            poison=self._prune(poison, poison.c.set_aside_at < job_end, batch),
        )

    def _prune(self, table: sa.Table, old: sa.ColumnElement[bool], batch: int) -> int:
        key = list(table.primary_key.columns)
        chosen = sa.select(*key).where(old).limit(batch)
        statement = sa.delete(table).where(sa.tuple_(*key).in_(chosen))
        total = 0
        while True:
            with self.writing() as connection:
                gone = connection.execute(statement).rowcount
            total += gone
            if gone < batch:
                return total
