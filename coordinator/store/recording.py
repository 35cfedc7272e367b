"""Recording: events of the ledger become rows of the log, changes of job rows and totals."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import sqlalchemy as sa

from coordinator.jobs import Event, Job
from coordinator.store.database import RECORDER_LOCK, RowRefused, chunks
from coordinator.store.entry import log_row, queue_of
from coordinator.store.submission import Submission
from coordinator.store.transitions import COLUMNS, Fold, Transition, fold, is_late, transition

_Key: TypeAlias = tuple[int, str]


@dataclass(frozen=True)
class Recorded:
    """What a batch did.

    Attributes:
        new: events written to the log.
        known: events that were in it already.
        moved: job rows that changed.
    """

    new: int = 0
    known: int = 0
    moved: int = 0


class Recording(Submission):
    """The verbs of the recorder."""

    def record(self, events: Sequence[Event]) -> Recorded:
        """Write events to the log, the job rows and the totals, in one transaction.

        Idempotent by (epoch, event id): a batch recorded before, in part or whole, in any order, changes
        nothing more. A job row only moves to a newer (epoch, version); an event that comes late fills in
        what no newer one has set.

        Raises:
            StoreUnavailable: nothing was written.
            RowRefused: one of the events is damaged or forbidden by the database; nothing was written.
        """
        batch = {(event.epoch, event.event_id): _transition(event) for event in events}
        if not batch:
            return Recorded()
        with self.writing(RECORDER_LOCK) as connection:
            known = self._known_events(connection, batch)
            fresh = [item for key, item in batch.items() if key not in known]
            if not fresh:
                return Recorded(known=len(batch))
            fresh.sort(key=lambda item: item.order)
            inserted = self._insert_missing(connection, fresh)
            rows = self._rows(connection, {item.event.job_id for item in fresh})
            logged, folds, amended = self._fold(connection, fresh, rows, inserted)
            self._amend(connection, amended)
            self._log(connection, logged, rows)
            moved = self._move(connection, rows, folds, inserted)
            self._count(connection, fresh, rows)
        return Recorded(len(fresh), len(batch) - len(fresh), moved)

    def _known_events(self, connection: sa.Connection, keys: Iterable[_Key]) -> set[_Key]:
        table = self.schema.events.c
        by_epoch: defaultdict[int, list[str]] = defaultdict(list)
        for epoch, event_id in keys:
            by_epoch[epoch].append(event_id)
        known: set[_Key] = set()
        for epoch, ids in by_epoch.items():
            for some in chunks(ids):
                query = sa.select(table.event_id).where(
                    table.epoch == epoch, self.among(table.event_id, some)
                )
                known.update((epoch, event_id) for event_id in connection.scalars(query))
        return known

    def _insert_missing(
        self, connection: sa.Connection, fresh: Sequence[Transition]
    ) -> dict[str, Job]:
        jobs: dict[str, Job] = {}
        for item in fresh:
            if item.job is not None:
                jobs.setdefault(item.job.job_id, item.job)
        for job_id in self.known_in(connection, list(jobs)):
            del jobs[job_id]
        self._insert_rows(connection, list(jobs.values()))
        return jobs

    def _rows(self, connection: sa.Connection, job_ids: set[str]) -> dict[str, Mapping[str, Any]]:
        columns = self.schema.jobs.c
        wanted = [columns[name] for name in ("job_id", "task", "queue", *COLUMNS)]
        rows: dict[str, Mapping[str, Any]] = {}
        for some in chunks(sorted(job_ids - {""})):
            # Locked, so that a heartbeat between reading and writing a row is not overwritten.
            query = sa.select(*wanted).where(self.among(columns.job_id, some)).with_for_update()
            for row in connection.execute(query).mappings():
                rows[row["job_id"]] = dict(row)
        return rows

    def _fold(
        self,
        connection: sa.Connection,
        fresh: Sequence[Transition],
        rows: Mapping[str, Mapping[str, Any]],
        inserted: Collection[str],
    ) -> tuple[list[Transition], dict[str, Fold], list[Transition]]:
        by_job: defaultdict[str, list[Transition]] = defaultdict(list)
        logged: list[Transition] = []
        for item in fresh:
            if item.event.job_id in rows:
                by_job[item.event.job_id].append(item)
            else:
                logged.append(item)
        told = self._told(connection, inserted)
        folds: dict[str, Fold] = {}
        amended: list[Transition] = []
        for job_id, items in by_job.items():
            past: list[Transition] = []
            late = job_id in told or is_late(rows[job_id], items)
            if late:
                past = self._past(connection, job_id)
            done = fold(rows[job_id], [*past, *items], whole=late)
            own = {(item.event.epoch, item.event.event_id) for item in items}
            for step in done.steps:
                new = (step.event.epoch, step.event.event_id) in own
                (logged if new else amended).append(step)
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

    def _amend(self, connection: sa.Connection, steps: Sequence[Transition]) -> None:
        if not steps:
            return
        table = self.schema.events
        update = (
            sa.update(table)
            .where(table.c.epoch == sa.bindparam("e"), table.c.event_id == sa.bindparam("i"))
            .values(before=sa.bindparam("b"))
        )
        rows = [
            {"e": step.event.epoch, "i": step.event.event_id, "b": step.before}
            for step in steps
            if step.state is not None
        ]
        if rows:
            connection.execute(update, rows)

    def _log(
        self,
        connection: sa.Connection,
        steps: Sequence[Transition],
        rows: Mapping[str, Mapping[str, Any]],
    ) -> None:
        insert = self.upsert(self.schema.events).on_conflict_do_nothing()
        connection.execute(
            insert,
            [log_row(step, rows.get(step.event.job_id, {}), self.redactor) for step in steps],
        )

    def _move(
        self,
        connection: sa.Connection,
        rows: Mapping[str, Mapping[str, Any]],
        folds: Mapping[str, Fold],
        inserted: Mapping[str, Job],
    ) -> int:
        table = self.schema.jobs
        groups: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for job_id, done in folds.items():
            new = dict(done.values)
            for name in ("error", "result", "conflict_reason"):
                if new[name] is not None:
                    new[name] = self.redactor.text(new[name])
            changed = {name: new[name] for name in COLUMNS if new[name] != rows[job_id][name]}
            if done.job is not None and done.job is not inserted.get(job_id):
                changed.update(self._redefinition(connection, done.job))
            if changed:
                row = {f"new_{name}": value for name, value in changed.items()}
                row.update(this=job_id, epoch_now=new["epoch"], version_now=new["version"])
                groups[tuple(sorted(changed))].append(row)
        for columns, changes in groups.items():
            update = (
                sa.update(table)
                .where(
                    table.c.job_id == sa.bindparam("this"),
                    # Held by the database as well: whatever goes wrong above, a row never goes back.
                    sa.tuple_(table.c.epoch, table.c.version)
                    <= sa.tuple_(
                        sa.bindparam("epoch_now", type_=sa.BigInteger),
                        sa.bindparam("version_now", type_=sa.BigInteger),
                    ),
                )
                .values(
                    {
                        name: sa.bindparam(f"new_{name}", type_=table.c[name].type)
                        for name in columns
                    }
                )
            )
            connection.execute(update, changes)
        return sum(map(len, groups.values()))

    def _redefinition(self, connection: sa.Connection, job: Job) -> dict[str, Any]:
        """Return the columns of the definition that a resubmitted or replaced job goes on with."""
        models = self.schema.models
        connection.execute(sa.delete(models).where(models.c.job_id == job.job_id))
        self.insert_models(connection, [job])
        row = self.definition(job)
        for name in ("job_id", "queued_at", "root_id", "parent_id", *COLUMNS):
            row.pop(name, None)
        for name in ("needs", "required_models"):
            row[name] = json.loads(row[name])
        return row

    def _count(
        self,
        connection: sa.Connection,
        fresh: Sequence[Transition],
        rows: Mapping[str, Mapping[str, Any]],
    ) -> None:
        totals: Counter[tuple[str, str, str]] = Counter()
        for item in fresh:
            data, row = item.event.data, rows.get(item.event.job_id, {})
            queue = row.get("queue") or queue_of(data.get("resource")) or ""
            totals[item.event.verb, queue, row.get("task") or ""] += 1
            if data.get("runtime_ms") is not None:
                # Run time of all runs that ended, in ms: with their number it gives the average for ever.
                totals["runtime_ms", queue, row.get("task") or ""] += max(
                    0, int(data["runtime_ms"])
                )
        table = self.schema.totals
        insert = self.upsert(table)
        # Sorted, so that two transactions that add to the same rows never wait for each other in a circle.
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=["name", "queue", "label"],
                set_={"value": table.c.value + insert.excluded.value},
            ),
            [
                {"name": name, "queue": queue, "label": label, "value": value}
                for (name, queue, label), value in sorted(totals.items())
            ],
        )


def _transition(event: Event) -> Transition:
    try:
        runtime = event.data.get("runtime_ms")
        if runtime is not None:
            int(runtime)
        return transition(event)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RowRefused(f"a damaged event: {type(error).__name__}: {error}") from error
