"""The task base: runs the body as a run of its job, whatever class the app gave the task."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import celery.app.registry
import celery.app.task
from celery.app.trace import task_has_custom
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.utils.imports import symbol_by_name

from coordinator import telling
from coordinator.errors import JobStopped
from coordinator.messages.canvas import carry_on
from coordinator.messages.needs import Option
from coordinator.running.context import RunningJob, current_job
from coordinator.running.tracer import FINAL_ERRORS, Tracer, coordinated

#: Of a task: what Celery calls when its body is over.
HANDLERS = ("on_success", "on_failure", "on_retry", "after_return")


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
        self._tracer = None if tracer is None else coordinated(self, tracer)

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
