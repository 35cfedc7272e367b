"""Pages of workflows: what there is, what of it runs, and each execution as a graph of its steps."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from coordinator.web.pages.forms import Form, Paged, Sent
from coordinator.web.pages.frame import Told, back, show
from coordinator.web.pages.words import HOME, address
from coordinator.web.visits import Operating, Viewing, blocking

router = APIRouter(route_class=Paged)

#: Executions of a page.
ROWS = 30

#: What the name of an input begins with in a form.
INPUT = "input."


@router.get("/workflows")
@blocking
def workflows(request: Request, visit: Viewing) -> Response:
    """Show the workflows with their steps, and their executions, the newest first."""
    name, cursor = request.query_params.get("workflow") or None, request.query_params.get("cursor")
    found = visit.records.get_executions(workflow=name, limit=ROWS, cursor=cursor or None)
    return show(
        visit,
        request,
        "workflows.html",
        workflows=visit.records.get_workflows(),
        executions=found,
        chosen=name,
        first=not cursor,
        cursor=found.cursor,
    )


@router.get("/execution")
@blocking
def execution(
    request: Request, visit: Viewing, execution_id: Annotated[str, Query(alias="id")] = ""
) -> Response:
    """Show an execution: its steps, which one is under way, and what stops it."""
    return show(
        visit, request, "execution.html", execution=visit.records.get_execution(execution_id)
    )


@router.post("/workflows/execute")
@blocking
def execute(visit: Operating, form: Sent) -> Response:
    """Begin an execution."""
    name = form.needed("workflow")
    begun = visit.records.execute_workflow(
        name, inputs_of(form), reason=form.text("reason") or "", by=visit.by, trusted=False
    )
    told = Told(f"An execution of {name} has begun.")
    return back(address(f"{HOME}execution", id=begun.execution_id), told)


@router.post("/workflows/cancel")
@blocking
def cancel(visit: Operating, form: Sent) -> Response:
    """End an execution."""
    execution_id = form.needed("id")
    state = visit.queue.cancel_execution(execution_id, form.text("reason") or "", visit.by)
    return back(form.text("back"), Told(f"Execution {execution_id} is {state}."))


def inputs_of(form: Form) -> dict[str, Any]:
    """Return the inputs that a form gives: JSON where it is some, else text; empty ones are left out."""
    found = {}
    for field in form.fields:
        if not field.startswith(INPUT) or (said := form.text(field)) is None:
            continue
        try:
            found[field.removeprefix(INPUT)] = json.loads(said)
        except ValueError:
            found[field.removeprefix(INPUT)] = said
    return found
