"""Recording: events of the ledger become rows of the log, changes of job rows and totals."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from coordinator.jobs import Event
from coordinator.store.database import RECORDER_LOCK, RowRefused
from coordinator.store.planning import Key, Plan, Planning
from coordinator.store.transitions import SETTING_VERBS, Transition, transition

#: Events after which the recorder brings SQLite's WAL to the database file, so that producers need not.
CHECKPOINT_EVENTS = 2000

#: Pages of the WAL from which that also waits for a moment without writers, so that the WAL begins anew.
RESTART_PAGES = 8000

#: Seconds for which a batch should hold SQLite's write lock, and the fewest events in it all the same: a
#: machine that is busy with other things makes every lock long.
LOCK_SECONDS = 0.005
BATCH_LEAST = 200

#: The longest rest between two batches, in seconds.
REST_MOST = 0.01


@dataclass(frozen=True)
class Recorded:
    """What a batch did.

    Attributes:
        new: events written to the log.
        known: events that were in it already.
        moved: job rows that changed.
        locked: seconds for which nobody else could write; 0 on PostgreSQL.
    """

    new: int = 0
    known: int = 0
    moved: int = 0
    locked: float = field(default=0.0, compare=False)


class Recording(Planning):
    """The verbs of the recorder."""

    _locked_until = _locked = 0.0
    #: Seconds of lock per event, as measured of late.
    _cost = 25e-6
    _since_checkpoint = 0

    def record(self, events: Sequence[Event]) -> Recorded:
        """Write events to the log, the job rows and the totals, in one transaction.

        Idempotent by (epoch, event id): a batch recorded before, in part or whole, in any order, changes
        nothing more. A job row only moves to a newer (epoch, version); an event that comes late fills in
        what no newer one has set.

        On SQLite everything is worked out before the write lock is taken, and the lock is left free at least
        as long as it was held: producers wait for milliseconds.

        Raises:
            StoreUnavailable: nothing was written.
            RowRefused: one of the events is damaged or forbidden by the database; nothing was written.
        """
        batch = {(event.epoch, event.event_id): _transition(event) for event in events}
        if not batch:
            return Recorded()
        if self.dialect != "sqlite":
            return self._record_locked(batch)
        with self.reading() as connection:
            plan = self.plan(connection, batch, replayed=False)
        self._rest()
        done = self._record_planned(plan) or self._record_locked(batch)
        self._checkpoint(done.new)
        return done

    def batch_size(self, most: int) -> int:
        """Return how many events to record at once, so that nobody waits for long.

        Args:
            most: what to return when nobody waits at all.
        """
        if self.dialect != "sqlite":
            return most
        return max(min(BATCH_LEAST, most), min(most, int(LOCK_SECONDS / self._cost)))

    def _record_planned(self, plan: Plan) -> Recorded | None:
        """Write a plan; None when somebody wrote to the same rows since it was made, and nothing is written."""
        with self.writing() as connection:
            began = time.monotonic()
            written = _write(connection, plan, checked=True)
            if not written:
                connection.rollback()
        self._locked_until = time.monotonic()
        self._locked = self._locked_until - began
        # The commit's own time is shared by all; a few events say nothing about many.
        if len(plan.fresh) >= BATCH_LEAST:
            self._cost = max(1e-6, 0.8 * self._cost + 0.2 * self._locked / len(plan.fresh))
        return Recorded(len(plan.fresh), plan.known, plan.moved, self._locked) if written else None

    def _record_locked(self, batch: Mapping[Key, Transition]) -> Recorded:
        with self.writing(RECORDER_LOCK) as connection:
            plan = self.plan(connection, batch)
            _write(connection, plan, checked=False)
            return Recorded(len(plan.fresh), plan.known, plan.moved)

    def _rest(self) -> None:
        free_at = self._locked_until + min(self._locked, REST_MOST)
        left = free_at - time.monotonic()
        if left > 0:
            time.sleep(left)

    def _checkpoint(self, events: int) -> None:
        self._since_checkpoint += events
        if self._since_checkpoint < CHECKPOINT_EVENTS:
            return
        self._since_checkpoint = 0
        with self.stating() as connection:
            # Beside readers and writers. What was written meanwhile is left for the next time.
            _, pages, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").one()
            if pages > RESTART_PAGES:
                self.restart_wal(connection)


def _write(connection: sa.Connection, plan: Plan, checked: bool) -> bool:
    """Run the statements of a plan; False as soon as one that is checked touches other rows than it should."""
    for statement, rows, expected in plan.steps:
        touched = statement.many(connection, rows)
        if checked and expected is not None and touched != expected:
            return False
    return True


def _transition(event: Event) -> Transition:
    data = event.data
    try:
        if data.get("runtime_ms") is not None:
            int(data["runtime_ms"])
        if event.verb in SETTING_VERBS:
            int(data.get("until_ms") or 0)
        return transition(event)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RowRefused(f"a damaged event: {type(error).__name__}: {error}") from error
