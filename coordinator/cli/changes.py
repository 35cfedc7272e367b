"""``coordinator cancel`` and ``resubmit``: what is done to single jobs."""

from __future__ import annotations

import json
from typing import Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import How, audited, bulk, bulk_options, queue_option
from coordinator.cli.output import answer


class Json(click.ParamType[Any]):
    """A JSON value of one kind.

    Args:
        kind: ``list`` or ``dict``.
        allowed: what it is, for the error.
    """

    name = "json"

    def __init__(self, kind: type, allowed: str) -> None:
        self.kind, self.allowed = kind, allowed

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            found = json.loads(value)
        except json.JSONDecodeError as error:
            self.fail(f"{value!r} is not {self.allowed}: {error}", param, ctx)
        if not isinstance(found, self.kind):
            self.fail(f"{value!r} is not {self.allowed}", param, ctx)
        return found


ARGS = Json(list, "a JSON list, such as '[1, \"a\"]'")
KWARGS = Json(dict, "a JSON object, such as '{\"epochs\": 10}'")


@click.command("cancel", short_help="Cancel jobs: these, or all that fit")
@click.argument("job_ids", metavar="[JOB]...", nargs=-1)
@queue_option
@click.option("--model", metavar="MODEL", help="All unfinished jobs that need this model.")
@click.option("--org", metavar="ORG", help="All unfinished jobs of this org.")
@click.option("--task", metavar="TASK", help="All unfinished jobs of this task.")
@bulk_options
@click.pass_obj
def cancel(
    installation: Installation,
    job_ids: tuple[str, ...],
    queue: str | None,
    model: str | None,
    org: str | None,
    task: str | None,
    how: How,
) -> None:
    """Cancel jobs: these, or all unfinished ones that fit. Running ones are stopped."""
    from coordinator.selection import Selection

    selection = Selection(queue, model, org, task)
    if bool(job_ids) == (selection != Selection()):
        raise click.UsageError("name jobs, or give --queue, --model, --org or --task")
    work_queue = installation.work_queue
    if queue is not None:
        work_queue.check_queue(queue)
    if job_ids:
        if how.dry_run:
            found = [work_queue.get_job(job_id) for job_id in job_ids]
            told = {job.job_id: job.status for job in found}
        else:
            told = {one: work_queue.cancel_job(one, **how.signed) for one in job_ids}
            work_queue.catch_up()
        answer(
            told, how.as_json, lambda: "\n".join(f"{one}: {state}" for one, state in told.items())
        )
        return
    bulk(
        lambda **done: work_queue.cancel_jobs(selection, **done),
        lambda preview: f"Cancel {preview.matched} jobs ({selection}), running ones too?",
        how,
    )


@click.command("resubmit", short_help="Bring a job that ended back, changed or not")
@click.argument("job_id", metavar="JOB")
@click.option("--args", type=ARGS, help="Its positional arguments from now on, a JSON list.")
@click.option("--kwargs", type=KWARGS, help="Keyword arguments to add or replace, a JSON object.")
@audited
@click.pass_obj
def resubmit(
    installation: Installation,
    job_id: str,
    args: list[Any] | None,
    kwargs: dict[str, Any] | None,
    how: How,
) -> None:
    """Bring a failed, unprocessable or canceled job back, with other arguments if given.

    Its retry count is kept: a job whose retries are used up runs once more.
    """
    work_queue = installation.work_queue
    state = work_queue.resubmit_job(job_id, args=args, kwargs=kwargs, **how.signed)
    work_queue.catch_up()
    why = work_queue.why(job_id)
    told = {"job_id": job_id, "state": state, "reason": why.reason if state == "waiting" else ""}
    text = f"{job_id}: {state}" + (f", {told['reason']}" if told["reason"] else "")
    answer(told, how.as_json, lambda: text)


commands = (cancel, resubmit)
