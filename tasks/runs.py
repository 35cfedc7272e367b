"""One run of a job, as its task body sees it: who it is, its chance, its progress."""

from __future__ import annotations

import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from coordinator import NotRetryable, checkpoint, current_job, progress
from tasks.models import UnknownModel
from tasks.registry import StaleToken
from tasks.trace import Trace, traced

REPORT_EVERY = 0.1


@dataclass(slots=True)
class Run:
    """What a task body needs to know of its run.

    Attributes:
        id: of the job; outside a job one made from the seed.
        token: fencing token to hand to whatever is written; None outside a job.
        seed: of all chance in it.
    """

    id: str
    token: int | None
    seed: int
    trace: Trace
    _reported: float = field(default=0.0)

    def report(self, done: float, total: float | None = None, **info: Any) -> None:
        """Report progress; call it as often as you like, it passes on ten a second and the last.

        Raises:
            JobStopped: the job was canceled.
        """
        now = time.monotonic()
        if now - self._reported < REPORT_EVERY and done != total:
            return
        self._reported = now
        # Progress first: the two share one budget of calls, and a checkpoint would use up its turn.
        progress(done, total, **info)
        checkpoint()
        self.trace.alive()


@contextmanager
def running(task: str, models: Sequence[str] = (), seed: int | None = None) -> Iterator[Run]:
    """Run a task body.

    Args:
        task: its name.
        models: what it must have for itself.
        seed: of all chance; None takes one from the job's id, so that a retry does the same again.

    Raises:
        NotRetryable: a model that does not exist, or a run that has lost its lock: neither gets better.
    """
    job = current_job()
    if job is not None:
        run_id, token = job.id, job.token
    else:
        run_id = f"local-{uuid.uuid4()}" if seed is None else f"local-{seed}"
        token = None
    if seed is None:
        seed = zlib.crc32(run_id.encode())
    with traced(task, models, run_id, token) as trace:
        try:
            yield Run(run_id, token, seed, trace)
        except (UnknownModel, StaleToken) as error:
            raise NotRetryable(str(error)) from error
