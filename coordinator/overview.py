"""What is where: the reads of the facade. Nothing on the way of a job uses them."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from coordinator.errors import UnknownJob
from coordinator.records import Records
from coordinator.resources import SERIAL_RESOURCE, models_of, queue_resource
from coordinator.why import Why, explain


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue's counts; ``paused`` says by whom and why, None when it is not paused."""

    queue: str
    waiting: int
    delayed: int
    dispatched: int
    running: int
    paused: str | None


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
    """A waiting job and what it waits for."""

    id: str
    task: str
    models: tuple[str, ...]
    conflict_reason: str
    queue_position: int


class Overview(Records):
    """The reads of the work queue."""

    def get_stats(self) -> dict[str, Any]:
        """Return pending, in_progress, completed_hour, failed_hour and oldest_item_age_seconds."""
        counts = self.ledger.counts()
        pending = sum(
            n for (_, s), n in counts.items() if s in ("waiting", "delayed", "dispatched")
        )
        running = sum(n for (_, s), n in counts.items() if s in ("running", "stopping"))
        hour_ago = int(time.time() * 1000) - 3_600_000
        return {
            "pending": pending,
            "in_progress": running,
            "completed_hour": self.store.completed_since(hour_ago),
            "failed_hour": self.store.failed_since(hour_ago),
            "oldest_item_age_seconds": self.store.oldest_pending_age(),
        }

    def why(self, job_id: str) -> Why:
        """Say why a job does not run now.

        Raises:
            UnknownJob: the ledger does not know it and the store neither.
        """
        found = explain(self.ledger, job_id)
        if found is None:
            row = self.store.job(job_id)
            if row is None:
                raise UnknownJob(f"no job {job_id} is known")
            return Why(job_id, row["state"], "ended" if row["finished_at"] else "restoring")
        return found

    def queues(self) -> list[QueueState]:
        """Return each managed queue with its counts and what paused it."""
        counts, holds = self.ledger.counts(), self.ledger.holds()
        names = sorted({*self.settings.queues, *(queue for queue, _ in counts)})
        return [
            QueueState(
                name,
                counts.get((name, "waiting"), 0),
                counts.get((name, "delayed"), 0),
                counts.get((name, "dispatched"), 0),
                counts.get((name, "running"), 0) + counts.get((name, "stopping"), 0),
                _paused(holds, name),
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
                        job_id, answer.task, answer.models, answer.reason, answer.position or 0
                    )
                )
        return found


def _paused(holds: dict[str, dict[str, Any]], queue: str) -> str | None:
    for resource in (queue_resource(queue), SERIAL_RESOURCE):
        note = holds.get(resource)
        if note is not None:
            reason = f": {note['reason']}" if note.get("reason") else ""
            return f"by {note.get('by', 'unknown')}{reason}"
    return None
