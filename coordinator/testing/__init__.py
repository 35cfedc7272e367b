"""For tests of coordinated tasks: a real Redis, a real database and a real worker, without Docker.

``pytest_plugins = ["coordinator.testing.plugin"]`` in ``conftest.py`` brings the fixtures; see docs/testing.md.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from coordinator.testing.nodes import LocalWorker
from coordinator.testing.processes import RedisProcess, WorkerProcess

if TYPE_CHECKING:
    from coordinator.operations.listings import JobRecord
    from coordinator.work_queue import WorkQueue

__all__ = ["LocalWorker", "RedisProcess", "WorkerProcess", "wait_for_status"]

_UNFINISHED = ("PENDING", "PROCESSING")


def wait_for_status(
    work_queue: WorkQueue, job_id: str, status: str, timeout: float = 30.0
) -> JobRecord:
    """Wait until a job has an outside status, such as ``PROCESSING`` or ``COMPLETED``; return the job.

    Args:
        work_queue: where the job is.
        job_id: its id, the Celery task id.
        status: upper case, as ``coordinator job`` shows it.
        timeout: seconds.

    Raises:
        AssertionError: it has another one after that time.
    """
    deadline = time.monotonic() + timeout
    while True:
        job = work_queue.get_job(job_id)
        # What ends is told by the ledger first; its result and error are there once it is recorded.
        if job.status == status and (job.finished_at is not None or status in _UNFINISHED):
            return job
        if time.monotonic() > deadline:
            raise AssertionError(
                f"job {job_id} is {job.status} {job.detail}, not {status}, after {timeout:g} s"
            )
        time.sleep(0.05)
