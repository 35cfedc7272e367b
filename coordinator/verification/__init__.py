"""Verification: recomputes from the hashes of the jobs what the ledger must hold, and reports drift.

Reads without stopping anybody: on a ledger in use only what two verifications in a row report is drift.
"""

from __future__ import annotations

from coordinator.ledger import Ledger
from coordinator.verification.capacity import CapacityChecks
from coordinator.verification.jobs import JobChecks
from coordinator.verification.recount import Drift
from coordinator.verification.snapshot import read

__all__ = ["Drift", "verify"]


class _Verification(JobChecks, CapacityChecks):
    def run(self) -> list[Drift]:
        for check in (self.keys, self.holders, self.waiting, self.parking, self.obstacles):
            check()
        for check in (self.times, self.dispatched, self.workers, self.ends, self.counts):
            check()
        return self.drifts


def verify(ledger: Ledger) -> list[Drift]:
    """Return every difference between what the ledger holds and what follows from its jobs.

    Args:
        ledger: read in full, but for messages and events; nothing is changed.
    """
    return _Verification(read(ledger)).run()
