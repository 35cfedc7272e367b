"""Conditions: circuit breakers, alerts and the populator's rounds, which outlive Redis and every process.

And what they are judged by: how the jobs of a while ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from coordinator.errors import InvalidValue
from coordinator.resources import INTEGRATION, kind_of
from coordinator.schema.conditions import CONDITION_KINDS
from coordinator.states import State
from coordinator.store.listings import Listings
from coordinator.store.transitions import first_ordinal

_ENDS = (State.COMPLETED.value, State.FAILED.value, State.UNPROCESSABLE.value)

#: How many of the latest jobs of a wish are looked at.
_LATEST = 20


@dataclass(frozen=True, slots=True)
class Condition:
    """What is true of something, since when (Unix milliseconds), and what belongs to it."""

    kind: str
    name: str
    state: str
    since: int
    data: Mapping[str, Any]


class Conditions(Listings):
    """The verbs of conditions."""

    def set_condition(
        self, kind: str, name: str, state: str, since_ms: int, data: Mapping[str, Any]
    ) -> None:
        """Keep a condition; it replaces the one of this kind and name.

        Args:
            kind: ``breaker``, ``alert`` or ``populator``.
            name: of what.
            state: what is true of it.
            since_ms: since when (Unix milliseconds).
            data: what belongs to it, as JSON can hold it.
        """
        if kind not in CONDITION_KINDS:
            raise InvalidValue("kind", kind, "one of " + ", ".join(CONDITION_KINDS))
        kept = self.redactor.value(dict(data))
        columns = {"state": state, "since": since_ms, "data": kept}
        insert = self.upsert(self.schema.conditions).values(kind=kind, name=name, **columns)
        with self.writing() as connection:
            connection.execute(
                insert.on_conflict_do_update(index_elements=["kind", "name"], set_=columns)
            )

    def drop_condition(self, kind: str, name: str) -> None:
        """Forget a condition."""
        table = self.schema.conditions
        with self.writing() as connection:
            connection.execute(sa.delete(table).where(table.c.kind == kind, table.c.name == name))

    def conditions(self, kind: str) -> dict[str, Condition]:
        """Return the conditions of a kind by name."""
        table = self.schema.conditions
        query = sa.select(table).where(table.c.kind == kind).order_by(table.c.name)
        return {row["name"]: Condition(**row) for row in self.rows(query)}

    def outcomes(self, since_ms: int) -> dict[str, tuple[int, int]]:
        """Return the jobs that were completed, and that failed for good, by queue and by integration.

        Retries are no end, and what an operator ended says nothing of those who failed by themselves: neither
        counts.

        Args:
            since_ms: those that ended since (Unix milliseconds).

        Returns:
            By ``queue:NAME`` or ``integration:NAME``, (completed, failed).
        """
        events, jobs = self.schema.events.c, self.schema.jobs.c
        # As text: PostgreSQL's JSON has no equality, so that it cannot be grouped by.
        needs = sa.cast(jobs.needs, sa.Text)
        query = (
            sa.select(
                events.queue,
                needs.label("needs"),
                events.event_type,
                sa.func.count().label("number"),
            )
            .select_from(
                self.schema.events.outerjoin(self.schema.jobs, jobs.job_id == events.job_id)
            )
            .where(
                events.event_type.in_(_ENDS),
                events.ordinal >= first_ordinal(since_ms),
                # Quotes inside of texts are escaped: this is the name of whoever ended it.
                sa.not_(self.has_text(sa.cast(events.data, sa.Text), '"by"')),
            )
            .group_by(events.queue, needs, events.event_type)
        )
        found: dict[str, tuple[int, int]] = {}
        for row in self.rows(query):
            for scope in _scopes(row["queue"], row["needs"]):
                completed, failed = found.get(scope, (0, 0))
                if row["event_type"] == State.COMPLETED.value:
                    completed += row["number"]
                else:
                    failed += row["number"]
                found[scope] = (completed, failed)
        return found

    def probes(self, scope: str, since_ms: int) -> int:
        """Return how many jobs that need a resource were completed in a run begun since a moment."""
        events, jobs = self.schema.events.c, self.schema.jobs.c
        query = (
            sa.select(sa.func.count())
            .select_from(self.schema.events.join(self.schema.jobs, jobs.job_id == events.job_id))
            .where(
                events.event_type == State.COMPLETED.value,
                events.ordinal >= first_ordinal(since_ms),
                jobs.started_at >= since_ms,
                # Quoted in the JSON: not one whose name only begins like this.
                self.has_text(sa.cast(jobs.needs, sa.Text), json.dumps(scope)),
            )
        )
        with self.reading() as connection:
            return connection.scalar(query) or 0

    def last_completion(self) -> int | None:
        """Return when a job was completed last (Unix milliseconds), as far as the log goes."""
        events = self.schema.events.c
        query = (
            sa.select(events.at)
            .where(events.event_type == State.COMPLETED.value)
            .order_by(events.ordinal.desc())
            .limit(1)
        )
        with self.reading() as connection:
            return connection.scalar(query)

    def failures_in_a_row(self, queue: str, model: str | None, task: str) -> tuple[int, int]:
        """Return how many of the latest jobs of a task failed one after the other, and when the last one ended.

        Args:
            queue, model, task: of the jobs; at most the latest 20 that have ended count.
        """
        jobs = self.schema.jobs.c
        query = sa.select(jobs.state, jobs.finished_at).where(
            jobs.queue == queue, jobs.task == task, jobs.state.in_(_ENDS)
        )
        query = query.where(jobs.model.is_(None) if model is None else jobs.model == model)
        number, last = 0, 0
        for row in self.rows(query.order_by(jobs.sequence.desc()).limit(_LATEST)):
            if row["state"] == State.COMPLETED.value:
                break
            number += 1
            last = max(last, row["finished_at"] or 0)
        return number, last


def _scopes(queue: str | None, needs: str | None) -> list[str]:
    found = [need for need in json.loads(needs or "[]") if kind_of(need) == INTEGRATION]
    # What a job that depends on an outside system comes to says nothing of its queue.
    return found or ([f"queue:{queue}"] if queue else [])
