"""Steps of workflows as Celery calls: checked before the first starts, made when the one before has ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from coordinator.errors import InvalidValue, LedgerUnavailable
from coordinator.jobs import Job
from coordinator.messages.calls import Call, call_of, send
from coordinator.messages.transport import collecting
from coordinator.running.context import RunningJob
from coordinator.workflows import UNKNOWN, Plan, Step, Workflow, plan_of
from coordinator.workflows.plans import PlannedStep
from coordinator.workflows.templates import filled

logger = logging.getLogger("coordinator")

_OPTIONS = ("integration", "timeout", "max_retries", "retry_delays")

#: Seconds for which a step that has ended tries to make the next one while Redis is away.
PATIENCE = 600.0


def planned(
    app: Any, workflow: Workflow, inputs: Mapping[str, Any], execution_id: str, trusted: bool
) -> Plan:
    """Return the plan of an execution: all its steps are checked, nothing is sent.

    Args:
        app: the coordinated Celery app.
        workflow: what is executed.
        inputs: what it is given.
        execution_id: its id.
        trusted: whether commands and callables may be any; else those that the settings allow.

    Raises:
        InvalidValue: a wrong input, an unknown task or queue, a value that is not allowed, arguments that do not
            fit, or models that are not known before the first step starts.
    """
    given = workflow.given(inputs)
    options = {
        name: value
        for name, value in (("org", workflow.org), ("priority", workflow.priority))
        if value is not None
    }
    names = {**given, **{step.name: UNKNOWN for step in workflow.steps}}
    steps = []
    for number, step in enumerate(workflow.steps):
        try:
            steps.append(_planned(app, step, names, options, trusted))
        except InvalidValue as error:
            where = f"{workflow.name} steps[{number}] ({step.name}).{error.field}"
            raise InvalidValue(where, error.value, error.allowed, error.choices) from None
    hold = workflow.hold_timeout
    return Plan(
        execution_id,
        workflow.name,
        tuple(steps),
        given,
        hold=workflow.hold,
        hold_ms=None if hold is None else int(hold * 1000),
        trusted=trusted,
        options=options,
    )


def _planned(
    app: Any, step: Step, names: Mapping[str, Any], options: dict[str, Any], trusted: bool
) -> PlannedStep:
    own = {name: getattr(step, name) for name in _OPTIONS if getattr(step, name) is not None}
    fields = {
        "task": step.task,
        "args": filled("args", list(step.args), names),
        "kwargs": filled("kwargs", dict(step.kwargs), names),
        **options,
        **{name: value for name, value in own.items() if name != "retry_delays"},
    }
    if step.queue is not None:
        fields["queue"] = step.queue
    if step.models is not None:
        fields["models"] = filled("models", list(step.templates), names)
    call = call_of(app, fields, trusted)
    if not app.coordination.manages(call.queue):
        raise InvalidValue("queue", call.queue, "a queue that is not left to plain Celery")
    args, kwargs = list(step.args), dict(step.kwargs)
    return PlannedStep(step.name, step.task, call.queue, call.models, args, kwargs, own)


def step_job(app: Any, plan: Plan) -> Job:
    """Return the job of a plan's step; nothing is submitted.

    Raises:
        InvalidValue: arguments that do not fit the task, or that look something up which is not there.
    """
    step, first = plan.step, replace(plan, position=1)
    call = _call(app, plan)
    options = {
        **call.options,
        **step.options,
        "models": list(plan.models),
        "owner": plan.execution_id,
        "workflow": plan.header(),
        "root_id": first.job_id,
    }
    if plan.position > 1:
        options["parent_id"] = replace(plan, position=plan.position - 1).job_id
    with collecting() as jobs:
        send(app, replace(call, options=options), plan.job_id)
    if len(jobs) != 1:
        raise InvalidValue("task", step.task, "a task whose call is one coordinated message")
    return jobs[0]


def _call(app: Any, plan: Plan) -> Call:
    fields = plan.fields()
    if plan.step.task in app.tasks:
        return call_of(app, fields, plan.trusted)
    # Of another app's worker: it was checked where the execution began.
    known = {name: fields.pop(name) for name in ("task", "args", "kwargs", "queue", "models")}
    return Call(known["task"], tuple(known["args"]), known["kwargs"], known["queue"], (), fields)


def follow(
    app: Any, job: RunningJob, result: Any, data: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Make the step after the one that has ended, for the finish of its run.

    Args:
        app: the Celery app.
        job: the run; it gets its successor.
        result: what it returned.
        data: what its finish will tell.

    Returns:
        The outcome and what is told: a step whose successor cannot be made has failed, and its execution with it.
    """
    plan = plan_of(job.workflow or {})
    if plan.job_id != job.id:
        # A task of a canvas that has replaced the step: the last one of it has its id.
        return "completed", data
    try:
        following = plan.after(result)
        if following is not None:
            job.successor = _patiently(app, following)
            job.keep_ms = plan.keep_ms
    except SoftTimeLimitExceeded:
        raise
    except Exception as error:
        # Whatever it is: raised here, it would run the step again, which did its work.
        logger.exception("[COORDINATOR] job %s: its next step could not be made", job.id)
        text = f"the step after it could not be made: {type(error).__name__}: {error}"
        return "failed", {"error": text, "undelivered_result": True}
    return "completed", data


def _patiently(app: Any, plan: Plan) -> Job:
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while True:
        try:
            return step_job(app, plan)
        except (OperationalError, LedgerUnavailable, OSError):
            # Kombu wants a connection, though nothing is sent; the finish waits for Redis as well.
            if time.monotonic() > deadline:
                raise
            pause.wait(0.5)
