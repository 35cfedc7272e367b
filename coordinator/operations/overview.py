"""What is where at this moment: queues, workers, locks. Nothing on the way of a job uses these reads."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from coordinator.ledger import Lock
from coordinator.operations.failures import Failures
from coordinator.operations.holds import Hold, Holds, hold_of, paused_by
from coordinator.operations.rates import Rates
from coordinator.operations.why import Why, explain
from coordinator.resources import SERIAL_RESOURCE, models_of, queue_resource
from coordinator.states import PENDING, RUNNING

#: Workers renew once a second: one that was not heard of for so long is gone, or cut off.
STALLED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue.

    Attributes:
        queue: its name.
        waiting, delayed, dispatched, running: its jobs; those that are being stopped run.
        paused: by whom, since when and why in words, None when it is not; ``holds`` has the parts.
        consumed: whether a live worker consumes it.
        holds: its own pause, and the one of everything.
    """

    queue: str
    waiting: int
    delayed: int
    dispatched: int
    running: int
    paused: str | None
    consumed: bool = False
    holds: tuple[Hold, ...] = ()

    @property
    def pending(self) -> int:
        return self.waiting + self.delayed + self.dispatched


@dataclass(frozen=True, slots=True)
class ActiveWorker:
    """A live worker.

    Attributes:
        node: Celery's name for it; ``id`` tells its process from all others.
        last_heartbeat: Unix seconds.
        queues, slots: what it consumes, and jobs it runs at once.
        jobs: ids of those that it runs now.
        assigned, completed, failed: runs since it registered.
    """

    node: str
    last_heartbeat: float
    id: str
    queues: tuple[str, ...]
    slots: int
    jobs: tuple[str, ...]
    assigned: int
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class ActiveJob:
    """A job that runs, or is being stopped."""

    id: str
    task: str
    queue: str
    models: tuple[str, ...]
    worker: str
    started_ms: int
    attempt: int
    progress: dict[str, Any]
    state: str


@dataclass(frozen=True, slots=True)
class BlockedJob:
    """A waiting job and what it waits for.

    Attributes:
        id, task, models: the job.
        conflict_reason, queue_position: what stops it first, and its place among those that wait for that.
        blocked_by_job_id: the first of those that hold it, if any does.
        queued_at: Unix seconds.
    """

    id: str
    task: str
    models: tuple[str, ...]
    conflict_reason: str
    queue_position: int
    blocked_by_job_id: str | None
    queued_at: float | None


class Overview(Failures, Rates, Holds):
    """The reads of the work queue."""

    def get_stats(self, queue: str | None = None) -> dict[str, Any]:
        """Return pending, in_progress, completed_hour, failed_hour and oldest_item_age_seconds.

        Args:
            queue: only of this queue.

        Raises:
            LedgerUnavailable, StoreUnavailable: one of them cannot be asked.
        """
        hour_ago = int(time.time() * 1000) - 3_600_000
        return {
            "pending": self.get_pending_count(queue),
            "in_progress": self.get_in_progress_count(queue),
            "completed_hour": self.store.completed_since(hour_ago, queue),
            "failed_hour": self.store.failed_since(hour_ago, queue),
            "oldest_item_age_seconds": self.store.oldest_pending_age(queue),
        }

    def get_pending_count(self, queue: str | None = None) -> int:
        """Return the number of jobs that wait, are delayed or on their way to a worker."""
        return self._count(PENDING, queue)

    def get_in_progress_count(self, queue: str | None = None) -> int:
        """Return the number of jobs that run or are being stopped."""
        return self._count(RUNNING, queue)

    def _count(self, states: tuple[str, ...], queue: str | None) -> int:
        counts = self.ledger.counts().items()
        return sum(n for (name, state), n in counts if state in states and queue in (None, name))

    def get_active_workers(self) -> list[ActiveWorker]:
        """Return the workers whose lease has not ended, by name."""
        found = [
            ActiveWorker(
                str(worker.get("node") or worker["id"].partition("/")[0]),
                int(worker.get("seen") or 0) / 1000,
                worker["id"],
                tuple(worker.get("pool", "").split()),
                int(worker.get("slots") or 0),
                tuple(worker["jobs"]),
                *(int(worker.get(name) or 0) for name in ("assigned", "completed", "failed")),
            )
            for worker in self.ledger.workers()
        ]
        return sorted(found, key=lambda worker: (worker.node, worker.id))

    def get_locks(self, kinds: tuple[str, ...] = ("model",)) -> list[Lock]:
        """Return the resources of these kinds that are held, waited for or paused, with their holders."""
        return self.ledger.locks(kinds)

    def why(self, job_id: str) -> Why:
        """Say why a job does not run now.

        Raises:
            UnknownJob: the ledger does not know it and the store neither.
        """
        found = explain(self.ledger, job_id)
        if found is None:
            row = self.store.job(job_id)
            if row is None:
                raise self.unknown_job(job_id)
            return Why(job_id, row["state"], "ended" if row["finished_at"] else "restoring")
        return found

    def queues(self) -> list[QueueState]:
        """Return each managed queue with its counts and what paused it."""
        counts, noted, consumed = self.ledger.counts(), self.ledger.holds(), self.ledger.consumed()
        names = sorted(self.known_queues())
        holds = {
            name: tuple(
                hold_of(key, noted[key])
                for key in (queue_resource(name), SERIAL_RESOURCE)
                if key in noted
            )
            for name in names
        }
        return [
            QueueState(
                name,
                counts.get((name, "waiting"), 0),
                counts.get((name, "delayed"), 0),
                counts.get((name, "dispatched"), 0),
                counts.get((name, "running"), 0) + counts.get((name, "stopping"), 0),
                paused_by(holds[name][0]) if holds[name] else None,
                name in consumed,
                holds[name],
            )
            for name in names
        ]

    def active(self) -> list[ActiveJob]:
        """Return the jobs that run or are being stopped, the oldest first."""
        jobs = [
            ActiveJob(
                job["id"],
                job["task"],
                job["queue"],
                models_of((job.get("held") or "").split()),
                job.get("worker", ""),
                int(job.get("started", 0)),
                int(job.get("attempts", 1)),
                json.loads(job.get("progress") or "{}"),
                job["state"],
            )
            for job in self.ledger.running()
        ]
        return sorted(jobs, key=lambda job: job.started_ms)

    def blocked(self, limit: int = 20) -> list[BlockedJob]:
        """Return waiting jobs and what they wait for, the oldest first."""
        found = []
        for job_id in self.ledger.waiting(limit):
            answer = explain(self.ledger, job_id)
            if answer is not None and answer.state == "waiting":
                found.append(
                    BlockedJob(
                        job_id,
                        answer.task,
                        answer.models,
                        answer.reason,
                        answer.position or 0,
                        answer.blocker,
                        answer.queued_ms / 1000 if answer.queued_ms else None,
                    )
                )
        return found

    def get_stalled_jobs(self, silent_seconds: float = STALLED_SECONDS) -> list[str]:
        """Return ids of the jobs that run on workers which have not renewed their lease for so long.

        They go back to waiting when the lease ends, or go on when the worker is heard of again.

        Raises:
            LedgerUnavailable: Redis was not reached.
        """
        heard = self.ledger.clock() / 1000 - silent_seconds
        return sorted(
            job
            for worker in self.get_active_workers()
            for job in worker.jobs
            if worker.last_heartbeat < heard
        )
