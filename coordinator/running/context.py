"""The job that runs in this thread, as task code sees it."""

from __future__ import annotations

import logging
import os
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from coordinator.errors import JobStopped, LedgerClosed, LedgerUnavailable
from coordinator.family import WORKER_MARK
from coordinator.jobs import Job, Result
from coordinator.ledger import Ledger

logger = logging.getLogger("coordinator")

#: Progress is written at most this often, in seconds.
PROGRESS_INTERVAL = 0.2

_current: ContextVar[RunningJob | None] = ContextVar("coordinator_job", default=None)


@dataclass
class RunningJob:
    """One run of a job.

    Attributes:
        id: the job's id, the Celery task id.
        token: the fencing token of this run. It only grows, also across Redis wipes: hand it to
            whatever the job writes to, and let that refuse a smaller one than it has seen.
        attempt: number of this run, from 1.
        queue: the queue it runs on.
        models: the models it holds.
        retries: retries made before.
    """

    id: str
    token: int
    attempt: int
    queue: str
    models: tuple[str, ...]
    retries: int
    ledger: Ledger = field(repr=False)
    #: Who holds the models for it, and what its end continues: a workflow's execution, or the lock of a canvas.
    owner: str = ""
    workflow: dict[str, Any] | None = field(default=None, repr=False)
    #: What takes its place (retry, replace), or follows its end; then for how long the owner keeps its models.
    successor: Job | None = field(default=None, repr=False)
    keep_ms: int | None = field(default=None, repr=False)
    replaced: bool = field(default=False, repr=False)
    exhausted: bool = field(default=False, repr=False)
    call: dict[str, Any] = field(default_factory=dict, repr=False)
    late: bool = field(default=False, repr=False)
    heartbeat_timeout: float | None = field(default=None, repr=False)
    stopped: bool = field(default=False, repr=False)
    #: Whether nothing of the task's own looks at its result before the run is over, and the result then.
    keeps_result: bool = field(default=False, repr=False)
    result: Result | None = field(default=None, repr=False)
    _told: float = field(default=0.0, repr=False)
    _asked: float = field(default=0.0, repr=False)
    _alive: float = field(default_factory=time.monotonic, repr=False)

    @property
    def silence(self) -> str:
        """Why this run may be ended for its silence, or ""."""
        return silence_text(time.monotonic() - self._alive, self.heartbeat_timeout)

    def progress(self, done: float, total: float | None = None, **info: Any) -> None:
        """Tell how far the job is; proof that it is alive. See ``progress``."""
        if time.monotonic() - self._told >= PROGRESS_INTERVAL or done == total:
            self._told = time.monotonic()
            self._tell({"done": done, "total": total, **info})

    def checkpoint(self) -> None:
        """Raise ``JobStopped`` if the job was canceled, released or lost. See ``checkpoint``."""
        if time.monotonic() - self._asked >= PROGRESS_INTERVAL:
            self._tell(None)

    def _tell(self, progress: dict[str, Any] | None) -> None:
        self._asked = self._alive = time.monotonic()
        try:
            stop = self.ledger.progress(self.id, self.token, progress, patience=0)
        except (LedgerUnavailable, LedgerClosed) as error:
            # An outage of Redis is no failure of the job: whether it may go on is between its worker and the
            # lease, and the next call tells again.
            logger.debug("[COORDINATOR] job %s: progress was not told: %s", self.id, error)
            return
        if stop:
            raise JobStopped(f"job {self.id} has to stop: {stop}")


def silence_text(seconds: float, timeout: float | None) -> str:
    """Return why a run that was silent for so long is ended, or "" when it may go on."""
    if timeout is None or seconds < timeout:
        return ""
    return f"no sign of life for {seconds:.0f} s (heartbeat_timeout {timeout:g} s)"


def current_job() -> RunningJob | None:
    """Return the job that runs in this thread, or None outside a coordinated job."""
    return _current.get()


def progress(done: float, total: float | None = None, **info: Any) -> None:
    """Tell how far the running job is. Cheap: written at most five times a second. A no-op outside a job.

    Args:
        done: what is done, in any unit.
        total: what there is to do, in the same unit.
        info: anything else that JSON can hold.

    Raises:
        JobStopped: the job was canceled, released or lost; let it through.
    """
    job = _current.get()
    if job is not None:
        job.progress(done, total, **info)


def checkpoint() -> None:
    """Give a cancel or release the chance to end this job here. A no-op outside a job.

    Raises:
        JobStopped: the job was canceled, released or lost; let it through.
    """
    job = _current.get()
    if job is not None:
        job.checkpoint()


class JobLogFilter(logging.Filter):
    """Adds ``job_id``, ``job_token`` and ``job_attempt`` to log records."""

    def filter(self, record: logging.LogRecord) -> bool:
        job = _current.get()
        record.job_id = job.id if job else "-"
        record.job_token = job.token if job else "-"
        record.job_attempt = job.attempt if job else "-"
        return True


def get_job_logger(name: str) -> logging.Logger:
    """Return a logger whose records carry the running job's id, token and attempt."""
    logger = logging.getLogger(name)
    if not any(isinstance(item, JobLogFilter) for item in logger.filters):
        logger.addFilter(JobLogFilter())
    return logger


def worker_id() -> str:
    """Return the id of the worker this process belongs to, or "" outside one."""
    return os.environ.get(WORKER_MARK, "")
