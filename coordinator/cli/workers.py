"""``coordinator workers`` and ``scale``: who works here, and on how many slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import DURATION, How, audited, bulk_options, confirm, listed
from coordinator.cli.output import REFUSED, ErrorsShown, answer, json_option, rows
from coordinator.durations import shown_duration

if TYPE_CHECKING:
    from coordinator.workers import QueueScale, WorkerRecord


@click.group(
    "workers",
    short_help="List, drain, resume and forget workers",
    cls=ErrorsShown,
    invoke_without_command=True,
)
@click.option("--live", is_flag=True, help="Without those that are gone.")
@json_option
@click.pass_context
def workers(ctx: click.Context, live: bool, as_json: bool) -> None:
    """List workers: heartbeat, slots, queues, and what each has pulled, run, completed and failed.

    A worker is idle when it answers, has free slots, and takes nothing although messages wait for it.
    """
    if ctx.invoked_subcommand is not None:
        return
    found = ctx.obj.work_queue.get_workers(inactive=not live)
    answer(found, as_json, lambda: _table(found))


def _table(found: list[WorkerRecord]) -> Any:
    if not found:
        return "no worker is known; coordinator up"
    columns = ("worker", "state", "heartbeat", "queues", "running", "assigned", "completed")
    return rows(
        (*columns, "failed", "pulled", "refused", "versions"),
        [
            (
                one.node,
                f"{one.state} for {shown_duration(one.idle_seconds)}"
                if one.state == "idle"
                else one.state,
                f"{shown_duration(one.age)} ago",
                listed(one.queues),
                f"{len(one.jobs)}/{one.slots}",
                one.assigned,
                one.completed,
                one.failed,
                "-" if one.pulled is None else one.pulled,
                "-" if one.pull_failures is None else one.pull_failures,
                ", ".join(
                    f"{name} {version}"
                    for name, version in one.versions.items()
                    if name in ("python", "celery", "celery-coordinator")
                ),
            )
            for one in found
        ],
    )


@workers.command("forget")
@click.option(
    "--silent-for",
    type=DURATION,
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="Only those without a heartbeat for so long.",
)
@bulk_options
@click.pass_obj
def forget(
    installation: Installation,
    silent_for: float,
    how: How,
) -> None:
    """Forget workers that are gone."""
    work_queue = installation.work_queue
    number = work_queue.clear_inactive_workers(silent_for, dry_run=True)
    if number and not how.dry_run:
        if not how.yes:
            confirm(f"Forget {number} workers that are gone?")
        number = work_queue.clear_inactive_workers(silent_for, **how.signed)
    verb = "would be forgotten" if how.dry_run else "forgotten"
    told = {"forgotten": number, "dry_run": how.dry_run}
    answer(told, how.as_json, lambda: f"{number} workers {verb}")


@workers.command("drain")
@click.argument("node")
@audited
@click.pass_obj
def drain(installation: Installation, node: str, how: How) -> None:
    """Let a worker take nothing new; what it runs goes on, until it is resumed or restarted."""
    work_queue = installation.work_queue
    work_queue.drain_worker(node, **how.signed)
    running = [len(one.jobs) for one in work_queue.get_workers(False) if one.node == node]
    text = f"worker {node} takes nothing new, {sum(running)} jobs still run; coordinator workers resume {node}"
    answer(
        {"worker": node, "state": "draining", "running": sum(running)}, how.as_json, lambda: text
    )


@workers.command("resume")
@click.argument("node")
@audited
@click.pass_obj
def resume(installation: Installation, node: str, how: How) -> None:
    """Let a drained worker take jobs again."""
    installation.work_queue.resume_worker(node, **how.signed)
    answer(
        {"worker": node, "state": "live"}, how.as_json, lambda: f"worker {node} takes jobs again"
    )


@click.command("scale", short_help="Change the slots of the live workers of a queue")
@click.argument("queue")
@click.option("--count", type=click.IntRange(min=1), required=True, help="Slots of its workers.")
@click.option("--dry-run", is_flag=True, help="Show how the workers would share them, and stop.")
@audited
@click.pass_obj
def scale(
    installation: Installation,
    queue: str,
    count: int,
    how: How,
) -> None:
    """Change how many slots the live workers of a queue have, while they run.

    No running job is ended. Exit code 1 when some are still busy, or a worker cannot be scaled. A restarted worker
    begins with the slots it was configured with.
    """
    told = installation.work_queue.scale_queue(queue, count, dry_run=how.dry_run, **how.signed)
    answer(told, how.as_json, lambda: _scaled(told))
    if not (told.done or how.dry_run):
        raise click.exceptions.Exit(REFUSED)


def _scaled(told: QueueScale) -> str:
    shared = ", ".join(f"{node} {number}" for node, number in told.workers.items())
    verb = "would have" if told.dry_run else "has"
    now = told.wanted if told.dry_run else told.after
    lines = [f"queue {told.queue} {verb} {now} slots, before {told.before} ({shared})"]
    lines += [f"worker {node}: {error}" for node, error in told.errors.items()]
    if told.after > told.wanted and not told.dry_run:
        busy = told.after - told.wanted
        lines.append(f"{busy} are busy; call again when their jobs have ended")
    if told.limit is not None and told.limit < told.wanted:
        lines.append(
            f"its limit is {told.limit}; coordinator set-limit queue:{told.queue} {told.wanted}"
        )
    return "\n".join(lines)


commands = (workers, scale)
