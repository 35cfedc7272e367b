"""Executions of workflows as people see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.operations.listings import seconds
from coordinator.states import State, status


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step of an execution. Times are Unix seconds.

    Attributes:
        position, step, task, queue, models: as defined.
        job_id: the id of its job, from when it begins to wait.
        status: that of its job; None while there is none.
        attempts, worker, started_at, finished_at, result, error: of its job.
    """

    position: int
    step: str
    task: str
    queue: str
    models: tuple[str, ...]
    job_id: str
    status: str | None
    attempts: int
    worker: str | None
    started_at: float | None
    finished_at: float | None
    result: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Execution:
    """An execution of a workflow. Times are Unix seconds.

    Attributes:
        execution_id: its id, in whose name its jobs hold their models.
        workflow: the name of the workflow.
        status: PENDING until its first step runs, then PROCESSING until its end.
        state: that of its present step's job.
        required_models: of all its steps.
        hold: ``workflow`` or ``step``.
        current_step, current_position, steps: the present step, its number from 1, and how many there are.
        current_step_model, current_job_id: what the present step works on, and its job.
        blocked_by_job_id, conflict_reason, queue_position: what stops the present step, if it waits.
        inputs, requested_by, reason: what was asked for, by whom and why.
        queued_at, started_at, finished_at: moments, None if not (yet).
        error: why it has failed.
        cursor: where a listing goes on after it.
        details: the steps, where one execution was asked for.
    """

    execution_id: str
    workflow: str
    status: str
    state: str
    required_models: tuple[str, ...]
    hold: str
    current_step: str
    current_position: int
    steps: int
    current_step_model: str | None
    current_job_id: str
    blocked_by_job_id: str | None
    conflict_reason: str | None
    queue_position: int | None
    inputs: dict[str, Any]
    requested_by: str
    reason: str
    queued_at: float
    started_at: float | None
    finished_at: float | None
    error: str | None
    cursor: str
    details: tuple[StepRecord, ...] = field(default=())


def execution_of(row: Mapping[str, Any], steps: list[dict[str, Any]] | None = None) -> Execution:
    """Return a row of the store as people see it."""
    word, _ = status(State(row["state"]), row["retries"] or 0)
    if word == "PENDING" and row["started_at"] is not None:
        # Between two steps.
        word = "PROCESSING"
    own = {
        name: row[name]
        for name in (
            *("execution_id", "workflow", "state", "hold", "steps", "current_step"),
            *("current_position", "current_step_model", "current_job_id", "requested_by"),
            *("blocked_by_job_id", "conflict_reason", "queue_position", "error"),
        )
    }
    return Execution(
        **own,
        status=word,
        required_models=tuple(row["required_models"]),
        inputs=dict(row["inputs"]),
        reason=row["reason"] or "",
        queued_at=row["queued_at"] / 1000,
        started_at=seconds(row["started_at"]),
        finished_at=seconds(row["finished_at"]),
        cursor=f"{row['queued_at']}.{row['execution_id']}",
        details=tuple(map(_step_of, steps or ())),
    )


def _step_of(row: Mapping[str, Any]) -> StepRecord:
    known = row["state"] is not None
    word = status(State(row["state"]), row["retries"])[0] if known else None
    return StepRecord(
        **{name: row[name] for name in ("position", "step", "task", "queue", "job_id", "worker")},
        models=tuple(row["models"]),
        status=word,
        attempts=row["attempts"] or 0,
        started_at=seconds(row["started_at"]),
        finished_at=seconds(row["finished_at"]),
        result=row["result"],
        error=row["error"],
    )
