"""Restoration: what is needed to build the ledger again, and the epochs that keep its lives apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from coordinator.jobs import Job
from coordinator.schema.texts import UNFINISHED
from coordinator.states import State, Verb
from coordinator.store.database import Database, chunks, now_ms
from coordinator.store.transitions import NOTES, PARTS

#: How a run may be told to end.
STOPS = frozenset(("cancel", "release", "fail"))

#: Before every (sequence, job id).
START: tuple[int, str] = (-(1 << 62), "")


@dataclass(frozen=True, slots=True)
class StoredJob:
    """An accepted job and where it stood when the recorder last wrote.

    Attributes:
        job: what was submitted, with its present retries and due time.
        sequence: its place in the order.
        state: its state.
        attempts, losses: runs begun, runs lost with their worker.
        worker, token: of its present or last run.
        epoch, version: the last event that changed it; (0, 0) when no event has come yet.
        queued_ms, started_ms, finished_ms: Unix milliseconds; 0 is not (yet).
        stop: kind, reason and author of the end that a stopping run was told; None when that is not known.
    """

    job: Job
    sequence: int
    state: State
    attempts: int
    losses: int
    worker: str | None
    token: int | None
    epoch: int
    version: int
    queued_ms: int
    started_ms: int
    finished_ms: int
    stop: tuple[str, str, str] | None = None

    @property
    def cursor(self) -> tuple[int, str]:
        """Where the listing of unfinished jobs goes on."""
        return self.sequence, self.job.job_id


class Restoration(Database):
    """The verbs of restore and reaper."""

    def unfinished(self, after: tuple[int, str] = START, limit: int = 1000) -> list[StoredJob]:
        """Return jobs that have not ended, in the order (sequence, job id).

        Args:
            after: ``cursor`` of the last job of the previous page.
            limit: jobs at most; fewer are the last page.
        """
        table = self.schema.jobs.c
        query = (
            sa.select(self.schema.jobs)
            .where(sa.text(UNFINISHED), _after(table, after))
            .order_by(table.sequence, table.job_id)
            .limit(limit)
        )
        with self.reading() as connection:
            page = [_stored(row) for row in connection.execute(query).mappings()]
            stopping = [item.job.job_id for item in page if item.state is State.STOPPING]
            stops = self._stops(connection, stopping) if stopping else {}
        return [replace(item, stop=stops.get(item.job.job_id)) if stops else item for item in page]

    def unfinished_ids(
        self, after: tuple[int, str] = START, limit: int = 1000
    ) -> list[tuple[int, str]]:
        """Return (sequence, job id) of jobs that have not ended, in that order; see ``unfinished``."""
        table = self.schema.jobs.c
        query = (
            sa.select(table.sequence, table.job_id)
            .where(sa.text(UNFINISHED), _after(table, after))
            .order_by(table.sequence, table.job_id)
            .limit(limit)
        )
        with self.reading() as connection:
            return [(sequence, job_id) for sequence, job_id in connection.execute(query)]

    def _stops(
        self, connection: sa.Connection, job_ids: Sequence[str]
    ) -> dict[str, tuple[str, str, str] | None]:
        """Return how the runs of these jobs are to end, by the last thing they were told."""
        table = self.schema.events.c
        found: dict[str, tuple[str, str, str] | None] = {}
        for some in chunks(job_ids):
            query = (
                sa.select(table.job_id, table.data)
                .where(self.among(table.job_id, some), table.event_type == Verb.STOPPING.value)
                .order_by(table.ordinal, table.version)
            )
            for job_id, data in connection.execute(query):
                kind, reason, by = (str(data.get(name) or "") for name in ("stop", "reason", "by"))
                # The newest counts, also when its details were lost.
                found[job_id] = (kind, reason, by) if kind in STOPS else None
        return found

    def count_unfinished(self) -> int:
        """Return the number of jobs that have not ended."""
        query = sa.select(sa.func.count()).select_from(self.schema.jobs)
        with self.reading() as connection:
            return connection.scalar(query.where(sa.text(UNFINISHED))) or 0

    def stored(self, job_ids: Sequence[str]) -> dict[str, StoredJob]:
        """Return jobs by id, finished ones too; unknown ids are left out."""
        table = self.schema.jobs
        found: dict[str, StoredJob] = {}
        with self.reading() as connection:
            for some in chunks(job_ids):
                query = sa.select(table).where(self.among(table.c.job_id, some))
                for row in connection.execute(query).mappings():
                    found[row["job_id"]] = _stored(row)
        return found

    def open_epoch(self) -> int:
        """Begin a new life of the ledger; return its number, greater than every one before."""
        table = self.schema.epochs
        row = {"id": 1, "epoch": 1, "opened_at": now_ms()}
        insert = self.upsert(table).values(row)
        insert = insert.on_conflict_do_update(
            index_elements=["id"],
            set_={"epoch": table.c.epoch + 1, "opened_at": insert.excluded.opened_at},
        )
        with self.writing() as connection:
            return int(connection.execute(insert.returning(table.c.epoch)).scalar_one())

    def last_recorded(self, epoch: int) -> str | None:
        """Return the id of the last event of an epoch that came from the ledger, or None."""
        table = self.schema.events.c
        # Not the notes of the store's own, whose ids no stream reaches.
        query = (
            sa.select(table.event_id)
            .where(table.epoch == epoch, table.ordinal % PARTS < NOTES)
            .order_by(table.ordinal.desc())
            .limit(1)
        )
        with self.reading() as connection:
            return connection.scalar(query)

    def epoch(self) -> int:
        """Return the present epoch; 0 before the first."""
        with self.reading() as connection:
            return connection.scalar(sa.select(self.schema.epochs.c.epoch)) or 0


def _after(table: Any, cursor: tuple[int, str]) -> sa.ColumnElement[bool]:
    # A row value, not "a > x OR (a = x AND b > y)": only this is a single seek in the index.
    sequence, job_id = cursor
    return sa.tuple_(table.sequence, table.job_id) > sa.tuple_(
        sa.literal(sequence, sa.BigInteger), sa.literal(job_id, sa.Text)
    )


def _stored(row: Any) -> StoredJob:
    return StoredJob(
        job=Job(
            job_id=row["job_id"],
            task=row["task"],
            queue=row["queue"],
            needs=tuple(row["needs"]),
            message=row["message"],
            org=row["org"],
            owner=row["owner"],
            priority=row["priority"],
            max_retries=row["max_retries"],
            due_ms=row["due_at"] or 0,
            expires_ms=row["expires_at"] or 0,
            timeout=row["timeout"],
            heartbeat_timeout=row["heartbeat_timeout"],
            retries=row["retries"],
            args_repr=row["args_repr"],
            kwargs_repr=row["kwargs_repr"],
            root_id=row["root_id"],
            parent_id=row["parent_id"],
            submitted_ms=row["queued_at"],
        ),
        sequence=row["sequence"],
        state=State(row["state"]),
        attempts=row["attempts"],
        losses=row["losses"],
        worker=row["worker"],
        token=row["token"],
        epoch=row["epoch"],
        version=row["version"],
        queued_ms=row["queued_at"],
        started_ms=row["started_at"] or 0,
        finished_ms=row["finished_at"] or 0,
    )
