"""The reaper: a reconciler that compares ledger, store and workers, and mends what differs.

Leases bring crashed jobs back without it. It finds what leases cannot: what one of the records has lost (see
``reconciliation``), workers whose process is gone from this machine, jobs that run without progress.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import ClassVar

from coordinator.errors import Refused, UnknownJob
from coordinator.identity import is_gone
from coordinator.ledger import Ledger
from coordinator.recovery.reconciliation import KINDS, Reconciler
from coordinator.work_queue import WorkQueue

logger = logging.getLogger("coordinator")


@dataclass(frozen=True)
class JobReaperConfig:
    """When a job is reaped.

    Attributes:
        stale_job_threshold_seconds: running without heartbeat or progress for so long.
        stuck_job_threshold_seconds: running past its own timeout, or without progress, for so long.
        max_jobs_to_reap_per_cycle: at most so many in one round.
    """

    stale_job_threshold_seconds: float = 1800.0
    stuck_job_threshold_seconds: float = 3600.0
    max_jobs_to_reap_per_cycle: int = 10


@dataclass
class JobReaper:
    """Runs on beat, in a maintenance worker.

    Attributes:
        is_running: whether a round is under way.
        last_run_time: end of the last round, Unix seconds, or None.
        stats: rounds, and what was mended since this process started.
    """

    config: JobReaperConfig = field(default_factory=JobReaperConfig)
    is_running: bool = False
    last_run_time: float | None = None
    stats: dict[str, int] = field(
        default_factory=lambda: {
            "rounds": 0,
            "jobs_reaped": 0,
            "workers_buried": 0,
            **dict.fromkeys(KINDS, 0),
        }
    )
    _reconciler: Reconciler | None = field(default=None, repr=False)

    _instance: ClassVar[JobReaper | None] = None

    @classmethod
    def get_instance(cls) -> JobReaper:
        """Return this process's reaper."""
        if cls._instance is None:
            cls._instance = cls()
        return cls._instance

    def run(self, work_queue: WorkQueue) -> dict[str, int]:
        """Do one round; returns what was mended.

        Raises:
            LedgerUnavailable, LedgerClosed, StoreUnavailable: not now; the next round tries again.
        """
        self.is_running = True
        try:
            work_queue.ensure_open()
            if self._reconciler is None or self._reconciler.records is not work_queue:
                self._reconciler = Reconciler(work_queue)
            found = {
                "workers_buried": bury_workers(work_queue.ledger),
                **self._reconciler.run(),
                "jobs_reaped": self.reap_silent(work_queue),
            }
            work_queue.ledger.tick()
        finally:
            self.is_running = False
            self.last_run_time = time.time()
            self.stats["rounds"] += 1
        for name, number in found.items():
            self.stats[name] += number
        return found

    def reap_silent(self, work_queue: WorkQueue) -> int:
        """Release running jobs that have been silent for too long; age alone is no reason."""
        now_ms = work_queue.ledger.clock()
        reaped = 0
        for job in work_queue.ledger.running():
            if reaped >= self.config.max_jobs_to_reap_per_cycle:
                break
            if job["state"] != "running":
                continue
            seconds = (now_ms - float(job.get("started") or now_ms)) / 1000
            reason = self._silent(job, now_ms)
            if reason is None and seconds > self.config.stuck_job_threshold_seconds:
                reason = self._overdue(work_queue, job["id"], seconds)
            if reason:
                try:
                    work_queue.release_job(job["id"], reason, "reaper")
                except (Refused, UnknownJob) as error:
                    # It has ended meanwhile: the others must not wait for the next round.
                    logger.debug("[COORDINATOR] reaper: %s", error)
                else:
                    reaped += 1
        return reaped

    def _overdue(self, work_queue: WorkQueue, job_id: str, seconds: float) -> str | None:
        # Its worker ends it at its timeout; this is for those whose worker did not. The ledger has no timeouts.
        row = work_queue.store.job(job_id)
        timeout = float(row["timeout"] or 0) if row else 0.0
        if not timeout or seconds - timeout <= self.config.stuck_job_threshold_seconds:
            return None
        return f"past its timeout of {timeout:g} s by {seconds - timeout:.0f} s"

    def _silent(self, job: dict[str, str], now_ms: float) -> str | None:
        if "progressed" in job:
            silent = (now_ms - float(job["progressed"])) / 1000
            if silent > self.config.stale_job_threshold_seconds:
                return f"no progress for {silent:.0f} s"
        return None


def bury_workers(ledger: Ledger) -> int:
    """Take the jobs of workers whose process on this machine is gone, without waiting for their lease.

    Returns:
        The number of workers buried.
    """
    gone = [worker for worker in ledger.known_workers() if is_gone(worker)]
    for worker in gone:
        ledger.leave(worker, "its process is gone")
    return len(gone)
