"""What is told of workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coordinator.store import StoredWorker

_COUNTS = ("assigned", "completed", "failed")


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker.

    Attributes:
        node: Celery's name for it; ``id`` tells its process from all others.
        state: ``live``, ``draining`` (takes nothing new), ``idle`` (answers, and takes nothing although messages
            wait), ``left`` (shut down in order), ``expired`` (its lease ended) or ``silent`` (known to the store
            alone).
        last_heartbeat: Unix seconds; ``age`` are the seconds since then.
        queues, slots: what it consumes, and jobs it runs at once.
        jobs: ids of those that it runs now.
        assigned, completed, failed: runs it has begun, and how they ended.
        pulled: messages it has fetched; None of a worker that is gone.
        pull_failures: claims that were refused to it: the message was stale, or its job paused meanwhile.
        idle_seconds: for how long it takes nothing although messages wait.
        versions: of what it runs on, by name.
        reason: why it is gone.
    """

    node: str
    id: str
    state: str
    last_heartbeat: float
    age: float
    queues: tuple[str, ...]
    slots: int
    jobs: tuple[str, ...]
    assigned: int
    completed: int
    failed: int
    pulled: int | None
    pull_failures: int | None
    idle_seconds: int
    versions: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class QueueScale:
    """The slots of a queue.

    Attributes:
        queue: its name.
        before, wanted, after: the slots of its workers; fewer than wanted may have ended yet.
        workers: slots by node, as they were asked for.
        errors: what workers answered that cannot be scaled, by node.
        limit: jobs the queue may run at once over all workers, None without a limit.
        dry_run: whether it is a preview.
    """

    queue: str
    before: int
    wanted: int
    after: int
    workers: Mapping[str, int]
    errors: Mapping[str, str]
    limit: int | None
    dry_run: bool

    @property
    def done(self) -> bool:
        """Whether the slots are as wanted."""
        return self.after == self.wanted


def live(report: Mapping[str, Any], stored: StoredWorker | None, now: int) -> WorkerRecord:
    """Return a worker that has a lease.

    Args:
        report: what the ledger knows of it.
        stored: what the store knows of it.
        now: Redis's clock, Unix milliseconds.
    """
    idle, seen = int(report.get("idle_seconds") or 0), int(report.get("seen") or 0)
    draining = bool(report.get("draining"))
    # What the ledger counts begins anew with each epoch, what the store has is some seconds old.
    assigned, completed, failed = (
        max(int(report.get(name) or 0), getattr(stored, name) if stored else 0) for name in _COUNTS
    )
    # One that leaves or is drained reports no queues; whoever looks wants to know which ones it served.
    queues = str(report.get("pool") or "").split() or (stored.queues if stored else ())
    return WorkerRecord(
        str(report.get("node") or report["id"].partition("/")[0]),
        str(report["id"]),
        "draining" if draining else ("idle" if idle else "live"),
        seen / 1000,
        max(0.0, (now - seen) / 1000),
        tuple(queues),
        int(report.get("slots") or 0),
        tuple(report.get("jobs") or ()),
        assigned,
        completed,
        failed,
        pulled=int(report.get("pulled") or 0),
        pull_failures=int(report.get("refused") or 0),
        idle_seconds=idle,
        versions=stored.versions if stored else {},
    )


def gone(stored: StoredWorker, now: int) -> WorkerRecord:
    """Return a worker that only the store knows, at a moment of Redis's clock (Unix milliseconds)."""
    return WorkerRecord(
        stored.node,
        stored.worker,
        # Its end was noticed and is not recorded yet, or Redis was wiped and it has not reported since.
        "silent" if stored.state == "live" else stored.state,
        stored.last_heartbeat / 1000,
        max(0.0, (now - stored.last_heartbeat) / 1000),
        stored.queues,
        stored.slots,
        (),
        stored.assigned,
        stored.completed,
        stored.failed,
        None,
        None,
        0,
        stored.versions,
        stored.reason,
    )
