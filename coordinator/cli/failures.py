"""``coordinator failures``, ``errors``, ``retry``, ``purge``: what went wrong, and again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import (
    DURATION,
    How,
    age,
    bulk,
    bulk_options,
    limit_option,
    listed,
    queue_option,
    short,
    worker_name,
)
from coordinator.cli.output import answer, json_option, rows
from coordinator.moments import shown_moment

if TYPE_CHECKING:
    from coordinator.operations.failures import ErrorPattern, Failure

since_option = click.option(
    "--since", type=DURATION, metavar="DURATION", help="Only of the last 90s, 10m, 24h, 7d ..."
)


def since_ms(seconds: float | None) -> int:
    """Return the moment so long ago in Unix milliseconds; 0 when nothing was given."""
    return 0 if seconds is None else int((time.time() - seconds) * 1000)


@click.command("failures", short_help="List failed jobs")
@queue_option
@since_option
@click.option("--error", metavar="TEXT", help="Only those whose error contains this.")
@limit_option(20)
@json_option
@click.pass_obj
def failures(
    installation: Installation,
    queue: str | None,
    since: float | None,
    error: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List failed and unprocessable jobs, the latest first."""
    found = installation.records.get_recent_failures(
        limit, since_ms=since_ms(since), queue=queue, text=error
    )
    answer(found, as_json, lambda: _failures(found))


def _failures(found: list[Failure]) -> Any:
    if not found:
        return "nothing failed"
    return rows(
        ("job", "status", "when", "task", "queue", "models", "worker", "runs", "error"),
        [
            (
                item.id,
                item.status,
                f"{age(item.failed_at)} ago",
                item.task,
                item.queue,
                listed(item.models),
                worker_name(item.worker),
                item.attempts,
                short(item.error),
            )
            for item in found
        ],
    )


@click.command("errors", short_help="Count errors by pattern")
@queue_option
@since_option
@limit_option(20)
@json_option
@click.pass_obj
def errors(
    installation: Installation, queue: str | None, since: float | None, limit: int, as_json: bool
) -> None:
    """Count errors by pattern: messages that differ in numbers, ids, paths and quoted words only are one."""
    found = installation.records.get_error_patterns(limit, since_ms=since_ms(since), queue=queue)
    answer(found, as_json, lambda: _errors(found))


def _errors(found: list[ErrorPattern]) -> Any:
    if not found:
        return "nothing failed"
    return rows(
        ("jobs", "last", "first", "error", "for example"),
        [
            (
                item.count,
                f"{age(item.last_seen)} ago",
                shown_moment(item.first_seen),
                item.pattern,
                item.example_id,
            )
            for item in found
        ],
    )


@click.command("retry", short_help="Resubmit failed jobs: one, some or all")
@click.argument("job_id", metavar="[JOB]", required=False)
@click.option("--all", "everything", is_flag=True, help="All failed and unprocessable jobs.")
@click.option("--error", metavar="TEXT", help="Those whose error contains this.")
@queue_option
@click.option("--model", metavar="MODEL", help="Those that need this model.")
@click.option("--org", metavar="ORG", help="Those of this org.")
@bulk_options
@click.pass_obj
def retry(
    installation: Installation,
    job_id: str | None,
    everything: bool,
    error: str | None,
    queue: str | None,
    model: str | None,
    org: str | None,
    how: How,
) -> None:
    """Resubmit failed and unprocessable jobs: one, those that fit, or all."""
    filters: dict[str, Any] = {"error": error, "queue": queue, "model": model, "org": org}
    filtered = any(value is not None for value in filters.values())
    if (job_id is not None) + everything + filtered != 1:
        raise click.UsageError(
            "name a job, or give --all, or some of --error, --queue, --model, --org"
        )
    work_queue = installation.work_queue
    if queue is not None:
        work_queue.check_queue(queue)
    if job_id is not None and not how.dry_run:
        state = work_queue.resubmit_job(job_id, **how.signed)
        work_queue.catch_up()
        answer({"job_id": job_id, "state": state}, how.as_json, lambda: f"{job_id}: {state}")
        return
    bulk(
        lambda **done: work_queue.retry_failed(job_id, **filters, **done),
        lambda preview: f"Resubmit {preview.matched} failed jobs ({preview.selection})?",
        how,
    )


@click.command("purge", short_help="Forget jobs that failed long ago")
@click.option(
    "--older-than",
    type=DURATION,
    required=True,
    metavar="DURATION",
    help="Those that ended longer ago than 24h, 7d ...",
)
@queue_option
@bulk_options
@click.pass_obj
def purge(installation: Installation, older_than: float, queue: str | None, how: How) -> None:
    """Forget failed and unprocessable jobs that ended long ago; the log keeps their events."""
    work_queue = installation.work_queue
    bulk(
        lambda **done: work_queue.purge_failed_jobs(older_than / 3600, queue, **done),
        lambda preview: f"Forget {preview.matched} failed jobs ({preview.selection})?",
        how,
    )


commands = (failures, errors, retry, purge)
