"""The task base: claims its job before it runs and finishes it after its result is stored."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import celery.app.registry
import celery.app.task
from billiard.einfo import ExceptionInfo
from celery import states
from celery.app.trace import TraceInfo, task_has_custom, trace_ok_t
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.utils.imports import symbol_by_name

from coordinator import telling
from coordinator.errors import JobStopped, LedgerClosed, LedgerUnavailable, NotRetryable
from coordinator.jobs import Job
from coordinator.ledger import Claim, Ledger
from coordinator.messages.canvas import carry_on
from coordinator.messages.needs import Option, limit_of, said
from coordinator.messages.steps import follow
from coordinator.messages.transport import OPTIONS_HEADER, STANDBY_HEADER, TOKEN_HEADER
from coordinator.resources import models_of
from coordinator.running import begun
from coordinator.running.context import RunningJob, _current, current_job, worker_id

logger = logging.getLogger("coordinator")

Tracer = Callable[..., Any]
T = TypeVar("T")

#: How long the text of an error or a result is kept, in characters.
MAX_TEXT = 2000

#: Of a task: what Celery calls when its body is over.
HANDLERS = ("on_success", "on_failure", "on_retry", "after_return")

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


class TaskOptions:
    """Options of a task (decorator, ``apply_async``, annotations, rules by task name in the settings).

    Attributes:
        models: names, a template over the arguments such as ``"{model}"``, or a callable of them.
        org: the organisation a job runs for; may be a template or a callable.
        integration: the integration a job depends on.
        timeout: seconds a job may run.
        heartbeat_timeout: seconds a run may go without ``progress()`` or ``checkpoint()``; then it is ended
            and counts as lost.
        retry_delays: seconds before each retry; the last one repeats. None takes the setting.
        coordinated: False leaves the task to plain Celery.
    """

    models: Any = None
    org: Any = None
    integration: str | None = None
    timeout: float | None = None
    heartbeat_timeout: float | None = None
    retry_delays: tuple[float, ...] | None = None
    coordinated: bool | None = None


class CoordinatedTask:
    """What a coordinated task does differently. First among the bases of its class, see ``adopt``."""

    _tracer: Tracer | None = None

    #: Whether the task has handlers of its own, which may use what the job holds and read its result.
    _handles = True

    #: Whether the app's code gave the task a ``__call__`` of its own.
    _own_call = False

    # Celery builds the tracer of a task in each worker process and keeps it in this attribute.
    @property
    def __trace__(self) -> Tracer | None:
        return self._tracer

    @__trace__.setter
    def __trace__(self, tracer: Tracer | None) -> None:
        self._handles = any(task_has_custom(self, name) for name in HANDLERS)
        self._tracer = None if tracer is None else _coordinated(self, tracer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        task: Any = self
        request = task.request_stack.top
        entered = getattr(request, "coordinator_entered", False)
        if request is None or request.called_directly or entered:
            # Called by code, also by its own: a function call and no run of the job.
            return super().__call__(*args, **kwargs)  # type: ignore[misc]  # the app's task base
        request.coordinator_entered = True
        job = self._running()
        return self._enter(args, kwargs) if job is None else self._run(job, args, kwargs)

    def _enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        task: Any = self
        # Celery's own __call__ would push a second request, in which the task could not retry.
        if self._own_call:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]  # the app's task base
        return task.run(*args, **kwargs)

    def _run(self, job: RunningJob, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        task: Any = self
        if job.late:
            raise SoftTimeLimitExceeded
        try:
            return self._body(args, kwargs)
        except JobStopped as exc:
            job.stopped = True
            raise Ignore(str(exc)) from exc
        except (Retry, Ignore, Reject, *FINAL_ERRORS):
            raise
        except Exception as exc:
            if job.successor is not None or job.exhausted or hasattr(self, "autoretry_for"):
                # The task has published its retry, has used up its retries, or says itself what is retried.
                raise
            delays = self._option(job).retry_delays
            delay = delays[min(job.retries, len(delays) - 1)] if delays else 0.0
            raise task.retry(exc=exc, countdown=delay) from exc

    def _body(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self._enter(args, kwargs)
        finally:
            # With handlers of its own it runs on.
            if not self._handles:
                telling.show(True)

    def _running(self) -> RunningJob | None:
        """Return the job if this is its own run, not a call of something else by it."""
        job = current_job()
        task: Any = self
        return job if job is not None and job.id == task.request.id else None

    def _option(self, job: RunningJob) -> Option:
        task: Any = self
        return Option(task.app.coordination.settings, task.name, task, job.call)

    def retry(self, *args: Any, **options: Any) -> Any:
        """Retry as Celery does, with the limit of the call when it gave one."""
        job = self._running()
        if job is None:
            return super().retry(*args, **options)  # type: ignore[misc]  # the app's task base
        if job.exhausted:
            options["max_retries"] = 0
        elif options.get("max_retries") is None:
            limit = self._option(job).max_retries
            if limit is not None:
                options["max_retries"] = sys.maxsize if limit < 0 else limit
        try:
            return super().retry(*args, **options)  # type: ignore[misc]  # the app's task base
        except (Retry, Reject):
            raise
        except Exception:
            # What it raises instead of a retry is final, whoever catches it on its way.
            job.exhausted = True
            raise
        finally:
            # Celery keeps the limit of this call on the task, where the next job of the process would find it.
            self.__dict__.pop("override_max_retries", None)

    def on_replace(self, sig: Any) -> Any:
        job = self._running()
        if job is not None:
            job.replaced = True
            if job.owner:
                carry_on(sig, job)
        return super().on_replace(sig)  # type: ignore[misc]  # the app's task base


def adopt(task: Any) -> None:
    """Make a task coordinated, whatever its class: a base class of ``celery.Task`` knows no app.

    First among its bases, so that a ``__call__`` of the task's own runs inside the job.
    """
    cls = type(task)
    if issubclass(cls, CoordinatedTask):
        return
    own = cls.Request
    request: Any = "coordinator.running.request:Request"
    if own != celery.app.task.Task.Request:
        from coordinator.running.request import Request

        request = type("Request", (Request, symbol_by_name(own)), {})
    known = (celery.app.task.Task, object)
    names = {
        "__module__": cls.__module__,
        "__doc__": cls.__doc__,
        "Request": request,
        "_own_call": any("__call__" in vars(base) for base in cls.__mro__ if base not in known),
    }
    task.__class__ = type(cls.__name__, (CoordinatedTask, cls), names)


class TaskRegistry(celery.app.registry.TaskRegistry):
    """The tasks of an app, each adopted when it is registered: by decorator, shared or as an object.

    Args:
        tasks: those there are already.
        adopts: whether tasks are adopted; asked when one is registered, since by then the app has its settings.
    """

    def __init__(self, tasks: Mapping[str, Any], adopts: Callable[[], bool]) -> None:
        super().__init__()
        self._adopts = adopts
        for name, task in tasks.items():
            self[name] = task

    def __setitem__(self, name: str, task: Any) -> None:
        if self._adopts():
            adopt(task)
        super().__setitem__(name, task)


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


def _coordinated(task: Any, tracer: Tracer) -> Tracer:
    """Wrap Celery's tracer: claim, run, finish."""

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
