"""``coordinator submit``: one job, or a file of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.changes import ARGS, KWARGS
from coordinator.cli.installation import Installation
from coordinator.cli.options import DURATION, by_option, listed, progress_bar, short
from coordinator.cli.output import REFUSED, answer, console, json_option, rows
from coordinator.cli.trigger import follow, status_table

if TYPE_CHECKING:
    from coordinator.messages.calls import Call
    from coordinator.operations.listings import JobRecord
    from coordinator.work_queue import WorkQueue


@click.command("submit", short_help="Submit a job, or those of a file")
@click.option("--task", metavar="TASK", help="One job of this task.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A JSON file of jobs: variants over a base.",
)
@click.option("--args", type=ARGS, help="Positional arguments, a JSON list.")
@click.option("--kwargs", type=KWARGS, help="Keyword arguments, a JSON object.")
@click.option("-Q", "--queue", metavar="QUEUE", help="The queue; by default as the app routes it.")
@click.option(
    "--model", "models", metavar="MODEL", multiple=True, help="A model it needs, or several."
)
@click.option("--org", metavar="ORG", help="The org it runs for.")
@click.option("--priority", type=click.IntRange(0, 9), help="0 first; 5 by default.")
@click.option("--in", "countdown", type=DURATION, metavar="DURATION", help="Not before 90s, 2h ...")
@click.option(
    "--trigger", "triggered", is_flag=True, help="Resume the queues, and watch until done."
)
@click.option("--dry-run", is_flag=True, help="Check, show what would be sent, and stop.")
@by_option
@json_option
@click.pass_obj
def command(
    installation: Installation,
    task: str | None,
    config: Path | None,
    args: list[Any] | None,
    kwargs: dict[str, Any] | None,
    queue: str | None,
    models: tuple[str, ...],
    org: str | None,
    priority: int | None,
    countdown: float | None,
    triggered: bool,
    dry_run: bool,
    by: str | None,
    as_json: bool,
) -> None:
    """Submit a job, or those of a file; all are checked before the first is sent."""
    given = {
        "args": args,
        "kwargs": kwargs,
        "queue": queue,
        "models": list(models) or None,
        "org": org,
        "priority": priority,
        "countdown": countdown,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    if (task is None) == (config is None):
        raise click.UsageError("give --task or --config")
    if config is not None and fields:
        raise click.UsageError(f"--config says everything: leave out {', '.join(fields)}")
    work_queue, app = installation.work_queue, installation.app
    calls = _calls(app, task, fields, config)
    if dry_run:
        answer({"dry_run": True, "jobs": calls}, as_json, lambda: _plan(calls))
        return
    ids = _send(app, calls)
    jobs = [work_queue.get_job(job_id) for job_id in ids]
    if not triggered:
        answer({"jobs": jobs}, as_json, lambda: _sent(jobs, work_queue))
        return
    if not as_json:
        console(sys.stderr).print(_sent(jobs, work_queue))
    statuses = _trigger(work_queue, {call.queue for call in calls}, by)
    work_queue.catch_up()
    ended = [work_queue.get_job(job_id) for job_id in ids]
    answer(
        {"jobs": ended, "queues": statuses},
        as_json,
        lambda: _results(ended, statuses),
    )
    if any(job.status != "COMPLETED" for job in ended):
        raise click.exceptions.Exit(REFUSED)


def _calls(app: Any, task: str | None, fields: dict[str, Any], config: Path | None) -> list[Call]:
    from coordinator.messages.batches import read_batch
    from coordinator.messages.calls import call_of

    # A worker does this when it starts: only then the tasks of `imports` are known.
    app.loader.import_default_modules()
    if config is not None:
        return read_batch(app, config)
    # Who has this shell may run any command anyway.
    return [call_of(app, {"task": task, **fields}, trusted=True)]


def _send(app: Any, calls: list[Call]) -> list[str]:
    from coordinator.messages.calls import send

    ids = []
    with progress_bar("submitted", len(calls)) as progress:
        for number, call in enumerate(calls, 1):
            ids.append(send(app, call))
            progress(number, len(calls))
    return ids


def _trigger(work_queue: WorkQueue, queues: set[str], by: str | None) -> list[Any]:
    from coordinator.operations.trigger import Trigger

    triggers = [Trigger(work_queue, queue) for queue in sorted(queues)]
    for trigger in triggers:
        trigger.resume(by)
    for trigger in triggers:
        trigger.check()
    return [follow(trigger, until_empty=True, timeout=None) for trigger in triggers]


def _plan(calls: list[Call]) -> Any:
    from rich.console import Group
    from rich.text import Text

    table = rows(
        ("", "task", "queue", "models", "arguments", "options"),
        [
            (
                number,
                call.task,
                call.queue,
                listed(call.models),
                short(_arguments(call), 60),
                ", ".join(
                    f"{key} {value}" for key, value in call.options.items() if key != "models"
                ),
            )
            for number, call in enumerate(calls, 1)
        ],
    )
    return Group(table, Text(f"{len(calls)} jobs are fine; nothing was sent"))


def _arguments(call: Call) -> str:
    parts = [repr(value) for value in call.args]
    return ", ".join([*parts, *(f"{name}={value!r}" for name, value in call.kwargs.items())])


def _sent(jobs: list[JobRecord], work_queue: WorkQueue) -> Any:
    lines = []
    for job in jobs[:50]:
        why = work_queue.why(job.job_id) if job.state == "waiting" else None
        about = "" if why is None else f"{why.reason} (position {why.position})"
        lines.append((job.job_id, job.task, job.queue, listed(job.models), job.state, about))
    if len(jobs) > 50:
        lines.append((f"and {len(jobs) - 50} more", "", "", "", "", ""))
    return rows(("job", "task", "queue", "models", "state", "waits for"), lines)


def _results(jobs: list[JobRecord], statuses: list[Any]) -> Any:
    from rich.console import Group
    from rich.text import Text

    table = rows(
        ("job", "task", "models", "status", "runs", "result"),
        [
            (
                job.job_id,
                job.task,
                listed(job.models),
                f"{job.status} {job.detail}".rstrip(),
                job.attempts,
                short(job.error or job.result, 60),
            )
            for job in jobs
        ],
    )
    return Group(table, Text(), status_table([("", one) for one in statuses]))
