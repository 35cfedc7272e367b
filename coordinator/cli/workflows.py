"""``coordinator workflows``: look at workflows, execute them, follow and cancel executions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.changes import KWARGS
from coordinator.cli.installation import Installation
from coordinator.cli.options import (
    How,
    age,
    audited,
    cursor_option,
    limit_option,
    listed,
    page,
    short,
    worker_name,
)
from coordinator.cli.output import ErrorsShown, answer, json_option, rows
from coordinator.moments import shown_moment

if TYPE_CHECKING:
    from coordinator.operations.execution_view import Execution
    from coordinator.workflows import Plan, Workflow


@click.group(
    "workflows",
    short_help="Jobs of several steps: execute, follow, cancel",
    cls=ErrorsShown,
    invoke_without_command=True,
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Workflows: jobs of several steps that hold their models together; lists them by default."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_)


@command.command("list")
@json_option
@click.pass_obj
def list_(installation: Installation, as_json: bool = False) -> None:
    """List the workflows, with their steps and the inputs they take."""
    found = installation.records.get_workflows()
    answer(found, as_json, lambda: _table(found))


def _table(found: list[Workflow]) -> Any:
    if not found:
        return "no workflows: define some in Python, or name files in coordinator_workflows"
    return rows(
        ("workflow", "steps", "inputs", "holds", "about"),
        [
            (
                workflow.name,
                " > ".join(step.name for step in workflow.steps),
                listed(_inputs(workflow)),
                "all models" if workflow.hold == "workflow" else "each step its own",
                short(workflow.description, 60),
            )
            for workflow in found
        ],
    )


def _inputs(workflow: Workflow) -> list[str]:
    return [*workflow.required, *(f"{name}={value}" for name, value in workflow.defaults.items())]


@command.command("show")
@click.argument("name")
@json_option
@click.pass_obj
def show(installation: Installation, name: str, as_json: bool) -> None:
    """Show a workflow: what each step calls, and with what."""
    found = installation.records.get_workflow(name)
    answer(found, as_json, lambda: _definition(found))


def _definition(found: Workflow) -> Any:
    from rich.console import Group
    from rich.text import Text

    held = "all models from the first step to the last"
    if found.hold == "step":
        held = "each step holds its own models"
    elif found.hold_timeout is not None:
        held += f", for {found.hold_timeout:g} s when the next step cannot begin"
    lines = [("workflow", found.name), ("inputs", listed(_inputs(found))), ("holds", held)]
    if found.description:
        lines.insert(1, ("about", found.description))
    steps = [
        (
            number,
            step.name,
            step.task,
            listed(step.templates) if step.models is not None else "as the task declares",
            step.queue or "as routed",
            short(_arguments(step.args, step.kwargs), 80),
        )
        for number, step in enumerate(found.steps, 1)
    ]
    table = rows(("", "step", "task", "models", "queue", "arguments"), steps)
    return Group(rows(("", ""), lines), Text(), table)


def _arguments(args: Any, kwargs: Any) -> str:
    named = [f"{name}={value!r}" for name, value in kwargs.items()]
    return ", ".join([*map(repr, args), *named])


@command.command("execute")
@click.argument("name")
@click.option("--inputs", type=KWARGS, help="What it is given, a JSON object.")
@click.option("--dry-run", is_flag=True, help="Check all steps, show what they would do, and stop.")
@audited
@click.pass_obj
def execute(
    installation: Installation,
    name: str,
    inputs: dict[str, Any] | None,
    how: How,
) -> None:
    """Begin an execution of a workflow; all its steps are checked before."""
    work_queue = installation.work_queue
    if how.dry_run:
        plan = work_queue.plan_workflow(name, inputs)
        answer({"dry_run": True, "plan": plan}, how.as_json, lambda: _plan(plan))
        return
    found = work_queue.execute_workflow(name, inputs, **how.signed)
    answer(found, how.as_json, lambda: _details(found))


def _plan(plan: Plan) -> Any:
    steps = [(step.name, step.task, step.queue, listed(step.models)) for step in plan.steps]
    return rows(("step", "task", "queue", "models"), steps)


@command.command("executions")
@click.argument("execution_id", metavar="[EXECUTION]", required=False)
@click.option("--workflow", metavar="NAME", help="Only of this workflow.")
@click.option("--status", metavar="STATUS", help="Only PENDING, PROCESSING, COMPLETED ...")
@limit_option(20)
@cursor_option
@json_option
@click.pass_obj
def executions(
    installation: Installation,
    execution_id: str | None,
    workflow: str | None,
    status: str | None,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List executions, the newest first; or show one with its steps."""
    work_queue = installation.records
    if execution_id is not None:
        one = work_queue.get_execution(execution_id)
        answer(one, as_json, lambda: _details(one))
        return
    found = work_queue.get_executions(workflow=workflow, status=status, limit=limit, cursor=cursor)
    page("executions", found, as_json, lambda: _executions(found))


def _executions(found: list[Execution]) -> Any:
    if not found:
        return "no executions"
    return rows(
        ("execution", "workflow", "status", "step", "model", "age", "by", "about"),
        [
            (
                one.execution_id,
                one.workflow,
                one.status,
                f"{one.current_step} ({one.current_position} of {one.steps})",
                one.current_step_model or "-",
                age(one.queued_at),
                one.requested_by,
                short(one.error or one.conflict_reason, 60),
            )
            for one in found
        ],
    )


def _details(found: Execution) -> Any:
    from rich.console import Group
    from rich.text import Text

    lines = [
        ("execution", found.execution_id),
        ("workflow", found.workflow),
        ("status", f"{found.status} {found.state}"),
        ("models", listed(found.required_models)),
        (
            "begun",
            f"{shown_moment(found.queued_at)} by {found.requested_by} {found.reason}".rstrip(),
        ),
    ]
    if found.finished_at is not None:
        lines.append(("ended", shown_moment(found.finished_at)))
    elif found.conflict_reason:
        lines.append(("waits for", found.conflict_reason))
    if found.error:
        lines.append(("error", found.error))
    steps = [
        (
            step.position,
            step.step,
            step.status or "-",
            listed(step.models),
            step.queue,
            worker_name(step.worker) if step.worker else "-",
            step.attempts,
            short(step.error or step.result, 60),
            step.job_id,
        )
        for step in found.details
    ]
    columns = ("", "step", "status", "models", "queue", "worker", "runs", "about", "job")
    return Group(rows(("", ""), lines), Text(), rows(columns, steps))


@command.command("cancel")
@click.argument("execution_id", metavar="EXECUTION")
@audited
@click.pass_obj
def cancel(installation: Installation, execution_id: str, how: How) -> None:
    """End an execution: its present step is canceled, and no other one starts."""
    work_queue = installation.work_queue
    state = work_queue.cancel_execution(execution_id, **how.signed)
    work_queue.catch_up()
    told = {"execution_id": execution_id, "state": state}
    answer(told, how.as_json, lambda: f"{execution_id}: {state}")
