"""Submission: accepted jobs become rows, before anything else knows of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from coordinator.jobs import Job
from coordinator.states import State
from coordinator.store.database import Database, chunks, now_ms, translated
from coordinator.store.statements import Statements
from coordinator.store.transitions import COLUMNS

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def compact(value: Any) -> str:
    """Return ``value`` as JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))


class Submission(Database):
    """The verbs that accept jobs."""

    _guessed = 0

    def insert(self, jobs: Sequence[Job]) -> set[str]:
        """Store accepted jobs in one transaction; ids that are known already are left alone.

        A new row is waiting (or delayed) in epoch 0, and its sequence is a guess from this process's
        clock, in the order of acceptance, until the ledger's event with the real one is recorded.

        Args:
            jobs: what was submitted.

        Returns:
            The ids that were not known before.

        Raises:
            StoreUnavailable: nothing was stored.
            RowRefused: a value the database forbids; nothing was stored.
        """
        if not jobs:
            return set()
        if len(jobs) == 1 and len(jobs[0].models) < 2:
            # The hot path of delay(): one statement that is its own transaction.
            statement = self.statements.job
            values = statement.bound(self._accepted(jobs[0]))
            return {jobs[0].job_id} if self.state(statement.text, values) else set()
        with self.writing() as connection:
            known = self.known_in(connection, [job.job_id for job in jobs])
            new = [job for job in _unique(jobs) if job.job_id not in known]
            if self._insert_rows(connection, new) == len(new):
                return {job.job_id for job in new}
            # On PostgreSQL somebody stored one of them between the two statements. Whose is it? Once more,
            # one by one.
            connection.rollback()
        with self.writing() as connection:
            return self._insert_each(connection, jobs)

    def insert_in(self, target: sa.Connection | Session, jobs: Sequence[Job]) -> set[str]:
        """Store accepted jobs inside the caller's own transaction (transactional outbox).

        The jobs are accepted when the caller commits; the reaper hands them to the ledger if the caller
        does not. From an ``AsyncSession``: ``await session.run_sync(lambda own: store.insert_in(own, jobs))``.

        Args:
            target: a connection or session on the database of this store.
            jobs: what was submitted.

        Returns:
            The ids that were not known before.
        """
        connection = target if isinstance(target, sa.Connection) else target.connection()
        with translated(self.shown):
            return self._insert_each(connection, jobs, self._spoken_by(connection))

    def _spoken_by(self, connection: sa.Connection) -> Statements:
        # The application may use another driver than we do, which writes parameters in another way.
        dialect = connection.dialect
        own = self.statements.dialect
        if (dialect.driver, dialect.paramstyle) == (own.driver, own.paramstyle):
            return self.statements
        return self._others.setdefault(
            (dialect.driver, dialect.paramstyle), Statements(self.schema, dialect)
        )

    def withdraw(self, job_ids: Sequence[str]) -> int:
        """Take back jobs that nobody has been told of yet; return their number.

        A job of which an event was recorded stays.

        Raises:
            StoreUnavailable: they stay, and are accepted.
        """
        table = self.schema.jobs
        gone = 0
        with self.writing() as connection:
            for some in chunks(job_ids):
                untouched = self.among(table.c.job_id, some), table.c.epoch == 0
                gone += connection.execute(sa.delete(table).where(*untouched)).rowcount
        return gone

    def known(self, job_ids: Sequence[str]) -> set[str]:
        """Return those of the ids that have a row."""
        with self.reading() as connection:
            return self.known_in(connection, job_ids)

    def known_in(self, connection: sa.Connection, job_ids: Sequence[str]) -> set[str]:
        """Return those of the ids that have a row, as this transaction sees it."""
        found: set[str] = set()
        for some in chunks(job_ids):
            given = {"ids": self.statements.listed(some)}
            found.update(job_id for (job_id,) in self.statements.known_jobs.one(connection, given))
        return found

    def definition(self, job: Job) -> dict[str, Any]:
        """Return the columns of a new row; JSON columns are texts."""
        models = job.models
        queued = job.submitted_ms or now_ms()
        text = self.redactor.text
        return {
            "job_id": job.job_id,
            "task": job.task,
            "queue": job.queue,
            "model": models[0] if models else None,
            "required_models": compact(models),
            "needs": compact(job.needs),
            "org": job.org,
            "owner": job.owner,
            "priority": job.priority,
            "sequence": queued * 1000,
            "state": State.DELAYED.value if job.due_ms else State.WAITING.value,
            "message": job.message,
            "args_repr": text(job.args_repr),
            "kwargs_repr": text(job.kwargs_repr),
            "root_id": job.root_id,
            "parent_id": job.parent_id,
            "due_at": job.due_ms or None,
            "expires_at": job.expires_ms or None,
            "queued_at": queued,
            "retries": job.retries,
            "max_retries": job.max_retries,
            "timeout": job.timeout,
            "heartbeat_timeout": job.heartbeat_timeout,
        }

    def _accepted(self, job: Job) -> dict[str, Any]:
        # Microseconds, as the ledger's own: in milliseconds, jobs of one moment were listed in the order of their
        # random ids. Without a lock, which a fork could leave taken: two threads at once have no order anyway.
        self._guessed = max(self._guessed + 1, time.time_ns() // 1000)
        return {**self.definition(job), "sequence": self._guessed}

    def redefinition(self, job: Job) -> dict[str, Any]:
        """Return the columns of the definition that a resubmitted or replaced job goes on with."""
        row = self.definition(job)
        for name in ("job_id", "queued_at", "root_id", "parent_id", *COLUMNS):
            row.pop(name, None)
        return row

    def _insert_rows(self, connection: sa.Connection, jobs: Sequence[Job]) -> int:
        if not jobs:
            return 0
        statement = self.statements.job
        bound = [statement.bound(row) for row in self._definitions(jobs)]
        done = statement.many(connection, bound)
        self._insert_models(connection, jobs)
        return done

    def _insert_each(
        self, connection: sa.Connection, jobs: Sequence[Job], spoken: Statements | None = None
    ) -> set[str]:
        statements = spoken or self.statements
        unique = _unique(jobs)
        new = {
            row["job_id"]
            for row in self._definitions(unique)
            if statements.job.one(connection, row).rowcount
        }
        self._insert_models(connection, [job for job in unique if job.job_id in new], statements)
        return new

    def _insert_models(
        self, connection: sa.Connection, jobs: Iterable[Job], spoken: Statements | None = None
    ) -> None:
        statement = (spoken or self.statements).model
        if rows := self.model_rows(jobs):
            statement.many(connection, [statement.bound(row) for row in rows])

    def _definitions(self, jobs: Iterable[Job]) -> list[dict[str, Any]]:
        """Return the columns of rows that are accepted now, in the order in which to insert them."""
        rows = [self._accepted(job) for job in jobs]
        # Numbered as they were given, but inserted by id: two producers that store the same ids in two orders
        # would wait for each other in a circle.
        return sorted(rows, key=lambda row: row["job_id"])

    def model_rows(self, jobs: Iterable[Job]) -> list[dict[str, str]]:
        """Return rows for the second and further models of jobs, so that they are found by each of them."""
        return [{"job_id": job.job_id, "model": model} for job in jobs for model in job.models[1:]]

    @cached_property
    def _others(self) -> dict[tuple[str, str], Statements]:
        return {}

    @cached_property
    def statements(self) -> Statements:
        return Statements(self.schema, self.engine.dialect)


def _unique(jobs: Sequence[Job]) -> list[Job]:
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.job_id, job)
    return list(first.values())
