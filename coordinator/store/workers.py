"""Workers: who was there, until when, and what they did; so that a restore knows whom to wait for.

Three writers, each enough when the others fail: a worker enrols before it fetches, the recorder notes who
came and went, and every few seconds what the ledger knows of all workers is kept. The moment of the last is
kept too: a worker that could not enrol fetches only when that moment is too old for a restore to trust.
All times are Redis's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from coordinator.jobs import Event
from coordinator.store.database import Database, chunks
from coordinator.store.measures import FENCED, PREFIX, REFUSED_CLAIMS

_KEPT = "workers_kept"

_COUNTERS = ("assigned", "completed", "failed")

_ENDS = {"worker_left": "left", "worker_expired": "expired"}


@dataclass(frozen=True, slots=True)
class StoredWorker:
    """A worker as the store knows it.

    Attributes:
        worker: its id, ``node/machine/pid/start``.
        node: Celery's node name.
        queues: the managed queues it consumes.
        slots: jobs it runs at once.
        versions: of Python and of what it runs on, by name.
        state: ``live``, ``left`` (it shut down) or ``expired`` (its lease ended).
        reason: why it is not live.
        first_heartbeat, last_heartbeat: Unix milliseconds of Redis's clock.
        assigned, completed, failed: runs it began and how they ended, over all epochs.
    """

    worker: str
    node: str
    queues: tuple[str, ...]
    slots: int
    versions: Mapping[str, str]
    state: str
    reason: str | None
    first_heartbeat: int
    last_heartbeat: int
    assigned: int
    completed: int
    failed: int


class Workers(Database):
    """The verbs for workers."""

    def enrol_worker(
        self,
        worker: str,
        queues: Sequence[str],
        slots: int,
        versions: Mapping[str, str],
        at_ms: int,
    ) -> None:
        """Note a worker that is about to take work.

        Args:
            worker: its id.
            queues, slots, versions: see ``StoredWorker``.
            at_ms: Redis's clock.

        Raises:
            StoreUnavailable: nobody would wait for it after Redis was wiped.
        """
        row = _row(worker, queues, slots, versions, at_ms, at_ms)
        with self.writing() as connection:
            self._put(connection, [row])

    def note_workers(self, events: Iterable[Event]) -> int:
        """Note who came and went; return the number of events that say so. Safe to repeat."""
        table = self.schema.workers
        came, went = [], []
        for event in events:
            if event.verb != "worker_joined" and event.verb not in _ENDS:
                continue
            worker = event.data.get("worker")
            if not isinstance(worker, str) or not worker:
                continue
            if event.verb == "worker_joined":
                queues = str(event.data.get("queues") or "").split()
                slots = int(event.data.get("slots") or 0)
                came.append(_row(worker, queues, slots, {}, event.at_ms, event.at_ms))
            else:
                why = self.redactor.text(str(event.data.get("reason") or ""))
                went.append(
                    {"w": worker, "s": _ENDS[event.verb], "r": why or None, "t": event.at_ms}
                )
        if not came and not went:
            return 0
        ended = (
            sa.update(table)
            # One that has been seen since has come back.
            .where(table.c.worker == sa.bindparam("w"), table.c.last_heartbeat <= sa.bindparam("t"))
            .values(state=sa.bindparam("s"), reason=sa.bindparam("r"))
        )
        with self.writing() as connection:
            self._put(connection, came)
            if went:
                connection.execute(ended, went)
        return len(came) + len(went)

    def keep_workers(
        self, reports: Iterable[Mapping[str, Any]], epoch: int, at_ms: int, silent_ms: int
    ) -> int:
        """Keep what the ledger knows of all its workers; return the number of live rows that it does not know.

        These have ended without anybody saying so (the event died with Redis).

        Args:
            reports: of ``Ledger.workers()``, all of an open ledger.
            epoch: the ledger's epoch.
            at_ms: Redis's clock, from before the reports were read.
            silent_ms: for how long a worker that the ledger does not know may have been about to register.
        """
        table = self.schema.workers
        given = {str(report["id"]): report for report in reports}
        with self.writing() as connection:
            counted: dict[str, Any] = {}
            for some in chunks(sorted(given)):
                query = sa.select(table).where(self.among(table.c.worker, some))
                counted |= {row["worker"]: row for row in connection.execute(query).mappings()}
            self._put(
                connection,
                [
                    _reported(report, counted.get(worker), epoch, at_ms)
                    for worker, report in sorted(given.items())
                ],
                anew=True,
            )
            self._keep_counts(connection, given, epoch)
            silent = (
                sa.update(table)
                .where(
                    table.c.state == "live",
                    sa.not_(self.among(table.c.worker, sorted(given))),
                    # Later than now: Redis's clock was set back since.
                    sa.or_(
                        table.c.last_heartbeat < at_ms - silent_ms,
                        table.c.last_heartbeat > at_ms + silent_ms,
                    ),
                )
                .values(state="expired", reason="the ledger does not know it any more")
            )
            gone = connection.execute(silent).rowcount
            self._confirm(connection, at_ms)
        return gone

    def _keep_counts(
        self, connection: sa.Connection, reports: Mapping[str, Mapping[str, Any]], epoch: int
    ) -> None:
        # The greatest each has told: whoever is elected next adds nothing twice, and the sum never falls.
        told = [
            (name, label, int(report.get(field) or 0))
            for worker, report in sorted(reports.items())
            for name, field, label in (
                # The ledger counts these, anew in each epoch; the worker itself those.
                (REFUSED_CLAIMS, "refused", f"{epoch} {worker}"),
                (FENCED, "fenced", worker),
            )
        ]
        rows = [
            {"name": PREFIX + name, "queue": "", "label": label, "value": value}
            for name, label, value in told
            if value
        ]
        if not rows:
            return
        table = self.schema.totals
        insert = self.upsert(table)
        greater = insert.excluded.value > table.c.value
        value = sa.case((greater, insert.excluded.value), else_=table.c.value)
        connection.execute(
            insert.on_conflict_do_update(
                index_elements=list(table.primary_key), set_={"value": value}
            ),
            rows,
        )

    def confirm_workers(self, at_ms: int) -> None:
        """Note that at this moment of Redis's clock nobody is live but those the store knows."""
        with self.writing() as connection:
            self._confirm(connection, at_ms)

    def live_workers(self) -> tuple[set[str], int]:
        """Return the ids of the live workers, and the moment of Redis's clock up to which they are all (or 0)."""
        table, moments = self.schema.workers.c, self.schema.moments.c
        with self.reading() as connection:
            ids = set(connection.scalars(sa.select(table.worker).where(table.state == "live")))
            at = connection.scalar(sa.select(moments.at).where(moments.name == _KEPT))
        return ids, at or 0

    def workers(self, limit: int = 1000) -> list[StoredWorker]:
        """Return workers, whoever was seen last first."""
        table = self.schema.workers
        query = (
            sa.select(table).order_by(table.c.last_heartbeat.desc(), table.c.worker).limit(limit)
        )
        return [_stored(row) for row in self.rows(query)]

    def inactive_workers(self, silent_seconds: float, at_ms: int) -> list[StoredWorker]:
        """Return workers that are not live and have been silent for so long, the longest first.

        Args:
            silent_seconds: since their last heartbeat.
            at_ms: the present moment of Redis's clock.
        """
        table = self.schema.workers
        query = sa.select(table).where(*self._inactive(silent_seconds, at_ms))
        return [
            _stored(row)
            for row in self.rows(query.order_by(table.c.last_heartbeat, table.c.worker))
        ]

    def forget_workers(self, silent_seconds: float, at_ms: int) -> int:
        """Forget the workers of ``inactive_workers``; return their number."""
        table = self.schema.workers
        with self.writing() as connection:
            gone = sa.delete(table).where(*self._inactive(silent_seconds, at_ms))
            return connection.execute(gone).rowcount

    def _inactive(self, silent_seconds: float, at_ms: int) -> tuple[sa.ColumnElement[bool], ...]:
        table = self.schema.workers.c
        end = at_ms - int(silent_seconds * 1000)
        return table.state.in_(("left", "expired")), table.last_heartbeat <= end

    def _confirm(self, connection: sa.Connection, at_ms: int) -> None:
        insert = self.upsert(self.schema.moments).values(name=_KEPT, at=at_ms)
        connection.execute(
            insert.on_conflict_do_update(index_elements=["name"], set_={"at": at_ms})
        )

    def _put(
        self, connection: sa.Connection, rows: Sequence[dict[str, Any]], anew: bool = False
    ) -> None:
        table = self.schema.workers
        for row in rows:
            insert = self.upsert(table).values(row)
            new = dict(row)
            del new["worker"]
            # The first heartbeat stays what it was; an event without versions says nothing of them, and a worker
            # that is drained consumes nothing: people ask which queues it served.
            del new["first_heartbeat"]
            for name in ("versions", "queues"):
                if not row[name]:
                    del new[name]
            if not anew:
                later = table.c.last_heartbeat < insert.excluded.last_heartbeat
                new["last_heartbeat"] = sa.case(
                    (later, insert.excluded.last_heartbeat), else_=table.c.last_heartbeat
                )
            connection.execute(insert.on_conflict_do_update(index_elements=["worker"], set_=new))


def _row(
    worker: str,
    queues: Sequence[str],
    slots: int,
    versions: Mapping[str, str],
    first_ms: int,
    last_ms: int,
) -> dict[str, Any]:
    return {
        "worker": worker,
        "node": worker.rsplit("/", 3)[0],
        "queues": sorted(queues),
        "slots": slots,
        "versions": dict(versions),
        "state": "live",
        "reason": None,
        "first_heartbeat": first_ms,
        "last_heartbeat": last_ms,
    }


def _reported(
    report: Mapping[str, Any], known: Mapping[str, Any] | None, epoch: int, at_ms: int
) -> dict[str, Any]:
    row = _row(
        str(report["id"]),
        str(report.get("pool") or "").split(),
        int(report.get("slots") or 0),
        report.get("versions") or {},
        int(report.get("since") or at_ms),
        int(report.get("seen") or at_ms),
    )
    row["counted_epoch"] = epoch
    for name in _COUNTERS:
        counted = int(report.get(name) or 0)
        before = known[name] if known else 0
        same = known is not None and known["counted_epoch"] == epoch
        # Less than before in the same epoch: it expired and registered again, and was counted anew.
        last = known[f"counted_{name}"] if known and same else 0
        row[name] = before + (counted - last if counted >= last else counted)
        row[f"counted_{name}"] = counted
    return row


def _stored(row: Mapping[str, Any]) -> StoredWorker:
    names = StoredWorker.__slots__
    return StoredWorker(**{**{name: row[name] for name in names}, "queues": tuple(row["queues"])})
