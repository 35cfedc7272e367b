"""File processing, the smallest useful job: stamp a file."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

from celery import Task

from tasks import app
from tasks.runs import running

STEP = 0.1


@app.task(name="tasks.files.stamp", bind=True)
def stamp(self: Task, path: str, seconds: float = 0.0) -> dict[str, Any]:
    """Append a line with the job, the worker and the time to a file.

    Args:
        path: the file; it must exist.
        seconds: how long the work takes before the file is stamped.

    Returns:
        The ``path`` and the ``line``.

    Raises:
        FileNotFoundError: the file is gone; the job is retried, and is UNPROCESSABLE in the end.
    """
    with running("tasks.files.stamp") as run:
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < seconds:
            run.report(passed, seconds, unit="seconds")
            time.sleep(min(STEP, seconds - passed))
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = f"{now} job={run.id} worker={self.request.hostname or 'local'}\n"
        # Not created if it is gone; and appended in one write, so that two jobs never mix their lines.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return {"path": path, "line": line.rstrip()}
