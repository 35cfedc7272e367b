"""``coordinator drain`` and ``clear``: what is done to everything that waits."""

from __future__ import annotations

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import DURATION, How, bulk, bulk_options
from coordinator.durations import shown_duration


@click.command("drain")
@click.argument("queue", metavar="[QUEUE]", required=False)
@click.option("--all", "everything", is_flag=True, help="All queues.")
@click.option("--model", metavar="MODEL", help="Only jobs that need this model.")
@click.option("--org", metavar="ORG", help="Only jobs of this org.")
@click.option(
    "--delay", type=DURATION, metavar="DURATION", help="Postpone them by 90s, 2h, 24h ..."
)
@click.option("--remove", is_flag=True, help="Cancel them instead.")
@bulk_options
@click.pass_obj
def drain(
    installation: Installation,
    queue: str | None,
    everything: bool,
    model: str | None,
    org: str | None,
    delay: float | None,
    remove: bool,
    how: How,
) -> None:
    """Postpone or remove all that waits; what runs goes on, and so does what comes later."""
    if (queue is not None) == everything:
        raise click.UsageError("name a queue, or give --all")
    if (delay is None) != remove:
        raise click.UsageError("give --delay or --remove")
    work_queue = installation.work_queue
    if queue is not None:
        work_queue.check_queue(queue)
    what = "Remove" if delay is None else f"Postpone by {shown_duration(delay)}"
    bulk(
        lambda **done: work_queue.drain(
            queue, delay_seconds=delay, remove=remove, model=model, org=org, **done
        ),
        lambda preview: f"{what} {preview.matched} jobs ({preview.selection})?",
        how,
    )


@click.command("clear")
@click.argument("queue", metavar="[QUEUE]", required=False)
@bulk_options
@click.pass_obj
def clear(installation: Installation, queue: str | None, how: How) -> None:
    """Cancel everything that has not ended, running jobs too: of a queue, or of all.

    Asks for the queue's name, or the word everything.
    """
    work_queue = installation.work_queue
    if queue is not None:
        work_queue.check_queue(queue)
    bulk(
        lambda **done: work_queue.clear_all(queue, **done),
        lambda preview: f"This cancels {preview.matched} jobs, and stops those that run.",
        how,
        typed=queue or "everything",
    )


commands = (drain, clear)
