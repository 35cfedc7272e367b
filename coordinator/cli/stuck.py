"""``coordinator stuck``, ``unstick``, ``remove-stuck``: jobs that hang."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import (
    DURATION,
    How,
    bulk_options,
    confirm,
    listed,
    options,
    queue_option,
    worker_name,
)
from coordinator.cli.output import REFUSED, answer, console, json_option, rows
from coordinator.durations import shown_duration
from coordinator.errors import Refused
from coordinator.moments import shown_moment

if TYPE_CHECKING:
    from coordinator.operations.failures import StuckJob
    from coordinator.work_queue import WorkQueue

threshold_option = click.option(
    "--threshold",
    type=DURATION,
    default="10m",
    show_default=True,
    metavar="DURATION",
    help="Running for so long without progress.",
)
chosen = options(
    click.argument("job_ids", metavar="[JOB]...", nargs=-1),
    click.option("--all", "everything", is_flag=True, help="All that `coordinator stuck` lists."),
    threshold_option,
    queue_option,
)


@click.command("stuck", short_help="List jobs that run without progress")
@threshold_option
@queue_option
@json_option
@click.pass_obj
def stuck(installation: Installation, threshold: float, queue: str | None, as_json: bool) -> None:
    """List jobs that run for long without telling of progress."""
    found = installation.work_queue.get_stuck_jobs(threshold, queue)
    answer(found, as_json, lambda: _table(found, threshold))


def _table(found: list[StuckJob], threshold: float) -> Any:
    if not found:
        return f"nothing runs for more than {shown_duration(threshold)} without progress"
    return rows(
        ("job", "task", "queue", "models", "worker", "claimed", "runs for", "silent", "state"),
        [
            (
                job.id,
                job.task,
                job.queue,
                listed(job.models),
                worker_name(job.worker),
                shown_moment(job.claimed_at),
                shown_duration(job.age_seconds),
                shown_duration(job.silent_seconds),
                job.state,
            )
            for job in found
        ],
    )


@click.command("unstick", short_help="Put jobs that hang back to waiting, or fail them")
@chosen
@click.option("--fail", is_flag=True, help="Move them to FAILED instead of back to waiting.")
@bulk_options
@click.pass_obj
def unstick(
    installation: Installation,
    job_ids: tuple[str, ...],
    everything: bool,
    threshold: float,
    queue: str | None,
    fail: bool,
    how: How,
) -> None:
    """Stop jobs that hang and put them back to waiting, or move them to FAILED.

    A job keeps its models until its process has ended: nobody works beside it.
    """
    work_queue = installation.work_queue
    ids = _chosen(work_queue, job_ids, everything, threshold, queue)
    act = work_queue.fail_job if fail else work_queue.release_job
    word = "moved to FAILED" if fail else "put back to waiting"
    _act(work_queue, ids, lambda one: act(one, how.reason or None, how.by), word, how)


@click.command("remove-stuck", short_help="Take jobs out by force, as a last resort")
@chosen
@bulk_options
@click.pass_obj
def remove_stuck(
    installation: Installation,
    job_ids: tuple[str, ...],
    everything: bool,
    threshold: float,
    queue: str | None,
    how: How,
) -> None:
    """Take jobs out by force, canceled, also when their process cannot be stopped.

    The last resort: their models are free at once, while what is left of the run may still write
    for a second or so. `coordinator unstick` waits until the process has ended.
    """
    work_queue = installation.work_queue
    ids = _chosen(work_queue, job_ids, everything, threshold, queue)
    word = "taken out by force"
    _act(work_queue, ids, lambda one: work_queue.remove_job(one, **how.signed), word, how)


def _chosen(
    work_queue: WorkQueue,
    job_ids: tuple[str, ...],
    everything: bool,
    threshold: float,
    queue: str | None,
) -> list[str]:
    if bool(job_ids) == everything:
        raise click.UsageError("name jobs, or give --all")
    if not everything:
        return list(job_ids)
    return [job.id for job in work_queue.get_stuck_jobs(threshold, queue)]


def _act(
    work_queue: WorkQueue,
    ids: list[str],
    act: Callable[[str], str],
    word: str,
    how: How,
) -> None:
    if not ids:
        answer({}, how.as_json, lambda: "nothing is stuck")
        return
    running = {job.id: job for job in work_queue.get_stuck_jobs(0)}
    if how.dry_run:
        told = {one: f"would be {word}" if one in running else "does not run" for one in ids}
        answer(told, how.as_json, lambda: _lines(told))
        return
    if not how.yes:
        console(sys.stderr).print(_table([running[one] for one in ids if one in running], 0))
        confirm(f"{len(ids)} jobs will be {word}. Go on?")
    told, refused = {}, False
    for one in ids:
        try:
            told[one] = act(one)
        except Refused as error:
            # One that ended by itself meanwhile must not keep the others waiting.
            told[one], refused = str(error), True
    work_queue.catch_up()
    answer(told, how.as_json, lambda: _lines(told))
    if refused:
        raise click.exceptions.Exit(REFUSED)


def _lines(told: dict[str, str]) -> str:
    return "\n".join(f"{one}: {text}" for one, text in told.items())


commands = (stuck, unstick, remove_stuck)
