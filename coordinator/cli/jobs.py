"""``coordinator jobs``, ``job``, ``why``: where jobs stand."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import (
    age,
    cursor_option,
    limit_option,
    listed,
    page,
    queue_option,
    short,
    worker_name,
)
from coordinator.cli.output import answer, json_option, rows
from coordinator.errors import LedgerUnavailable
from coordinator.moments import shown_moment
from coordinator.progress_text import progress_text

if TYPE_CHECKING:
    from coordinator.operations.listings import AuditEntry, JobRecord
    from coordinator.operations.why import Why
    from coordinator.work_queue import WorkQueue


@click.command("jobs", short_help="List jobs")
@click.option("--status", metavar="STATUS", help="PENDING, PROCESSING, COMPLETED, FAILED ...")
@queue_option
@click.option("--model", metavar="MODEL", help="Only jobs that need this model.")
@click.option("--org", metavar="ORG", help="Only jobs of this org.")
@click.option("--text", metavar="TEXT", help="Only jobs with this in id, task, arguments or error.")
@click.option("--oldest", is_flag=True, help="The oldest first.")
@limit_option(50)
@cursor_option
@json_option
@click.pass_obj
def jobs(
    installation: Installation,
    status: str | None,
    queue: str | None,
    model: str | None,
    org: str | None,
    text: str | None,
    oldest: bool,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """List jobs, the newest first."""
    found = installation.records.get_jobs(
        status=status,
        queue=queue,
        model=model,
        org=org,
        text=text,
        limit=limit,
        cursor=cursor,
        oldest_first=oldest,
    )
    page("jobs", found, as_json, lambda: _table(found))


def _table(found: list[JobRecord]) -> Any:
    if not found:
        return "no such job"
    return rows(
        ("job", "status", "task", "queue", "models", "org", "worker", "age", "runs", "about"),
        [
            (
                job.job_id,
                _status(job),
                job.task,
                job.queue,
                listed(job.models),
                job.org or "-",
                worker_name(job.worker) if job.worker else "-",
                age(job.queued_at),
                job.attempts,
                short(job.error or (job.conflict_reason if job.state == "waiting" else ""), 60),
            )
            for job in found
        ],
    )


def _status(job: JobRecord) -> str:
    return f"{job.status} {job.detail}".rstrip()


@click.command("job", short_help="Show one job and all that happened to it")
@click.argument("job_id", metavar="JOB")
@json_option
@click.pass_obj
def job(installation: Installation, job_id: str, as_json: bool) -> None:
    """Show one job: where it stands, what it needs, all that happened to it."""
    work_queue = installation.records
    found, history = work_queue.get_job(job_id), work_queue.get_history(job_id)
    why = _why_not(work_queue, job_id) if found.finished_at is None else None
    answer(
        {"job": found, "events": history, "why": why},
        as_json,
        lambda: _details(found, history, why),
    )


def _why_not(work_queue: WorkQueue, job_id: str) -> Why | None:
    try:
        return work_queue.why(job_id)
    except LedgerUnavailable as error:
        click.echo(f"coordinator: {error}", err=True)
        return None


def _details(found: JobRecord, history: list[AuditEntry], why: Why | None) -> Any:
    from rich.console import Group
    from rich.text import Text

    lines = [
        ("job", found.job_id),
        ("status", _status(found)),
        ("task", f"{found.task} {found.args} {found.kwargs}".rstrip()),
        ("queue", f"{found.queue}, priority {found.priority}"),
        ("models", listed(found.models)),
        ("org", found.org or "-"),
        ("submitted", f"{shown_moment(found.queued_at)} ({age(found.queued_at)} ago)"),
    ]
    if found.due_at is not None and found.state == "delayed":
        lines.append(("due", shown_moment(found.due_at)))
    if found.started_at is not None:
        lines.append(
            ("started", f"{shown_moment(found.started_at)} on {worker_name(found.worker)}")
        )
    if found.finished_at is not None:
        lines.append(("ended", shown_moment(found.finished_at)))
    retries = f"retry {found.retries} of {_most(found.max_retries)}"
    lost = f"{found.losses} lost with their worker"
    lines.append(("runs", f"{found.attempts} begun, {retries}, {lost}"))
    if found.progress:
        lines.append(("progress", progress_text(found.progress)))
    if why is not None and why.state == "waiting":
        lines += [("waits for", why.reason), ("way out", why.remedy)]
    if found.error:
        lines.append(("error", found.error))
    if found.result is not None:
        lines.append(("result", found.result))
    events = rows(
        ("when", "event", "who", "why"),
        [
            (shown_moment(entry.at), entry.event, worker_name(entry.who), short(_about(entry), 90))
            for entry in history
        ],
    )
    return Group(rows(("", ""), lines), Text(), events)


def _about(entry: AuditEntry) -> str:
    return entry.why or str(entry.data.get("error") or "")


def _most(retries: int) -> str:
    return "any number" if retries < 0 else str(retries)


@click.command("why", short_help="Say why a job does not run now")
@click.argument("job_id", metavar="JOB")
@json_option
@click.pass_obj
def why(installation: Installation, job_id: str, as_json: bool) -> None:
    """Say why a job does not run now, who holds what it needs, and what would let it go on."""
    found = installation.work_queue.why(job_id)
    answer(found, as_json, lambda: _why(found))


def _why(found: Why) -> Any:
    lines = [("job", found.job_id), ("state", found.state)]
    if found.state == "waiting":
        lines += [("because", found.reason), ("position", str(found.position or "-"))]
        for obstacle in found.obstacles[1:]:
            lines.append(("and", f"{obstacle.resource}: {obstacle.code}"))
        for obstacle in found.obstacles:
            for holder in obstacle.holders:
                since = None if holder.started_ms is None else holder.started_ms / 1000
                text = f"{obstacle.resource} by {holder.id}"
                text += f" ({holder.task}, {worker_name(holder.worker)}, for {age(since)})"
                lines.append(("held", text))
        lines.append(("way out", found.remedy))
    else:
        lines.append(("because", found.reason or f"the job is {found.state}"))
    if found.expected_start_ms:
        ahead = max(0.0, found.expected_start_ms / 1000 - time.time())
        lines.append(
            ("expected", f"{shown_moment(found.expected_start_ms / 1000)} (in {ahead:.0f} s)")
        )
    return rows(("", ""), lines)


commands = (jobs, job, why)
