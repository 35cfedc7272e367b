"""Planning: what a batch of events will write, worked out before the write lock is taken."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import sqlalchemy as sa

from coordinator.jobs import Event, Job
from coordinator.store.database import chunks
from coordinator.store.entry import log_row, queue_of
from coordinator.store.measures import Measures
from coordinator.store.statements import READ, Statement
from coordinator.store.submission import Submission
from coordinator.store.transitions import (
    SETTING_VERBS,
    Fold,
    Transition,
    fold,
    is_late,
    moment_of,
    order_of,
    transition,
)

Key: TypeAlias = tuple[int, str]

_Step: TypeAlias = tuple[Transition, str | None]

#: What the log and the totals know of a job without a row.
_NOBODY: Mapping[str, Any] = {}


@dataclass
class Plan:
    """What to write.

    Attributes:
        fresh: the events that are new.
        known: number of those that are in the log already.
        moved: job rows that change.
        steps: statements, their rows, and how many rows of the table each must touch (None: any number).
            Touching fewer says that somebody else wrote since the plan was made.
    """

    fresh: Sequence[Transition]
    known: int
    moved: int = 0
    steps: list[tuple[Statement, list[Any], int | None]] = field(default_factory=list)

    def add(
        self, statement: Statement, rows: Sequence[Mapping[str, Any]], expected: int | None = None
    ) -> None:
        """Add a statement, unless there is nothing to run it for."""
        self.add_bound(statement, [statement.bound(row) for row in rows], expected)

    def add_bound(
        self, statement: Statement, bound: list[Any], expected: int | None = None
    ) -> None:
        """Add a statement with rows in the driver's form."""
        if bound:
            self.steps.append((statement, bound, expected))


class Planning(Submission):
    """Turns events into statements."""

    def plan(
        self, connection: sa.Connection, batch: Mapping[Key, Transition], replayed: bool = True
    ) -> Plan:
        """Return what is to be written for a batch, as this transaction sees the database.

        Args:
            connection: a transaction.
            batch: the events by their key.
            replayed: whether some of them may be in the log already; else writing the plan finds out.
        """
        known = self._known_events(connection, batch) if replayed else set()
        fresh = (
            [item for key, item in batch.items() if key not in known]
            if known
            else [*batch.values()]
        )
        plan = Plan(fresh, len(batch) - len(fresh))
        if not fresh:
            return plan
        inserted = self._missing(connection, fresh)
        rows = self._rows(connection, {item.event.job_id for item in fresh})
        new_rows = {job_id: self._new_row(job) for job_id, job in inserted.items()}
        rows.update(new_rows)
        logged, folds, amended = self._fold(connection, fresh, rows, inserted)
        statements = self.statements
        row_of, redactor, ordered = rows.get, self.redactor, statements.log.ordered
        entries = [
            ordered(log_row(step, before, row_of(step.event.job_id, _NOBODY), redactor))
            for step, before in logged
        ]
        # First: another recorder that was faster is noticed before anything else is written.
        plan.add_bound(statements.log, entries, len(entries))
        plan.add(
            statements.job, [self.definition(job) for job in _ordered(inserted)], len(inserted)
        )
        plan.add(statements.model, self.model_rows(inserted.values()))
        plan.add(
            statements.amend,
            [
                {"e": step.event.epoch, "i": step.event.event_id, "b": before}
                for step, before in amended
                if step.state is not None
            ],
        )
        self._move(plan, rows, folds, inserted)
        plan.add(statements.total, self._totals(fresh, rows, logged))
        self._operators(plan, fresh)
        return plan

    def _known_events(self, connection: sa.Connection, keys: Collection[Key]) -> set[Key]:
        by_epoch: defaultdict[int, list[str]] = defaultdict(list)
        for epoch, event_id in keys:
            by_epoch[epoch].append(event_id)
        known: set[Key] = set()
        for epoch, ids in by_epoch.items():
            for some in chunks(ids):
                given = {"epoch": epoch, "ids": self.statements.listed(some)}
                found = self.statements.known.one(connection, given)
                known.update((epoch, event_id) for (event_id,) in found)
        return known

    def _missing(self, connection: sa.Connection, fresh: Sequence[Transition]) -> dict[str, Job]:
        """Return the jobs that only their events know."""
        jobs: dict[str, Job] = {}
        for item in sorted((item for item in fresh if item.job is not None), key=order_of):
            if item.job is not None:
                jobs.setdefault(item.job.job_id, item.job)
        for job_id in self.known_in(connection, list(jobs)):
            del jobs[job_id]
        return jobs

    def _rows(self, connection: sa.Connection, job_ids: set[str]) -> dict[str, Mapping[str, Any]]:
        rows: dict[str, Mapping[str, Any]] = {}
        for some in chunks(sorted(job_ids - {""})):
            for row in self.statements.rows.one(connection, {"ids": self.statements.listed(some)}):
                rows[row[0]] = dict(zip(READ, row, strict=True))
        return rows

    def _new_row(self, job: Job) -> dict[str, Any]:
        given = self.definition(job)
        row = dict.fromkeys(READ)
        row.update((name, given[name]) for name in READ if name in given)
        row.update(attempts=0, losses=0, epoch=0, version=0)
        return row

    def _fold(
        self,
        connection: sa.Connection,
        fresh: Sequence[Transition],
        rows: Mapping[str, Mapping[str, Any]],
        inserted: Collection[str],
    ) -> tuple[list[_Step], dict[str, Fold], list[_Step]]:
        by_job: defaultdict[str, list[Transition]] = defaultdict(list)
        logged: list[_Step] = []
        for item in fresh:
            job_id = item.event.job_id
            if job_id in rows:
                by_job[job_id].append(item)
            else:
                logged.append((item, None))
        told = self._told(connection, inserted)
        folds: dict[str, Fold] = {}
        amended: list[_Step] = []
        for job_id, items in by_job.items():
            past: list[Transition] = []
            items.sort(key=order_of)
            late = job_id in told or is_late(rows[job_id], items)
            if late:
                past = self._past(connection, job_id)
            done = fold(rows[job_id], [*past, *items], whole=late)
            if late:
                own = {(item.event.epoch, item.event.event_id) for item in items}
                for step in done.steps:
                    event = step[0].event
                    (logged if (event.epoch, event.event_id) in own else amended).append(step)
            else:
                logged += done.steps
            folds[job_id] = done
        return logged, folds, amended

    def _told(self, connection: sa.Connection, inserted: Collection[str]) -> set[str]:
        """Return those of the new rows whose events were recorded before there was a row to change."""
        table = self.schema.events.c
        found: set[str] = set()
        for some in chunks(sorted(inserted)):
            query = sa.select(table.job_id).where(self.among(table.job_id, some)).distinct()
            found.update(connection.scalars(query))
        return found

    def _past(self, connection: sa.Connection, job_id: str) -> list[Transition]:
        table = self.schema.events.c
        query = sa.select(
            table.epoch,
            table.event_id,
            table.event_type,
            table.job_id,
            table.version,
            table.at,
            table.data,
        ).where(table.job_id == job_id)
        return [transition(Event(*row)) for row in connection.execute(query)]

    def _move(
        self,
        plan: Plan,
        rows: Mapping[str, Mapping[str, Any]],
        folds: Mapping[str, Fold],
        inserted: Mapping[str, Job],
    ) -> None:
        groups: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        replaced: list[Job] = []
        redact = self.redactor.text
        for job_id, done in folds.items():
            new, old = done.values, rows[job_id]
            for name in ("error", "result", "conflict_reason"):
                if new.get(name) is not None:
                    new[name] = redact(new[name])
            changed = {name: value for name, value in new.items() if value != old[name]}
            if done.job is not None and done.job is not inserted.get(job_id):
                changed.update(self.redefinition(done.job))
                replaced.append(done.job)
            if changed:
                columns = tuple(sorted(changed))
                changed["this"] = job_id
                changed["old_epoch"] = old["epoch"]
                changed["old_version"] = old["version"]
                changed["old_beat"] = old["last_heartbeat"]
                groups[columns].append(changed)
        plan.add(self.statements.forget_models, [{"this": job.job_id} for job in replaced])
        plan.add(self.statements.model, self.model_rows(replaced))
        for columns, changes in groups.items():
            changes.sort(key=lambda row: str(row["this"]))
            plan.add(self.statements.move(columns), changes, len(changes))
        plan.moved = sum(map(len, groups.values()))

    def _totals(
        self,
        fresh: Sequence[Transition],
        rows: Mapping[str, Mapping[str, Any]],
        steps: Sequence[_Step],
    ) -> list[dict[str, Any]]:
        totals: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        Measures(totals, rows).add(steps)
        for item in fresh:
            event = item.event
            data, row = event.data, rows.get(event.job_id)
            if row is None:
                queue, task = queue_of(data.get("resource")) or "", ""
            else:
                queue, task = row["queue"], row["task"]
            totals[event.verb, queue, task] += 1
            if data.get("runtime_ms") is not None:
                # Run time of all runs that ended, in ms: with their number it gives the average for ever.
                totals["runtime_ms", queue, task] += max(0, int(data["runtime_ms"]))
        # Sorted, so that two transactions that add to the same rows never wait for each other in a circle.
        return [
            {"name": name, "queue": queue, "label": label, "value": value}
            for (name, queue, label), value in sorted(totals.items())
        ]

    def _operators(self, plan: Plan, fresh: Sequence[Transition]) -> None:
        """Keep what operators have set, so that it is there again when Redis has forgotten it."""
        last: dict[tuple[str, str], Transition] = {}
        said = [item for item in fresh if item.event.verb in SETTING_VERBS]
        for item in sorted(said, key=order_of):
            data = item.event.data
            if data.get("resource") and _is_setting(item.event):
                last[SETTING_VERBS[item.event.verb], str(data["resource"])] = item
        for (kind, resource), item in sorted(last.items(), key=lambda pair: pair[0]):
            data = item.event.data
            row = {"kind": kind, "resource": resource, "set_at": moment_of(item.ordinal)}
            if item.event.verb in ("resumed", "limit_reset", "override_reset"):
                plan.add(self.statements.unset, [row])
                continue
            row |= {
                "value": json.dumps(int(data["after"])) if kind != "hold" else None,
                "set_by": self.redactor.text(str(data.get("by") or "")),
                "reason": self.redactor.text(str(data.get("reason") or "")),
                "until_at": int(data["until_ms"]) if data.get("until_ms") else None,
            }
            plan.add(self.statements.set, [row])


def _is_setting(event: Event) -> bool:
    # A limit that is no number could not be set again.
    return (
        event.verb not in ("limit_set", "override_set") or str(event.data.get("after")).isdecimal()
    )


def _ordered(jobs: Mapping[str, Job]) -> list[Job]:
    return [jobs[job_id] for job_id in sorted(jobs)]
