"""The task base: claims its job before it runs and finishes it after its result is stored."""

from __future__ import annotations

import logging
import uuid as uuids
from collections.abc import Callable
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import states
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded

from coordinator.context import RunningJob, _current, current_job, worker_id
from coordinator.errors import JobStopped, LedgerClosed, LedgerUnavailable, NotRetryable
from coordinator.jobs import Job
from coordinator.ledger import Claim, Ledger
from coordinator.resources import models_of
from coordinator.transport import TOKEN_HEADER

logger = logging.getLogger("coordinator")

Tracer = Callable[..., Any]

#: How long the text of an error or a result is kept, in characters.
MAX_TEXT = 2000

#: Errors after which a run is not repeated.
FINAL_ERRORS = (NotRetryable, SoftTimeLimitExceeded)


def _ignored(reason: str) -> Any:
    # What Celery's tracer returns for a task that raised Ignore: the message is done, no state is stored.
    try:
        raise Ignore(reason)
    except Ignore as exc:
        return trace_ok_t(ExceptionInfo(internal=True), TraceInfo(states.IGNORED, exc), 0.0, None)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


def _error(exc: BaseException | None) -> str:
    return _text(f"{type(exc).__name__}: {exc}") if exc is not None else ""


class CoordinatedTask:
    """Mixed into the app's task base.

    Options (decorator, ``apply_async``, annotations, rules by task name in the settings):

    Attributes:
        models: names, a template over the arguments such as ``"{model}"``, or a callable of them.
        org: the organisation a job runs for; may be a template.
        integration: the integration a job depends on.
        timeout: seconds a job may run.
        heartbeat_timeout: seconds a job may go without reporting progress.
        retry_delays: seconds before each retry; the last one repeats. None takes the setting.
        coordinated: False leaves the task to plain Celery.
    """

    models: Any = None
    org: str | None = None
    integration: str | None = None
    timeout: float | None = None
    heartbeat_timeout: float | None = None
    retry_delays: tuple[float, ...] | None = None
    coordinated: bool | None = None

    Request = "coordinator.worker:Request"

    _tracer: Tracer | None = None

    # Celery builds the tracer of a task in each worker process and keeps it in this attribute.
    @property
    def __trace__(self) -> Tracer | None:
        return self._tracer

    @__trace__.setter
    def __trace__(self, tracer: Tracer | None) -> None:
        self._tracer = None if tracer is None else _coordinated(self, tracer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        job = current_job()
        task: Any = self
        if job is None or task.request.called_directly or task.request.id != job.id:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]  # the app's task base
        try:
            return task.run(*args, **kwargs)
        except JobStopped as exc:
            job.stopped = True
            raise Ignore(str(exc)) from exc
        except (Retry, Ignore, Reject, *FINAL_ERRORS):
            raise
        except Exception as exc:
            if job.successor is not None:
                raise
            limit = task.max_retries
            if limit is not None and task.request.retries >= limit:
                raise
            raise task.retry(exc=exc, countdown=self._delay(task.request.retries)) from exc

    def _delay(self, retries: int) -> float:
        task: Any = self
        delays = self.retry_delays
        if delays is None:
            delays = task.app.coordination.settings.retry_delays
        return delays[min(retries, len(delays) - 1)] if delays else 0.0

    def on_replace(self, sig: Any) -> Any:
        job = current_job()
        if job is not None:
            job.replaced = True
        return super().on_replace(sig)  # type: ignore[misc]  # the app's task base


def _claim(ledger: Ledger, job_id: str, token: int) -> Claim:
    try:
        return ledger.claim(job_id, token, uuids.uuid4().hex, worker_id())
    except (LedgerUnavailable, LedgerClosed) as error:
        # Not claimed is not begun: the dispatch lease ends and the job is dispatched again.
        logger.warning("[COORDINATOR] job %s could not be claimed: %s", job_id, error)
        return Claim("unreachable")


def _coordinated(task: Any, tracer: Tracer) -> Tracer:
    """Wrap Celery's tracer: claim, run, finish."""

    def trace(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        token = request.get(TOKEN_HEADER) if request else None
        if token is None:
            return tracer(uuid, args, kwargs, request)
        work_queue = task.app.coordination.work_queue
        claim = _claim(work_queue.ledger, uuid, token)
        if not claim.granted:
            logger.info(
                "[COORDINATOR] job %s is not run here: its delivery %s is %s",
                uuid,
                token,
                claim.answer,
            )
            return _ignored(claim.answer)
        job = RunningJob(
            id=uuid,
            token=token,
            attempt=claim.attempts,
            queue=claim.held[-1].split(":", 1)[1] if claim.held else "",
            models=models_of(claim.held),
            retries=int(request.get("retries") or 0),
            ledger=work_queue.ledger,
        )
        work_queue.log_started(job.id, job.models)
        mark = _current.set(job)
        try:
            traced = tracer(uuid, args, kwargs, request)
        except BaseException as error:
            # No result was stored: the run counts as lost, and the job comes back by its attempts.
            _finish(work_queue, job, "lost", {"reason": _error(error)})
            if isinstance(error, MemoryError):
                return _ignored("out of memory")
            raise
        finally:
            _current.reset(mark)
        outcome, data = _outcome(task, job, traced)
        _finish(work_queue, job, outcome, data)
        return traced

    return trace


def _outcome(task: Any, job: RunningJob, traced: Any) -> tuple[str, dict[str, Any]]:
    _, info, _, text = traced
    if info is None or not info:
        return "completed", {"result": _text(text or "")}
    error: dict[str, Any] = {"error": _error(info.retval)}
    if info.state == states.RETRY:
        cause = getattr(info.retval, "exc", None)
        if job.successor is not None:
            return "retried", {"error": _error(cause or info.retval)}
        return "failed", {"error": "the task raised Retry without publishing one"}
    if info.state == states.IGNORED and job.stopped:
        return "released", {"reason": "stopped at a checkpoint"}
    if info.state == states.IGNORED:
        if job.successor is not None or job.replaced:
            return "replaced", {}
        return "completed", {"result": "ignored"}
    if info.state == states.REJECTED:
        return ("released", {"reason": "rejected"}) if info.retval.requeue else ("failed", error)
    limit = task.max_retries
    spent = limit is not None and limit > 0 and job.retries >= limit
    final = isinstance(info.retval, FINAL_ERRORS)
    return ("unprocessable" if spent and not final else "failed"), error


def _finish(work_queue: Any, job: RunningJob, outcome: str, data: dict[str, Any]) -> None:
    successor: Job | None = job.successor if outcome in ("retried", "replaced") else None
    try:
        work_queue.finish(job.id, job.token, outcome, data, successor)
    except (LedgerUnavailable, LedgerClosed) as error:
        # The lease ends and the job is lost to this worker: it runs again, by its attempts.
        logger.error("[COORDINATOR] job %s ended but could not be finished: %s", job.id, error)
