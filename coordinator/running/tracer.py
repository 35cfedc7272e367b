"""The tracer: claims a job before its body runs, and finishes it after its result is stored."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

from billiard.einfo import ExceptionInfo
from celery import states
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Ignore, SoftTimeLimitExceeded

from coordinator import telling
from coordinator.errors import LedgerClosed, LedgerUnavailable, NotRetryable
from coordinator.jobs import Job
from coordinator.ledger import Claim, Ledger
from coordinator.messages.needs import limit_of, said
from coordinator.messages.steps import follow
from coordinator.messages.transport import OPTIONS_HEADER, STANDBY_HEADER, TOKEN_HEADER
from coordinator.resources import models_of
from coordinator.running import begun
from coordinator.running.context import RunningJob, _current, worker_id

logger = logging.getLogger("coordinator")

Tracer = Callable[..., Any]
T = TypeVar("T")

#: How long the text of an error or a result is kept, in characters.
MAX_TEXT = 2000

#: Errors after which a run is not repeated.
FINAL_ERRORS = (NotRetryable, SoftTimeLimitExceeded)


def coordinated(task: Any, tracer: Tracer) -> Tracer:
    """Return Celery's tracer of a coordinated task in one that claims, runs and finishes."""

    def trace(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        token = request.get(TOKEN_HEADER) if request else None
        if token is None:
            return tracer(uuid, args, kwargs, request)
        telling.show(False)
        work_queue = task.app.coordination.work_queue
        nonce = os.urandom(12).hex()
        claim, late = _twice(lambda: _claim(work_queue.ledger, uuid, token, nonce))
        if not claim.granted:
            logger.info(
                "[COORDINATOR] job %s is not run here: its delivery %s is %s",
                uuid,
                token,
                claim.answer,
            )
            return _ignored(claim.answer)
        if not request.get(STANDBY_HEADER):
            return _run(task, tracer, claim, late, uuid, args, kwargs, request)
        begun.begin(uuid, token)
        try:
            return _run(task, tracer, claim, late, uuid, args, kwargs, request)
        finally:
            begun.end()

    return trace


def _run(
    task: Any,
    tracer: Tracer,
    claim: Claim,
    late: bool,
    uuid: str,
    args: Any,
    kwargs: Any,
    request: Any,
) -> Any:
    """Run a job that was granted, and finish it."""
    work_queue = task.app.coordination.work_queue
    options = request.get(OPTIONS_HEADER) or {}
    job = RunningJob(
        id=uuid,
        token=request[TOKEN_HEADER],
        attempt=claim.attempts,
        queue=claim.held[-1].split(":", 1)[1] if claim.held else "",
        models=models_of(claim.held),
        retries=int(request.get("retries") or 0),
        ledger=work_queue.ledger,
        call=said(options),
        late=late,
        heartbeat_timeout=limit_of("heartbeat_timeout", options, task),
        keeps_result=not task._handles,
        owner=options.get("owner") or "",
        workflow=options.get("workflow"),
    )
    work_queue.log_started(job.id, job.models)
    mark = _current.set(job)
    try:
        traced = tracer(uuid, args, kwargs, request)
    except BaseException as error:
        # No result was stored: the run counts as lost, and the job comes back by its attempts.
        _finish(work_queue, job, "lost", {"reason": job.silence or _error(error)})
        if isinstance(error, MemoryError):
            return _ignored("out of memory")
        raise
    finally:
        _current.reset(mark)
    outcome, data = _outcome(job, traced)
    if outcome == "completed" and job.workflow is not None:
        outcome, data = _twice(lambda: follow(task.app, job, traced[0], data))[0]
    try:
        _finish(work_queue, job, outcome, data)
    finally:
        telling.show(False)
    return traced


def _outcome(job: RunningJob, traced: Any) -> tuple[str, dict[str, Any]]:
    _, info, _, text = traced
    state = info.state if info else states.SUCCESS
    if job.successor is not None:
        # Whatever it did after it had published its own id again, such as retry(throw=False).
        cause = getattr(info.retval, "exc", None) or info.retval if info else None
        return ("replaced", {}) if job.replaced else ("retried", {"error": _error(cause)})
    if state == states.SUCCESS:
        return "completed", {"result": _text(text or "")}
    error: dict[str, Any] = {"error": _error(info.retval)}
    if state == states.RETRY:
        return "failed", {"error": "the task raised Retry without publishing one"}
    if state == states.IGNORED:
        if job.stopped:
            return "released", {"reason": "stopped at a checkpoint"}
        return ("replaced", {}) if job.replaced else ("completed", {"result": "ignored"})
    if state == states.REJECTED:
        return ("released", {"reason": "rejected"}) if info.retval.requeue else ("failed", error)
    spent = job.exhausted and job.retries > 0 and not isinstance(info.retval, FINAL_ERRORS)
    return ("unprocessable" if spent else "failed"), error


def _finish(work_queue: Any, job: RunningJob, outcome: str, data: dict[str, Any]) -> None:
    going_on = ("retried", "replaced", "completed")
    successor: Job | None = job.successor if outcome in going_on else None
    try:
        result = job.result if outcome == "completed" else None
        _twice(
            lambda: work_queue.finish(
                *(job.id, job.token, outcome, data, successor, result, job.keep_ms)
            )
        )
    except (LedgerUnavailable, LedgerClosed) as error:
        # The lease ends and the job is lost to this worker: it runs again, by its attempts.
        logger.error("[COORDINATOR] job %s ended but could not be finished: %s", job.id, error)


def _twice(do: Callable[[], T]) -> tuple[T, bool]:
    """Do what may be done again; again if the task's soft time limit falls into it, which it does once."""
    try:
        return do(), False
    except SoftTimeLimitExceeded:
        return do(), True


def _claim(ledger: Ledger, job_id: str, token: int, nonce: str) -> Claim:
    try:
        return ledger.claim(job_id, token, nonce, worker_id(), stands_by=begun.can_stand_by())
    except (LedgerUnavailable, LedgerClosed) as error:
        # Not claimed is not begun: the dispatch lease ends and the job is dispatched again.
        logger.warning("[COORDINATOR] job %s could not be claimed: %s", job_id, error)
        return Claim("unreachable")


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
