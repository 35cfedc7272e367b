"""Routes of workflows: look, execute, cancel."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from coordinator.operations.execution_view import Execution
from coordinator.web.bodies import Name, Reason
from coordinator.web.problems import responses
from coordinator.web.visits import COMMON, Guarded, Operating, Viewing, blocking, once
from coordinator.workflows import Workflow

router = APIRouter(route_class=Guarded, tags=["workflows"], responses=COMMON)

ExecutionId = Annotated[
    str, Path(min_length=1, max_length=200, description="An execution's id, workflow-...")
]


class Workflows(BaseModel):
    """The workflows of the app by name."""

    workflows: list[Workflow]


class ExecutionRequest(Reason):
    """What an execution is given."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"inputs": {"model": "tic-tac-toe", "games": 200}, "reason": "nightly"}]
        },
    )

    inputs: dict[str, JsonValue] = Field(
        default_factory=dict, description="Those the workflow requires, and others it has"
    )


class Executions(BaseModel):
    """A page of executions."""

    executions: list[Execution]
    next_cursor: str | None


class ExecutionState(BaseModel):
    """What an action made of an execution."""

    execution_id: str
    state: str = Field(examples=["canceled", "stopping"])


@router.get("/workflows", response_model=Workflows)
@blocking
def workflows(visit: Viewing) -> Workflows:
    """List the workflows: their steps, the inputs they take, what they hold."""
    return Workflows(workflows=visit.records.get_workflows())


@router.post(
    "/workflows/{name}/execute",
    status_code=202,
    response_model=Execution,
    responses=responses(404),
)
@blocking
@once(202)
def execute(
    name: Annotated[str, Path(min_length=1, max_length=200, description="A workflow's name")],
    visit: Operating,
    body: ExecutionRequest | None = None,
) -> Execution:
    """Begin an execution of a workflow. The answer tells whether its first step starts at once, or what stops it.

    All steps are checked before anything is accepted; commands and callables must be those that the settings allow.
    """
    said = body or ExecutionRequest()
    return visit.records.execute_workflow(
        name,
        said.inputs,
        reason=said.reason,
        by=visit.by,
        execution_id=visit.nonce,
        trusted=False,
    )


@router.get("/workflows/executions", response_model=Executions)
@blocking
def executions(
    visit: Viewing,
    workflow: Name | None = None,
    status: Annotated[
        Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED", "UNPROCESSABLE", "CANCELED"] | None,
        Query(),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[
        str | None, Query(max_length=300, description="next_cursor of the page before this one")
    ] = None,
) -> Executions:
    """List executions, the newest first, page by page: go on with ``next_cursor`` until it is null."""
    found = visit.records.get_executions(
        workflow=workflow, status=status, limit=limit, cursor=cursor
    )
    return Executions(executions=found, next_cursor=found.cursor)


@router.get(
    "/workflows/executions/{execution_id}", response_model=Execution, responses=responses(404)
)
@blocking
def execution(execution_id: ExecutionId, visit: Viewing) -> Execution:
    """Show an execution with its steps; ``GET /jobs/{current_job_id}/why`` says what stops the present one."""
    return visit.records.get_execution(execution_id)


@router.post(
    "/workflows/executions/{execution_id}/cancel",
    response_model=ExecutionState,
    responses=responses(404, 409),
)
@blocking
@once()
def cancel(
    execution_id: ExecutionId, visit: Operating, body: Reason | None = None
) -> ExecutionState:
    """End an execution: its present step is canceled, and no other one starts."""
    reason = body.reason if body else ""
    state = visit.queue.cancel_execution(execution_id, reason, visit.by)
    return ExecutionState(execution_id=execution_id, state=state)
