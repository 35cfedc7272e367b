"""Executions of workflows: begun, looked at, ended."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from coordinator.author import default_author
from coordinator.errors import (
    InvalidValue,
    Refused,
    UnknownExecution,
    UnknownJob,
    UnknownWorkflow,
)
from coordinator.jobs import Job
from coordinator.ledger import Admission
from coordinator.operations.execution_view import Execution, execution_of
from coordinator.operations.interventions import Interventions
from coordinator.operations.listings import Listings
from coordinator.paging import Page, checked_limit, parse_cursor
from coordinator.states import FINAL, PENDING, State
from coordinator.workflows.definitions import MOST_STEPS, Workflow, check_id
from coordinator.workflows.plans import Plan, job_id_of

#: A next step that is not there for so long, in milliseconds, will not come: its execution has failed.
STRANDED_MS = 600_000

_STATES = {
    "PENDING": PENDING,
    "PROCESSING": (*(state for state in State if state not in FINAL),),
    **{state.value.upper(): (state,) for state in FINAL},
}


class Executions(Interventions, Listings, ABC):
    """The work queue's verbs of workflows."""

    @abstractmethod
    def accept(
        self, job: Job, store: Callable[[], bool], withdraw: Callable[[], None]
    ) -> Admission:
        """Accept a job that is stored together with something else; see ``work_queue``."""

    def unknown_job(self, job_id: str) -> UnknownJob:
        """Return the error that tells that a job is not known; conflicts name executions beside jobs."""
        if job_id.startswith("workflow-"):
            if self.store.execution(job_id) is not None:
                shown = f"coordinator workflows executions {job_id}"
                return UnknownJob(f"{job_id} is an execution of a workflow: {shown}")
            jobs = sorted(self.ledger.members(job_id))
            if jobs:
                return UnknownJob(
                    f"{job_id} is the lock of a canvas, of the jobs {', '.join(jobs)}"
                )
        return super().unknown_job(job_id)

    def get_workflows(self) -> list[Workflow]:
        """Return the workflows of the app by name, those of Python and those of files.

        Raises:
            InvalidValue: something in a definition is not allowed.
        """
        return [workflow for _, workflow in sorted(self._workflows().items())]

    def get_workflow(self, name: str) -> Workflow:
        """Return a workflow.

        Raises:
            UnknownWorkflow: there is none of this name.
            InvalidValue: something in a definition is not allowed.
        """
        known = self._workflows()
        if name not in known:
            raise UnknownWorkflow(name, known)
        return known[name]

    def plan_workflow(
        self,
        name: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        execution_id: str | None = None,
        trusted: bool = True,
    ) -> Plan:
        """Check an execution and all its steps, and return what it would do; nothing is sent.

        Args:
            name, inputs, execution_id, trusted: as for ``execute_workflow``.

        Raises:
            UnknownWorkflow, InvalidValue: as ``execute_workflow``.
        """
        workflow = self.get_workflow(name)
        own = owned_id(execution_id or str(uuid.uuid4()))
        if self.application is None:
            raise Refused("workflows belong to a Celery app: coordinate(app) has none here")
        return self.application.planned(workflow, inputs or {}, own, trusted)

    def execute_workflow(
        self,
        name: str,
        inputs: Mapping[str, Any] | None = None,
        *,
        reason: str = "",
        by: str | None = None,
        execution_id: str | None = None,
        trusted: bool = True,
    ) -> Execution:
        """Begin an execution of a workflow: its first step starts at once or waits.

        Args:
            name: the workflow.
            inputs: what it is given.
            reason, by: kept with it and in the log.
            execution_id: sent twice with one id it is one execution. By default a new one.
            trusted: whether its steps may run any command and callable; else those that the settings allow.

        Raises:
            UnknownWorkflow: no such workflow.
            InvalidValue: a wrong input, or a step that could not run; nothing was written.
            StoreUnavailable: the database is down; nothing was accepted.
            LedgerFull: Redis is nearly full; nothing was accepted.
        """
        plan = self.plan_workflow(name, inputs, execution_id=execution_id, trusted=trusted)
        author = by or default_author()
        job = self._job(plan)
        row = {
            "execution_id": plan.execution_id,
            "workflow": name,
            "required_models": list(plan.all_models),
            "hold": plan.hold,
            "steps": len(plan.steps),
            "inputs": plan.inputs,
            "requested_by": author,
            "reason": reason or None,
            "queued_at": job.submitted_ms,
        }
        steps = [
            {
                "position": number,
                "step": step.name,
                "task": step.task,
                "queue": step.queue,
                "model": step.models[0] if step.models else None,
                "models": list(step.models),
                "job_id": job_id_of(plan.execution_id, step.name),
            }
            for number, step in enumerate(plan.steps, 1)
        ]
        store = self.store
        admission = self.accept(
            job,
            lambda: store.insert_execution(row, steps, job),
            lambda: store.withdraw_execution(plan.execution_id, job.job_id),
        )
        if not admission.known:
            data = {"workflow": name, "inputs": row["inputs"]}
            store.note("executed", author, reason, job_id=plan.execution_id, data=data)
        return self.get_execution(plan.execution_id)

    def get_execution(self, execution_id: str) -> Execution:
        """Return an execution with its steps.

        Raises:
            UnknownExecution: no such execution, or it ended so long ago that it was pruned.
        """
        self.catch_up(1.0)
        row = self.store.execution(execution_id)
        if row is None:
            raise UnknownExecution(
                f"no execution {execution_id!r} is known: it never was, or ended and was pruned"
            )
        return execution_of(row, self.store.execution_steps(execution_id))

    def get_executions(
        self,
        *,
        workflow: str | None = None,
        status: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Execution]:
        """Return a page of executions, the newest first.

        Args:
            workflow: only of this one.
            status: PENDING, PROCESSING, COMPLETED, FAILED, UNPROCESSABLE or CANCELED, in any case.
            limit: at most so many, from 1 to 10,000.
            cursor: that of the previous page.

        Raises:
            InvalidValue: an unknown status, a wrong limit or cursor.
        """
        word = None if status is None else status.upper()
        if word is not None and word not in _STATES:
            raise InvalidValue("status", status, "one of " + ", ".join(_STATES), _STATES)
        self.catch_up(1.0)
        rows = self.store.executions(
            workflow=workflow,
            states=[state.value for state in _STATES[word]] if word else (),
            limit=checked_limit(limit),
            cursor=parse_cursor(cursor),
        )
        found = [execution_of(row) for row in rows]
        return Page((one for one in found if word is None or one.status == word), found, limit)

    def cancel_execution(self, execution_id: str, reason: str = "", by: str | None = None) -> str:
        """End an execution: its present step is canceled, and no other one starts.

        Args:
            execution_id: the execution.
            reason, by: kept in the log.

        Returns:
            ``canceled``, or ``stopping`` while a running step is being ended.

        Raises:
            UnknownExecution: no such execution.
            Refused: it has ended.
            LedgerUnavailable, LedgerClosed: not now.
        """
        author, why = by or default_author(), reason or "canceled"
        self.get_execution(execution_id)
        answer = ""
        for _ in range(MOST_STEPS + 1):
            jobs = self.ledger.members(execution_id)
            answers = {self.ledger.cancel(job_id, why, author)["answer"] for job_id in jobs}
            if "stopping" in answers:
                return "stopping"
            if "done" in answers:
                answer = "canceled"
            # A step that ended meanwhile has brought the next one.
            if not answers - {"done"}:
                break
        if not answer:
            found = self.get_execution(execution_id)
            if found.status == "COMPLETED" or found.status == "CANCELED":
                raise Refused(f"execution {execution_id} has ended: it is {found.status}")
            answer = self.cancel_job(found.current_job_id, reason, by)
        return answer

    def end_stranded_executions(self) -> list[str]:
        """Fail executions whose next step was lost between Redis and the database; return their ids."""
        now = self.ledger.clock()
        ended = []
        for execution_id, job_id in self.store.stranded_executions(now - STRANDED_MS):
            if self.ledger.unknown([job_id]) and not self.ledger.members(execution_id):
                self.store.end_execution(execution_id, f"its next step {job_id} was lost", now)
                ended.append(execution_id)
        return ended

    def _workflows(self) -> Mapping[str, Workflow]:
        return {} if self.application is None else self.application.workflows()

    def _job(self, plan: Plan) -> Job:
        if self.application is None:
            raise Refused("workflows belong to a Celery app: coordinate(app) has none here")
        return self.application.step_job(plan)


def owned_id(execution_id: str) -> str:
    """Return the id of an execution; by its first part conflicts tell that it is a workflow."""
    own = execution_id if execution_id.startswith("workflow-") else f"workflow-{execution_id}"
    return check_id("execution_id", own)
