"""Executions of workflows: what was asked for; what they do follows from the jobs of their steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from coordinator.jobs import Job
from coordinator.resources import is_kept
from coordinator.states import FINAL, State, Verb
from coordinator.store.database import Row
from coordinator.store.submission import Submission

_FINAL = [state.value for state in FINAL]

#: Columns of ``workflow_standing``: an execution with what its present step does.
_STANDING: tuple[tuple[str, Any], ...] = (
    ("execution_id", sa.Text),
    ("workflow", sa.Text),
    ("required_models", sa.JSON),
    ("hold", sa.Text),
    ("steps", sa.Integer),
    ("inputs", sa.JSON),
    ("requested_by", sa.Text),
    ("reason", sa.Text),
    ("queued_at", sa.BigInteger),
    ("current_position", sa.Integer),
    ("current_step", sa.Text),
    ("current_step_model", sa.Text),
    ("current_job_id", sa.Text),
    ("retries", sa.Integer),
    ("worker", sa.Text),
    ("progress", sa.JSON),
    ("state", sa.Text),
    ("blocked_by_job_id", sa.Text),
    ("conflict_reason", sa.Text),
    ("queue_position", sa.Integer),
    ("started_at", sa.BigInteger),
    ("finished_at", sa.BigInteger),
    ("error", sa.Text),
)


class Executions(Submission):
    """The verbs of workflows' executions."""

    def insert_execution(self, row: Row, steps: Sequence[Row], job: Job) -> bool:
        """Store an execution with its steps and the job of the first one, in one transaction.

        Args:
            row: columns of the execution; what is secret in its inputs is taken out.
            steps: columns of its steps, without the id of the execution.
            job: of its first step.

        Returns:
            Whether it was not known before; else nothing was stored.
        """
        schema = self.schema
        own = schema.executions.c.execution_id
        shown = {**row, "inputs": self.redactor.value(row["inputs"])}
        with self.writing() as connection:
            insert = self.upsert(schema.executions).values(shown)
            new = insert.on_conflict_do_nothing(index_elements=[own]).returning(own)
            if connection.execute(new).first() is None:
                return False
            given = {"execution_id": row["execution_id"]}
            connection.execute(sa.insert(schema.steps), [{**given, **step} for step in steps])
            self.insert_in(connection, [job])
        return True

    def withdraw_execution(self, execution_id: str, job_id: str) -> None:
        """Take back an execution that nobody has been told of yet."""
        table = self.schema.executions
        if self.withdraw([job_id]):
            with self.writing() as connection:
                connection.execute(sa.delete(table).where(table.c.execution_id == execution_id))

    def execution(self, execution_id: str) -> Row | None:
        """Return an execution with what its present step does, or None."""
        view = self._view()
        rows = self.rows(sa.select(view).where(view.c.execution_id == execution_id))
        return rows[0] if rows else None

    def executions(
        self,
        *,
        workflow: str | None = None,
        states: Sequence[str] = (),
        limit: int = 50,
        cursor: tuple[int, str] | None = None,
    ) -> list[Row]:
        """Return executions, the newest first.

        Args:
            workflow: only of this one.
            states: only in one of these states of the ledger.
            limit: at most so many.
            cursor: ``(queued_at, execution_id)`` of the last one of the previous page.
        """
        view = self._view()
        query = sa.select(view)
        if workflow is not None:
            query = query.where(view.c.workflow == workflow)
        if states:
            query = query.where(view.c.state.in_(states))
        if cursor is not None:
            at, last = sa.literal(cursor[0], sa.BigInteger), sa.literal(cursor[1], sa.Text)
            query = query.where(
                sa.tuple_(view.c.queued_at, view.c.execution_id) < sa.tuple_(at, last)
            )
        query = query.order_by(view.c.queued_at.desc(), view.c.execution_id.desc())
        return self.rows(query.limit(limit))

    def execution_steps(self, execution_id: str) -> list[Row]:
        """Return the steps of an execution in their order, each with its job as far as there is one."""
        steps, jobs = self.schema.steps, self.schema.jobs
        names = ("state", "attempts", "retries", "worker", "started_at", "finished_at", "result")
        query = (
            sa.select(steps, *(jobs.c[name] for name in (*names, "error")))
            .join(jobs, jobs.c.job_id == steps.c.job_id, isouter=True)
            .where(steps.c.execution_id == execution_id)
            .order_by(steps.c.position)
        )
        return self.rows(query)

    def seal_executions(self) -> int:
        """Note the ends of executions whose jobs tell them, so that the jobs may go; return their number."""
        table, view = self.schema.executions, self._view()
        ended = (
            sa.select(view.c.execution_id, view.c.state, view.c.finished_at, view.c.error)
            .join(table, table.c.execution_id == view.c.execution_id)
            .where(
                view.c.state.in_(_FINAL), table.c.finished_at.is_distinct_from(view.c.finished_at)
            )
        )
        rows = self.rows(ended.limit(1000))
        if rows:
            own: sa.BindParameter[str] = sa.bindparam("own")
            statement = sa.update(table).where(table.c.execution_id == own)
            values = [{"own": row.pop("execution_id"), **row} for row in rows]
            with self.writing() as connection:
                connection.execute(statement, values)
        return len(rows)

    def stranded_executions(self, before_ms: int) -> list[tuple[str, str]]:
        """Return executions whose next step has no job though the one before ended long ago.

        Args:
            before_ms: it ended before this moment (Unix milliseconds).

        Returns:
            Each with the id that the job of its next step would have.
        """
        view, steps, jobs = self._view(), self.schema.steps, self.schema.jobs
        query = (
            sa.select(view.c.execution_id, steps.c.job_id)
            .join(jobs, jobs.c.job_id == view.c.current_job_id)
            .join(
                steps,
                sa.and_(
                    steps.c.execution_id == view.c.execution_id,
                    steps.c.position == view.c.current_position + 1,
                ),
            )
            .where(
                view.c.finished_at.is_(None),
                jobs.c.state == State.COMPLETED.value,
                jobs.c.finished_at < before_ms,
            )
            .limit(100)
        )
        return [(row["execution_id"], row["job_id"]) for row in self.rows(query)]

    def end_execution(self, execution_id: str, error: str, at_ms: int) -> None:
        """Note that an execution has failed for want of its next step."""
        table = self.schema.executions
        own = table.c.execution_id == execution_id
        values = {"state": State.FAILED.value, "finished_at": at_ms, "error": error}
        with self.writing() as connection:
            connection.execute(sa.update(table).where(own).values(values))

    def forget_executions(self, before_ms: int) -> int:
        """Remove executions that ended before a moment and of which no job is left; return their number."""
        table, jobs = self.schema.executions, self.schema.jobs
        left = sa.exists().where(jobs.c.owner == table.c.execution_id, jobs.c.owner != "")
        old = sa.delete(table).where(table.c.finished_at < before_ms, ~left)
        with self.writing() as connection:
            return connection.execute(old).rowcount

    def claims(self) -> dict[str, tuple[str, ...]]:
        """Return what owners held when they were last heard of, for jobs that wait: for a restore."""
        jobs, events = self.schema.jobs, self.schema.events
        executions = self.schema.executions.c
        other = jobs.alias("other")
        began = sa.exists().where(
            other.c.owner == jobs.c.owner, other.c.owner != "", other.c.dispatched_at.is_not(None)
        )
        # Given back since: by a time limit, or because each step holds its own.
        given_back = sa.exists().where(
            events.c.job_id == jobs.c.job_id, events.c.event_type == "disowned"
        )
        apart = sa.exists().where(
            executions.execution_id == jobs.c.owner, executions.hold == "step"
        )
        query = sa.select(jobs.c.owner, jobs.c.needs).where(
            jobs.c.finished_at.is_(None),
            jobs.c.owner != "",
            began,
            ~given_back,
            ~apart,
        )
        found: dict[str, set[str]] = {}
        for row in self.rows(query):
            kept = [need for need in row["needs"] if is_kept(need)]
            found.setdefault(row["owner"], set()).update(kept)
        return {owner: tuple(sorted(needs)) for owner, needs in found.items()}

    def hold_ends(self) -> dict[str, int]:
        """Return until when owners keep what they hold for a job that waits (Unix milliseconds of Redis).

        Owners that keep it for as long as it takes are left out.
        """
        jobs, events = self.schema.jobs, self.schema.events
        query = (
            sa.select(jobs.c.owner, events.c.data)
            .join(events, events.c.job_id == jobs.c.job_id)
            .where(
                jobs.c.finished_at.is_(None),
                jobs.c.owner != "",
                events.c.event_type == Verb.SUBMITTED.value,
            )
            .order_by(events.c.ordinal)
        )
        found = {row["owner"]: row["data"].get("keep_until") for row in self.rows(query)}
        return {owner: int(end_ms) for owner, end_ms in found.items() if end_ms is not None}

    def _view(self) -> sa.TableClause:
        columns = [sa.column(name, kind) for name, kind in _STANDING]
        return sa.table(f"{self.schema.prefix}workflow_standing", *columns)
