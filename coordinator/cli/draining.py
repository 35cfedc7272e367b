"""``coordinator drain`` and ``clear``: what is done to everything that waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import DURATION, How, bulk, bulk_options
from coordinator.durations import shown_duration

if TYPE_CHECKING:
    from coordinator.work_queue import WorkQueue

all_queues = click.option("--all", "everything", is_flag=True, help="All queues.")


def _check_named(work_queue: WorkQueue, queue: str | None, everything: bool) -> None:
    # No queue is not all of them: in a script, `clear $Q --yes` has none when Q is empty.
    if (queue is not None) == everything:
        raise click.UsageError("name a queue, or give --all")
    if queue is not None:
        work_queue.check_queue(queue)


@click.command("drain", short_help="Postpone or remove all that waits")
@click.argument("queue", metavar="[QUEUE]", required=False)
@all_queues
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
    if (delay is None) != remove:
        raise click.UsageError("give --delay or --remove")
    work_queue = installation.work_queue
    _check_named(work_queue, queue, everything)
    what = "Remove" if delay is None else f"Postpone by {shown_duration(delay)}"
    bulk(
        lambda **done: work_queue.drain(
            queue, delay_seconds=delay, remove=remove, model=model, org=org, **done
        ),
        lambda preview: f"{what} {preview.matched} jobs ({preview.selection})?",
        how,
    )


@click.command("clear", short_help="Cancel everything of a queue, or of all")
@click.argument("queue", metavar="[QUEUE]", required=False)
@all_queues
@bulk_options
@click.pass_obj
def clear(installation: Installation, queue: str | None, everything: bool, how: How) -> None:
    """Cancel everything that has not ended, running jobs too: of a queue, or with --all of all.

    Asks for the queue's name, or the word everything.
    """
    work_queue = installation.work_queue
    _check_named(work_queue, queue, everything)
    bulk(
        lambda **done: work_queue.clear_all(queue, **done),
        lambda preview: f"This cancels {preview.matched} jobs, and stops those that run.",
        how,
        typed="everything" if queue is None else queue,
    )


commands = (drain, clear)
