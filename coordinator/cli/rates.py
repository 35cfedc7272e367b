"""``coordinator throughput`` and ``slow``: how fast it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import (
    DURATION,
    limit_option,
    listed,
    queue_option,
    worker_name,
)
from coordinator.cli.output import answer, json_option, rows
from coordinator.durations import shown_duration
from coordinator.moments import shown_moment

if TYPE_CHECKING:
    from coordinator.operations.rates import SlowJob, Throughput


@click.command("throughput", short_help="Count jobs over time")
@queue_option
@click.option(
    "--since",
    type=DURATION,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="How far to look back.",
)
@click.option(
    "--every",
    type=DURATION,
    default="5m",
    show_default=True,
    metavar="DURATION",
    help="Length of a line.",
)
@json_option
@click.pass_obj
def throughput(
    installation: Installation, queue: str | None, since: float, every: float, as_json: bool
) -> None:
    """Count jobs submitted, blocked, completed, failed and retried over time; waiting and run times."""
    found = installation.records.get_throughput(since, every, queue)
    answer(found, as_json, lambda: _throughput(found))


def _throughput(found: Throughput) -> Any:
    from rich.console import Group
    from rich.text import Text

    most = max((bucket.completed for bucket in found.buckets), default=0)
    table = rows(
        ("from", "submitted", "blocked", "completed", "failed", "retried", ""),
        [
            (
                shown_moment(bucket.at),
                bucket.submitted,
                bucket.blocked,
                bucket.completed,
                bucket.failed,
                bucket.retried,
                "█" * round(20 * bucket.completed / most if most else 0),
            )
            for bucket in found.buckets
        ],
    )
    told = (
        f"{found.completed} completed in {shown_duration(found.seconds)}, "
        f"{found.per_minute:.1f} a minute; {found.failed} failed; on average "
        f"{shown_duration(found.wait_seconds)} of waiting (at most "
        f"{shown_duration(found.longest_wait_seconds)}) and {shown_duration(found.run_seconds)} of work; "
        f"{found.blocked} were blocked at first"
    )
    return Group(table, Text(told))


@click.command("slow", short_help="List the jobs whose run took longest")
@queue_option
@click.option(
    "--since",
    type=DURATION,
    default="24h",
    show_default=True,
    metavar="DURATION",
    help="How far to look back for those that have ended.",
)
@limit_option(20)
@json_option
@click.pass_obj
def slow(
    installation: Installation, queue: str | None, since: float, limit: int, as_json: bool
) -> None:
    """List the jobs whose run took longest, or takes so long already."""
    found = installation.work_queue.get_slow_jobs(limit, since, queue)
    answer(found, as_json, lambda: _slow(found))


def _slow(found: list[SlowJob]) -> Any:
    if not found:
        return "no job ran"
    return rows(
        ("job", "task", "queue", "models", "worker", "state", "run", "waited before", "runs"),
        [
            (
                job.id,
                job.task,
                job.queue,
                listed(job.models),
                worker_name(job.worker),
                job.state,
                shown_duration(job.run_seconds),
                shown_duration(job.wait_seconds),
                job.attempts,
            )
            for job in found
        ],
    )


commands = (throughput, slow)
