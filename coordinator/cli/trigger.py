"""``coordinator trigger``: work a queue off in the foreground."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import DURATION, by_option
from coordinator.cli.output import answer, console, json_option, rows
from coordinator.errors import Refused

if TYPE_CHECKING:
    from coordinator.operations.trigger import QueueStatus, Trigger


@click.command("trigger", short_help="Let a queue work, and watch it")
@click.option("-Q", "--queue", required=True, metavar="QUEUE", help="The queue to work off.")
@click.option("--resume", is_flag=True, help="Resume it first if it is paused.")
@click.option(
    "--until-empty", is_flag=True, help="Until nothing is left; else until one job ended."
)
@click.option("--status-only", is_flag=True, help="Only show where it stands.")
@click.option("--timeout", type=DURATION, metavar="DURATION", help="Watch for so long at most.")
@by_option
@json_option
@click.pass_obj
def command(
    installation: Installation,
    queue: str,
    resume: bool,
    until_empty: bool,
    status_only: bool,
    timeout: float | None,
    by: str | None,
    as_json: bool,
) -> None:
    """Let the workers of a queue do one job, or all, and watch them. Ctrl-C stops the watching only.

    A paused queue is refused with exit code 1 and the way out.
    """
    from coordinator.operations.trigger import Paused, Trigger

    trigger = Trigger(installation.work_queue, queue)
    before = trigger.status()
    if status_only:
        answer(before, as_json, lambda: status_table([("now", before)]))
        return
    if not as_json:
        console(sys.stderr).print(status_table([("before", before)]))
    if resume:
        trigger.resume(by)
    try:
        trigger.check()
    except Paused as error:
        hint = ", or --resume" if trigger.resumable(error.hold) else ""
        raise Refused(f"{error}{hint}") from error
    after = follow(trigger, until_empty, timeout)
    answer(
        {"before": before, "after": after},
        as_json,
        lambda: status_table([("before", before), ("after", after)]),
    )


def follow(trigger: Trigger, until_empty: bool, timeout: float | None) -> QueueStatus:
    """Run a trigger with a progress bar; after Ctrl-C the jobs go on, and so does the command."""
    with _bar(until_empty) as tell:
        try:
            return trigger.run(until_empty, tell, timeout)
        except KeyboardInterrupt:
            click.echo("no longer watching; the jobs go on", err=True)
            return trigger.status()


@contextmanager
def _bar(until_empty: bool) -> Iterator[Callable[[QueueStatus], None]]:
    if not sys.stderr.isatty():
        yield lambda _status: None
        return
    from rich.progress import Progress

    with Progress(console=console(sys.stderr), transient=True) as progress:
        task = progress.add_task("working", total=None)

        def tell(now: QueueStatus) -> None:
            done = now.completed + now.failed
            total = done + now.total - now.delayed if until_empty else 1
            text = f"{now.running} running, {now.pending} pending, {now.failed} failed"
            progress.update(task, description=text, completed=done, total=max(1, total))

        yield tell


def status_table(lines: list[tuple[str, QueueStatus]]) -> Any:
    """Return statuses of a queue as a table."""
    return rows(
        ("", "queue", "total", "pending", "running", "completed", "failed", "queue running"),
        [
            (
                when,
                now.queue,
                now.total,
                now.pending,
                now.running,
                now.completed,
                now.failed,
                "yes" if now.queue_running else "no",
            )
            for when, now in lines
        ],
    )
