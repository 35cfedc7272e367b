"""Verification of the locks against ledger and store, and their repair."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.author import default_author
from coordinator.errors import Refused
from coordinator.identity import holder
from coordinator.recovery.reconciliation import BATCH, Reconciler, unknown_jobs, unwritten_jobs
from coordinator.recovery.records import Records
from coordinator.recovery.restorer import Restorer
from coordinator.verification import Drift, verify

#: Readings of a ledger in use: what is merely under way differs from one to the next.
READINGS = 3

#: Rounds of the reconciler before the ledger is built again: it compares what is large piece by piece.
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification found and mended.

    Attributes:
        drift: differences found.
        mended: what the reconciler mended, by kind.
        rebuilt: whether the ledger was built again.
        left: differences that are still there; without a repair those found.
    """

    drift: tuple[Drift, ...] = ()
    mended: dict[str, int] = field(default_factory=dict)
    rebuilt: bool = False
    left: tuple[Drift, ...] = ()


class Repairs(Records):
    """The verb that checks the records against each other."""

    def verify_locks(
        self, repair: bool = False, reason: str = "", by: str | None = None
    ) -> Verification:
        """Recompute holders, classes, parking and order from the jobs, and compare ledger and store.

        Reads everything, beside whoever works: minutes with a million jobs. A repair frees what no run holds
        and enters what was lost; if that does not do, it builds the ledger again from the store and from what the
        workers have in hand, as after a loss of Redis: running jobs keep their locks and go on, and admission
        waits until the workers have reported.

        Args:
            repair: whether to mend what is found.
            reason, by: kept in the log.

        Raises:
            Refused: the ledger is being restored.
            LedgerUnavailable, LedgerClosed, StoreUnavailable: not now.
        """
        if self.ledger.restoring() is not None:
            raise Refused("the ledger is being restored: wait until it is open, then verify again")
        drift = self._drift()
        self.ledger.note_drift(len(drift))
        if not drift or not repair:
            return Verification(drift, left=drift)
        mended: dict[str, int] = {}
        reconciler = Reconciler(self)
        left = drift
        for _ in range(ROUNDS):
            for kind, number in reconciler.run().items():
                mended[kind] = mended.get(kind, 0) + number
        left = self._drift()
        rebuilt = bool(left)
        if rebuilt:
            self._rebuild()
            left = self._drift()
        self.ledger.note_drift(len(left))
        self.store.note(
            "repaired",
            by or default_author(),
            reason or "locks verify --repair",
            data={
                "found": len(drift),
                "left": len(left),
                "rebuilt": rebuilt,
                "first": [str(item) for item in drift[:20]],
            },
        )
        return Verification(drift, {k: v for k, v in mended.items() if v}, rebuilt, left)

    def _drift(self) -> tuple[Drift, ...]:
        """Return what all of some readings report, in the order of the first."""
        found = self._reading()
        for _ in range(READINGS - 1):
            if not found:
                break
            again = set(self._reading())
            found = [item for item in found if item in again]
        return tuple(found)

    def _reading(self) -> list[Drift]:
        drifts = verify(self.ledger)
        page = self.store.unfinished_ids(limit=BATCH)
        while page:
            drifts += [
                Drift(f"job:{job.job_id}", "was accepted, and the ledger does not know it")
                for job in unknown_jobs(self.ledger, self.store, page)
            ]
            page = self.store.unfinished_ids(page[-1], BATCH)
        cursor = 0
        while True:
            cursor, jobs = unwritten_jobs(self.ledger, self.store, cursor)
            drifts += [Drift(f"job:{job.job_id}", "has no row in the store") for job in jobs]
            if cursor == 0:
                return drifts

    def _rebuild(self) -> None:
        Restorer(self.ledger, self.store, self.settings, self._record, holder()).rebuild()
