"""Reconciliation: ledger and store are compared piece by piece, and what differs is mended and noted.

No leases bring these back: their producer, their event or Redis itself was lost at the wrong moment. Each case
is told from one that is merely under way, by what is settled: an event that the recorder has dealt with.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from typing import TYPE_CHECKING

from coordinator.errors import LedgerFull

if TYPE_CHECKING:
    from collections.abc import Sequence

    from coordinator.jobs import Job
    from coordinator.ledger import Ledger
    from coordinator.ledger.mending import Unit
    from coordinator.recovery.records import Records
    from coordinator.store import Store

logger = logging.getLogger("coordinator")

#: What is mended: accepted rows that the ledger did not know, jobs without a row, units held by no run, owners that
#: hold something for no job, running jobs whose worker has no lease, ends that were never recorded.
KINDS = (
    "jobs_entered",
    "rows_written",
    "units_freed",
    "owners_freed",
    "orphans_expired",
    "ends_recorded",
)

#: Rows compared in one query, and pages of them in one round: of the newest, and of all in turn. More of the latter
#: would be most of what an installation does that has a hundred thousand jobs waiting and nothing running.
BATCH, PAGES, PAGES_IN_TURN = 500, 10, 3

#: How far back the newest rows go, in milliseconds: several rounds.
NEW_MS = 60_000

#: For how many milliseconds the end of a job may be unknown to the store before somebody looks after it.
END_MS = 10_000

#: Milliseconds between the moment in an event's id and that in the job: both are Redis's clock, in one step.
SLACK_MS = 1000

#: Ids that a note names; there may be thousands.
NAMED = 20


def unknown_jobs(ledger: Ledger, store: Store, page: Sequence[tuple[int, str]]) -> list[Job]:
    """Return those of some unfinished rows, as ``Store.unfinished_ids`` gives them, that the ledger does not know."""
    unknown = ledger.unknown([job_id for _, job_id in page])
    missing = [job_id for _, job_id in page if job_id in unknown]
    # A row read before its end was recorded looks like one the ledger forgot: look again.
    current = store.stored(missing) if missing else {}
    return [
        current[job_id].job
        for job_id in missing
        if job_id in current and not current[job_id].finished_ms
    ]


def unwritten_jobs(ledger: Ledger, store: Store, cursor: int) -> tuple[int, list[Job]]:
    """Return where to go on (0 is the beginning) and those of the ledger's next jobs that have no row."""
    cursor, ids = ledger.some_jobs(cursor, BATCH)
    known = store.known(ids)
    oldest = ledger.oldest_event_ms()
    found = []
    for job_id in ids:
        defined = None if job_id in known else ledger.defined(job_id)
        # Whose submission is not recorded yet gets its row from that.
        if defined and (oldest is None or oldest > defined.submitted_ms + SLACK_MS):
            found.append(defined)
    return cursor, found


class Reconciler:
    """Compares piece by piece; one round takes the next piece of what is large.

    Args:
        records: of this installation; its ledger is open.
    """

    def __init__(self, records: Records) -> None:
        self.records, self.ledger, self.store = records, records.ledger, records.store
        self._row: tuple[int, str] | None = None
        self._job = self._key = 0

    def run(self) -> dict[str, int]:
        """Do one round; returns what was mended, by kind.

        Raises:
            LedgerUnavailable, LedgerClosed, StoreUnavailable: not now; the next round tries again.
        """
        if self.ledger.restoring() is not None:
            # What is restored waits for its workers: nothing of it has settled.
            return {}
        entered, written = self.enter_unknown(), self.write_rows()
        self._key, units = self.ledger.units(self._key)
        mended = (
            entered,
            written,
            self.free_units(units),
            self.free_owners(units),
            self.expire_orphans(units),
            self.record_ends(),
        )
        return dict(zip(KINDS, mended, strict=True))

    def enter_unknown(self) -> int:
        """Submit accepted rows that the ledger does not know: their producer died between the two writes.

        A job that has ended but is not recorded yet is known: its tombstone says so. Rows younger than a few
        seconds may still be under way from their producer; entering them too is harmless, since submit is
        idempotent.
        """
        newest = ((self.ledger.clock() - NEW_MS) * 1000, "")
        entered, _ = self._enter_after(newest, PAGES)
        again, self._row = self._enter_after(self._row, PAGES_IN_TURN)
        return entered + again

    def _enter_after(
        self, after: tuple[int, str] | None, pages: int
    ) -> tuple[int, tuple[int, str] | None]:
        """Go through some pages; return the number of jobs entered and where to go on."""
        entered = 0
        for _ in range(pages):
            page = self._page(after)
            if not page:
                return entered, None
            after = page[-1]
            entered += self._enter(page)
            if len(page) < BATCH:
                return entered, None
        return entered, after

    def _page(self, after: tuple[int, str] | None) -> list[tuple[int, str]]:
        if after is None:
            return self.store.unfinished_ids(limit=BATCH)
        return self.store.unfinished_ids(after, BATCH)

    def _enter(self, page: list[tuple[int, str]]) -> int:
        jobs = unknown_jobs(self.ledger, self.store, page)
        if not jobs:
            return 0
        try:
            self.ledger.submit(jobs, ["entered"] * len(jobs))
        except LedgerFull as error:
            logger.warning("[COORDINATOR] reaper: %s", error)
            return 0
        self._note("accepted jobs entered that the ledger did not know", jobs)
        return len(jobs)

    def write_rows(self) -> int:
        """Write rows of jobs that only the ledger knows: the event that carried the row was lost.

        Without its row a job would be gone with the next wipe of Redis, and nobody could list it.
        """
        epoch = self.ledger.epoch()
        self._job, found = unwritten_jobs(self.ledger, self.store, self._job)
        if not found:
            return 0
        new = self.store.insert(found)
        # One that ended meanwhile has no row to run again by.
        over = [job_id for job_id in new if self.ledger.defined(job_id) is None]
        if self.ledger.epoch() != epoch:
            # Redis was wiped: the rows are all that is left of these jobs, and the restore goes by them.
            over = []
        self.store.withdraw(over)
        written = [job for job in found if job.job_id in new and job.job_id not in over]
        if written:
            self._note("rows written of jobs that only the ledger knew", written)
        return len(written)

    def free_units(self, units: Sequence[Unit]) -> int:
        """Give back units held by jobs that do not run."""
        wrong: defaultdict[str, list[str]] = defaultdict(list)
        strangers: defaultdict[str, list[str]] = defaultdict(list)
        for unit in units:
            if unit.state is None:
                strangers[unit.owner].append(unit.resource)
            elif not unit.due:
                wrong[unit.resource].append(unit.owner)
        # Owners that are no jobs (workflows' executions) hold for those they have.
        for job_id in self.store.known(sorted(strangers)):
            for resource in strangers[job_id]:
                wrong[resource].append(job_id)
        freed = 0
        for resource, ids in sorted(wrong.items()):
            freed += len(self.ledger.mend("units", resource, *ids))
        if freed:
            logger.warning("[COORDINATOR] reaper: %d units freed that no run held", freed)
        return freed

    def free_owners(self, units: Sequence[Unit]) -> int:
        """Give back what owners hold that have no unfinished job any more: nothing else would ever do it."""
        owners = sorted({unit.owner for unit in units if unit.state is None})
        freed = self.ledger.mend("owners", *idle) if (idle := self.ledger.idle(owners)) else []
        if freed:
            logger.warning("[COORDINATOR] reaper: %d owners freed that had no job", len(freed))
        return len(freed)

    def expire_orphans(self, units: Sequence[Unit]) -> int:
        """Take running jobs from workers that have no lease: nothing else would ever end them."""
        present = self.ledger.known_workers()
        running = {
            unit.owner
            for unit in units
            if unit.state in ("running", "stopping") and unit.worker not in present
        }
        lost = self.ledger.mend("orphans", *sorted(running)) if running else []
        if lost:
            logger.warning("[COORDINATOR] reaper: %d jobs of workers without a lease", len(lost))
        return len(lost)

    def record_ends(self) -> int:
        """Have ends recorded that the store does not know and of which no event is left."""
        oldest = self.ledger.oldest_event_ms()
        until = self.ledger.clock() - END_MS
        if oldest is not None:
            until = min(until, oldest - SLACK_MS)
        remembered = self.ledger.remembered(until, BATCH)
        rows = self.store.stored(list(remembered))
        ended: list[tuple[str, str]] = []
        recorded: list[tuple[str, str]] = []
        for job_id, version in remembered.items():
            row = rows.get(job_id)
            known = row is not None and row.finished_ms
            (recorded if known else ended).append((job_id, version))
        self.ledger.mend_ends("recorded", recorded)
        told = self.ledger.mend_ends("ended", ended)
        if told:
            logger.warning("[COORDINATOR] reaper: %d ends had not been recorded", len(told))
        return len(told)

    def _note(self, what: str, jobs: list[Job]) -> None:
        logger.warning("[COORDINATOR] reaper: %d %s", len(jobs), what)
        ids = [job.job_id for job in jobs]
        self.store.note("mended", "reaper", what, data={"jobs": ids[:NAMED], "number": len(ids)})
