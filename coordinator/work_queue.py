"""The facade: every verb once. Here ledger and store meet, so the order of the two writes is read here.

Submit: store row first, then ledger; a crash between the two is healed by the reaper. Every later
transition: ledger first; the recorder brings it to the store.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from coordinator.errors import (
    CoordinatorError,
    InvalidValue,
    LedgerClosed,
    LedgerFull,
    LedgerUnavailable,
    StoreUnavailable,
)
from coordinator.jobs import Job, Result
from coordinator.ledger import Admission, Finish
from coordinator.operations.alerts import Alerts
from coordinator.operations.executions import Executions
from coordinator.operations.holds import unknown_queue
from coordinator.operations.job_coordinator import JobCoordinator
from coordinator.operations.observations import Observations
from coordinator.operations.operators import Operators
from coordinator.operations.transactions import Outbox, current_outbox
from coordinator.recovery.repairs import Repairs
from coordinator.resources import (
    kind_of,
    reason_text,
)

if TYPE_CHECKING:
    from coordinator.settings import Settings

logger = logging.getLogger("coordinator")

#: What the recorder needs of a job besides its message, which the ledger has anyway.
_FIELDS = tuple(field.name for field in dataclasses.fields(Job) if field.name != "message")

#: Rows and jobs written in one round trip.
BATCH = 200

#: Seconds for which a run that has ended tries to tell it while Redis is away; its units are free for others
#: once its lease has ended, so this keeps nothing but a slot of a worker that gets no work meanwhile.
TELL_SECONDS = 600.0


def row_of(job: Job) -> str:
    """Return the job less its message as JSON, for the recorder when the store does not have it yet."""
    # Not by asdict, which copies every value: with durability redis each submission pays for it.
    return json.dumps({name: getattr(job, name) for name in _FIELDS})


class WorkQueue(Operators, Alerts, Executions, Repairs, Observations):
    """Jobs and queues of one installation: every verb once.

    Args:
        settings: the installation's settings.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        #: Queues that were looked up before.
        self._known_queues: set[str] = set()

    def submit(self, job: Job, inside: bool = False) -> Admission:
        """Accept one job that was built by hand; applications call ``task.delay()``, which ends here.

        Args:
            job: the job.
            inside: whether a running job submits it, which must go on although the database is down.

        Returns:
            What became of it; a known id is accepted again and changes nothing.

        Raises:
            InvalidValue: a need that could never be met; nothing was written.
            StoreUnavailable: durability is ``database`` and the database is down; nothing was accepted.
            LedgerUnavailable: durability is ``redis`` and Redis is down; nothing was accepted.
            LedgerFull: Redis is nearly full; nothing was accepted (never raised for ``inside``).
        """
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
        if not inside:
            # The next link of a chain was accepted with its first one.
            for queue in {job.queue for job in jobs}:
                self._check_served(queue)
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

    def _check_served(self, queue: str) -> None:
        # One that is merely configured, as the shipped ones are in every app, might never have a worker.
        if self.application is None or queue in self._known_queues:
            return
        if not self.application.declares(queue):
            try:
                consumed = self.ledger.consumed()
            except LedgerUnavailable:
                # Not now to be told from a queue of other workers: accepted.
                return
            if queue not in consumed:
                raise unknown_queue(queue, self.known_queues())
        self._known_queues.add(queue)

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

    def accept(
        self, job: Job, store: Callable[[], bool], withdraw: Callable[[], None]
    ) -> Admission:
        """Accept a job that is stored together with something else.

        Args:
            job: the job.
            store: stores it; returns whether it was not known before.
            withdraw: takes it back out of the store.

        Raises:
            InvalidValue: a need that could never be met; nothing was written.
            StoreUnavailable, LedgerFull: nothing was accepted.
        """
        self._check_possible(job)
        self._check_served(job.queue)
        if not store():
            return Admission(job.job_id, "waiting", known=True)
        try:
            (admission,) = self._enter([job], ())
        except LedgerFull:
            withdraw()
            raise
        except (LedgerUnavailable, LedgerClosed) as error:
            # The row is committed, so the job is accepted: the reaper enters it.
            logger.warning("[COORDINATOR] job %s accepted, entered later: %s", job.job_id, error)
            return Admission(job.job_id, "waiting", code="restoring")
        self._log_admission(job, admission)
        return admission

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
            while not self._is_open() and time.monotonic() < deadline:
                pause.wait(0.05)
            return self.ledger.submit(jobs, rows, insist)

    def _is_open(self) -> bool:
        try:
            return self.ensure_open()
        except StoreUnavailable as error:
            # Told as a closed ledger: rows that are stored are accepted, and must not be sent once more.
            logger.warning("[COORDINATOR] the ledger stays closed for now: %s", error)
            return False

    # -- the run of a job ----------------------------------------------------------------------------

    def finish(
        self,
        job_id: str,
        token: int,
        outcome: str,
        data: dict[str, Any],
        successor: Job | None = None,
        result: Result | None = None,
        keep_ms: int | None = None,
    ) -> Finish:
        """End a run and hand its units to whoever is next.

        Tries on while Redis is away: the run has ended, and only its worker can say so.

        While the ledger is being restored it waits for as long as that takes: given up, the run would be
        repeated although it has ended.

        Raises:
            LedgerUnavailable: Redis was not reached for ten minutes.
        """
        deadline = time.monotonic() + TELL_SECONDS
        row = "" if successor is None else row_of(successor)
        while True:
            left = max(0.1, deadline - time.monotonic())
            try:
                finish = self.ledger.finish(
                    job_id, token, outcome, data, successor, row, result, keep_ms, patience=left
                )
                break
            except LedgerClosed:
                # Its worker keeps its jobs meanwhile, and its renewals bring this run back.
                deadline = time.monotonic() + TELL_SECONDS
                threading.Event().wait(0.05)
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

    def get_job_coordinator(self) -> JobCoordinator:
        """Return the coordinator of the running jobs."""
        return JobCoordinator(self)

    # -- the story in the log ------------------------------------------------------------------------

    def _log(self, message: str, *arguments: object) -> None:
        if logger.isEnabledFor(logging.INFO):
            logger.info("[COORDINATOR] %s", message % arguments)

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
