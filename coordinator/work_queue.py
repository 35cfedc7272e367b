"""The facade: every verb once. Here ledger and store meet, so the order of the two writes is read here.

Submit: store row first, then ledger; a crash between the two is healed by the reaper. Every later
transition: ledger first; the recorder brings it to the store.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from coordinator.embedded import redis_url
from coordinator.errors import (
    CoordinatorError,
    InvalidValue,
    LedgerClosed,
    LedgerFull,
    LedgerUnavailable,
    Refused,
    StoreUnavailable,
    UnknownJob,
)
from coordinator.jobs import Event, Job
from coordinator.ledger import Admission, Finish, Ledger
from coordinator.resources import (
    SERIAL_RESOURCE,
    kind_of,
    model_resource,
    models_of,
    queue_resource,
    reason_text,
)
from coordinator.restorer import Restorer, configured
from coordinator.settings import Settings
from coordinator.transactions import Outbox, current_outbox
from coordinator.why import Why, explain

if TYPE_CHECKING:
    from coordinator.store import Pruned, Store

logger = logging.getLogger("coordinator")

#: Rows and jobs written in one round trip.
BATCH = 200


def default_author() -> str:
    """Return who acts when nobody says so: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def open_store(settings: Settings) -> Store:
    """Return the store of an installation; it connects with its first verb, and its tables may be missing."""
    # Imported when it is needed: SQLAlchemy takes longer to import than all the rest.
    from coordinator.store import Store

    return Store(
        settings.store_url,
        settings.table_prefix,
        redact=settings.redact,
        synchronous=settings.sqlite_synchronous,
    )


def row_of(job: Job) -> str:
    """Return the job as JSON, for the recorder when the store does not have it yet."""
    return json.dumps(dataclasses.asdict(job))


class WorkQueue:
    """Jobs and queues of one installation.

    Args:
        settings: the installation's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._store: Store | None = None

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            with self._lock:
                if self._ledger is None:
                    settings = self.settings
                    self._ledger = Ledger(redis_url(settings), settings.key_prefix)
        return self._ledger

    @property
    def store(self) -> Store:
        if self._store is None:
            with self._lock:
                if self._store is None:
                    store = open_store(self.settings)
                    store.upgrade()
                    self._store = store
        return self._store

    def ensure_open(self) -> bool:
        """Restore the ledger if it is of another life of Redis; False while somebody else does."""
        if self.ledger.epoch() is not None:
            return True
        holder = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
        restorer = Restorer(self.ledger, self.store, self.settings, self._record, holder)
        return restorer.ensure_open()

    def configure(self) -> None:
        """Bring the settings of this process to the ledger; what an operator set stays."""
        self.ledger.configure(configured(self.settings))

    def _record(self, events: Sequence[Event]) -> None:
        from coordinator.recorder import record_all

        record_all(self.store, events)

    # -- submit ------------------------------------------------------------------------------------

    def submit(self, job: Job, inside: bool = False) -> Admission:
        """Accept one job; see ``submit_all``."""
        return self.submit_all([job], inside)[0]

    def submit_all(self, jobs: Sequence[Job], inside: bool = False) -> list[Admission]:
        """Accept jobs: each starts at once or waits, and is never lost.

        Args:
            jobs: the jobs, in their order.
            inside: whether a running job submits them. Then a database that is down is no error: a
                chain must go on, so the rows travel with the ledger's events.

        Returns:
            What became of each, in the same order.

        Raises:
            InvalidValue: a need that could never be met; nothing was written.
            StoreUnavailable: durability is ``database`` and the database is down; nothing was accepted.
            LedgerUnavailable: durability is ``redis`` and Redis is down; nothing was accepted.
            LedgerFull: Redis is nearly full; nothing was accepted (never raised for ``inside``).
        """
        for job in jobs:
            self._check_possible(job)
        admissions: list[Admission] = []
        box = current_outbox()
        for start in range(0, len(jobs), BATCH):
            if box is not None:
                admissions += self._put_in(box, jobs[start : start + BATCH])
                continue
            admissions += self._submit(list(jobs[start : start + BATCH]), inside)
        return admissions

    def _check_possible(self, job: Job) -> None:
        # "Never" is not "not now": what a configured limit of 0 forbids would wait for ever.
        for resource in job.needs:
            if self.settings.limits.get(resource) == 0:
                raise InvalidValue(
                    "coordinator_limits", resource, f"above 0: job {job.job_id} could never start"
                )

    def _put_in(self, box: Outbox, jobs: Sequence[Job]) -> list[Admission]:
        box.add(self, jobs)
        return [
            Admission(job.job_id, "delayed" if job.due_ms else "waiting", code="outbox")
            for job in jobs
        ]

    def accept_in(self, target: Any, jobs: Sequence[Job]) -> None:
        """Store jobs inside the caller's own transaction; see ``transactions``."""
        self.store.insert_in(target, jobs)

    def enter(self, jobs: Sequence[Job]) -> None:
        """Enter jobs into the ledger that are in the store; others are left out.

        Raises:
            LedgerUnavailable, LedgerClosed, LedgerFull, StoreUnavailable: the reaper enters them later.
        """
        stored = self.store.known([job.job_id for job in jobs])
        for job, admission in zip(
            committed := [job for job in jobs if job.job_id in stored],
            self._enter(committed, ()) if committed else (),
            strict=True,
        ):
            self._log_admission(job, admission)

    def _submit(self, jobs: list[Job], inside: bool) -> list[Admission]:
        stored, new = False, set[str]()
        if self.settings.durability == "database":
            try:
                new = self.store.insert(jobs)
                stored = True
            except StoreUnavailable:
                if not inside and not self.settings.durability_fallback:
                    raise
        for job in jobs:
            self._log(
                "checking whether job %s can start with models %s", job.job_id, _shown(job.models)
            )
        # A known id may be a new definition, of the end of a canvas that replaced the job: the ledger knows.
        rows = ["" if job.job_id in new else row_of(job) for job in jobs]
        try:
            admissions = self._enter(jobs, rows if any(rows) else (), inside)
        except LedgerFull:
            if self._withdrawn(new):
                raise
            return [Admission(job.job_id, "waiting", code="memory") for job in jobs]
        except (LedgerUnavailable, LedgerClosed) as error:
            if not stored:
                raise
            # The rows are committed, so the jobs are accepted: the reaper enters them.
            logger.warning("[COORDINATOR] %d jobs accepted, entered later: %s", len(jobs), error)
            return [Admission(job.job_id, "waiting", code="restoring") for job in jobs]
        for job, admission in zip(jobs, admissions, strict=True):
            self._log_admission(job, admission)
        return admissions

    def _withdrawn(self, job_ids: set[str]) -> bool:
        """Take back rows that the ledger has no room for; False when they stay, and are accepted so."""
        try:
            self.store.withdraw(sorted(job_ids))
        except StoreUnavailable as error:
            logger.warning("[COORDINATOR] %d jobs accepted, entered later: %s", len(job_ids), error)
            return False
        return True

    def _enter(self, jobs: list[Job], rows: Sequence[str], insist: bool = False) -> list[Admission]:
        try:
            return self.ledger.submit(jobs, rows, insist)
        except LedgerClosed:
            # The first call after Redis was empty or restarted; else somebody restores already.
            deadline = time.monotonic() + self.ledger.patience
            pause = threading.Event()
            while not self.ensure_open() and time.monotonic() < deadline:
                pause.wait(0.05)
            return self.ledger.submit(jobs, rows, insist)

    # -- the run of a job ----------------------------------------------------------------------------

    def finish(
        self,
        job_id: str,
        token: int,
        outcome: str,
        data: dict[str, Any],
        successor: Job | None = None,
    ) -> Finish:
        """End a run and hand its units to whoever is next.

        Tries on while Redis is away: the run has ended, and only its worker can say so.

        While the ledger is being restored it waits for as long as that takes: given up, the run would be
        repeated although it has ended.

        Raises:
            LedgerUnavailable: Redis was not reached for two leases.
        """
        deadline = time.monotonic() + 2 * self.settings.lease_seconds
        row = "" if successor is None else row_of(successor)
        pause = threading.Event()
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                finish = self.ledger.finish(
                    job_id, token, outcome, data, successor, row, patience=left
                )
                break
            except LedgerClosed:
                # Its worker keeps its jobs meanwhile, and its renewals bring this run back.
                deadline = time.monotonic() + 2 * self.settings.lease_seconds
                pause.wait(0.2)
        if finish.answer == "stale":
            logger.warning(
                "[COORDINATOR] job %s: the end of a run that lost the job is refused", job_id
            )
        else:
            self._log("job %s %s, checking for next", job_id, outcome)
            if finish.started:
                number = len(finish.started)
                self._log("found %d queued, starting %s", number, ", ".join(finish.started))
        return finish

    def log_started(self, job_id: str, models: Sequence[str]) -> None:
        """Tell that a job runs now."""
        self._log("active job set: %s with models %s", job_id, _shown(models))

    # -- operators: jobs -----------------------------------------------------------------------------

    def cancel_job(self, job_id: str, reason: str = "", by: str | None = None) -> str:
        """Cancel a job wherever it is; a running one is stopped first.

        Returns:
            ``canceled``, or ``stopping`` while a running job is being ended.

        Raises:
            UnknownJob: no such job.
            Refused: it has ended.
        """
        answer = self.ledger.cancel(job_id, reason or "canceled", by or default_author())
        if answer["answer"] == "gone":
            row = self.store.job(job_id)
            if row is None:
                raise UnknownJob(f"no job {job_id} is known")
            raise Refused(f"job {job_id} has ended: it is {row['state']}")
        if answer["answer"] == "ended":
            raise Refused(f"job {job_id} has ended: it is {answer['state']}")
        return "canceled" if answer["answer"] == "done" else "stopping"

    def release_job(self, job_id: str, reason: str | None = None, by: str | None = None) -> str:
        """Stop a running job and put it back to waiting, without counting the run against it.

        Raises:
            UnknownJob: no such job in the ledger.
            Refused: it does not run.
        """
        answer = self.ledger.release(job_id, reason or "released", by or default_author())
        if answer["answer"] == "gone":
            raise UnknownJob(f"no running job {job_id} is known")
        if answer["answer"] in ("ended", "idle"):
            raise Refused(f"job {job_id} does not run: it is {answer['state']}")
        return "stopping"

    # -- operators: queues ---------------------------------------------------------------------------

    def pause(
        self,
        queue: str | None = None,
        *,
        model: str | None = None,
        reason: str = "",
        by: str | None = None,
        until_ms: int | None = None,
    ) -> str:
        """Hold a queue, a model or everything; nothing of it starts after this returned.

        Args:
            queue, model: what to hold; neither holds everything.
            reason, by: shown to everybody who asks why.
            until_ms: when it ends by itself, Unix milliseconds.

        Returns:
            The name of the held resource.
        """
        resource = self._resource(queue, model)
        author = by or default_author()
        self.ledger.hold(resource, author, reason, until_ms)
        return resource

    def resume(
        self,
        queue: str | None = None,
        *,
        model: str | None = None,
        reason: str = "",
        by: str | None = None,
    ) -> bool:
        """End a pause; False when there was none."""
        return self.ledger.resume(self._resource(queue, model), by or default_author(), reason)

    def _resource(self, queue: str | None, model: str | None) -> str:
        if queue is not None and model is not None:
            raise InvalidValue("model", model, "either a queue or a model")
        if model is not None:
            return model_resource(model)
        return SERIAL_RESOURCE if queue is None else queue_resource(queue)

    def limit(
        self,
        resource: str,
        value: int | None,
        *,
        reason: str = "",
        by: str | None = None,
        until_ms: int = 0,
    ) -> None:
        """Set the limit of a resource, or reset it to the configured one with None.

        Args:
            resource: such as ``model:ranker`` or ``queue:training``.
            value: its units from now on.
            reason, by: kept in the log.
            until_ms: when it ends by itself (Unix milliseconds); 0 is never.
        """
        self.ledger.limit(resource, value, by or default_author(), reason, until_ms)

    def prune(
        self,
        log_days: float | None = None,
        finished_days: float | None = None,
        *,
        reason: str = "",
        by: str | None = None,
    ) -> Pruned:
        """Remove old events and old finished jobs from the store, in small batches.

        Args:
            log_days, finished_days: ages; by default those of the settings.
            reason, by: kept in the log.
        """
        settings = self.settings
        return self.store.prune(
            settings.log_days if log_days is None else log_days,
            settings.finished_days if finished_days is None else finished_days,
            by=by or default_author(),
            reason=reason,
        )

    # -- reads ---------------------------------------------------------------------------------------

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

    def get_job_coordinator(self) -> JobCoordinator:
        return JobCoordinator(self)

    # -- the story in the log ------------------------------------------------------------------------

    def _log(self, message: str, *arguments: object) -> None:
        logger.info(f"[COORDINATOR] {message}", *arguments)  # noqa: G004 - the template is a constant

    def _log_admission(self, job: Job, admission: Admission) -> None:
        if admission.known:
            self._log("job %s was accepted before: it is %s", job.job_id, admission.state)
        elif admission.state == "dispatched":
            self._log("no active job stands in the way, job %s starts immediately", job.job_id)
        elif admission.state == "delayed":
            self._log("job %s is delayed", job.job_id)
        else:
            reason = reason_text(admission.resource or "", admission.code, admission.holders)
            if kind_of(admission.resource or "") == "model":
                self._log("model conflict detected: %s", reason)
            self._log("job %s blocked at position %s: %s", job.job_id, admission.position, reason)


class JobCoordinator:
    """What runs now."""

    def __init__(self, work_queue: WorkQueue) -> None:
        self.work_queue = work_queue

    def get_active_job_state(self) -> Any:
        """Return active_job_id, active_job_type, active_models and started_at.

        In serialized mode the one active job (or None); else the list of all active jobs.
        """
        active = [
            {
                "active_job_id": job["id"],
                "active_job_type": job["task"],
                "active_models": list(models_of((job.get("held") or "").split())),
                "started_at": int(job.get("started", 0)) / 1000,
            }
            for job in self.work_queue.ledger.running()
        ]
        if self.work_queue.settings.serialized:
            return active[0] if active else None
        return active


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


def _paused(holds: dict[str, dict[str, Any]], queue: str) -> str | None:
    for resource in (queue_resource(queue), SERIAL_RESOURCE):
        note = holds.get(resource)
        if note is not None:
            reason = f": {note['reason']}" if note.get("reason") else ""
            return f"by {note.get('by', 'unknown')}{reason}"
    return None


def _shown(models: Sequence[str]) -> str:
    return ", ".join(models) if models else "none"


_factory: Callable[[], WorkQueue] | None = None


def set_work_queue(factory: Callable[[], WorkQueue]) -> None:
    """Say where this process's work queue comes from; called by ``coordinate(app)``."""
    global _factory
    _factory = factory


def get_work_queue() -> WorkQueue:
    """Return the work queue of the coordinated app.

    Raises:
        CoordinatorError: no app was coordinated in this process.
    """
    if _factory is None:
        raise CoordinatorError("no work queue: import your app, which calls coordinate(app), first")
    return _factory()


def get_job_coordinator() -> JobCoordinator:
    """Return the coordinator of the running jobs."""
    return get_work_queue().get_job_coordinator()
