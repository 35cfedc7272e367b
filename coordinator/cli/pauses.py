"""``coordinator pause`` and ``resume``."""

from __future__ import annotations

import time

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import DURATION, How, audited, options
from coordinator.cli.output import REFUSED, answer
from coordinator.moments import shown_moment
from coordinator.resources import SERIAL_RESOURCE

what = options(
    click.argument("queue", metavar="[QUEUE]", required=False),
    click.option("--model", metavar="MODEL", help="This model."),
    click.option("--org", metavar="ORG", help="This org, on all queues or on QUEUE."),
    click.option("--integration", metavar="NAME", help="What depends on this outside system."),
    click.option("--all", "everything", is_flag=True, help="Everything."),
)


def _checked(*given: str | None, everything: bool) -> None:
    named = any(value is not None for value in given)
    if named == everything:
        raise click.UsageError("name a queue, or give --model, --org, --integration or --all")


@click.command("pause", short_help="Let nothing of a queue, a model, an org start")
@what
@click.option(
    "--for",
    "seconds",
    type=DURATION,
    metavar="DURATION",
    help="End by itself after so long, such as 2h.",
)
@audited
@click.pass_obj
def pause(
    installation: Installation,
    queue: str | None,
    model: str | None,
    org: str | None,
    integration: str | None,
    everything: bool,
    seconds: float | None,
    how: How,
) -> None:
    """Pause a queue, a model, an org, an integration or everything.

    Nothing of it starts after this has returned; what runs goes on. It outlives restarts.
    """
    from coordinator.operations.holds import way_out

    _checked(queue, model, org, integration, everything=everything)
    work_queue = installation.work_queue
    until = None if seconds is None else work_queue.ledger.clock() + int(seconds * 1000)
    resources = work_queue.pause(
        queue,
        model=model,
        org=org,
        integration=integration,
        until_ms=until,
        **how.signed,
    )
    told = {"paused": resources, "until": None if until is None else until / 1000}
    ends = "" if until is None else f" until {shown_moment(until / 1000)}"
    text = "\n".join(f"{_shown(name)} is paused{ends}; {way_out(name)}" for name in resources)
    answer(told, how.as_json, lambda: text)


@click.command("resume", short_help="End a pause")
@what
@audited
@click.pass_obj
def resume(
    installation: Installation,
    queue: str | None,
    model: str | None,
    org: str | None,
    integration: str | None,
    everything: bool,
    how: How,
) -> None:
    """End a pause; what waits starts in its turn. Exit code 1 when nothing was paused."""
    from coordinator.operations.holds import paused_text, way_out

    _checked(queue, model, org, integration, everything=everything)
    work_queue = installation.work_queue
    done = work_queue.resume(queue, model=model, org=org, integration=integration, **how.signed)
    text = "resumed" if done else "it was not paused"
    for hold in work_queue.get_holds():
        if hold.resource == SERIAL_RESOURCE and not everything:
            # Of an emergency stop the way out is not resume, which would end all of it at once.
            text += f"; {paused_text(hold)}; {way_out(hold.resource, hold.source)}"
    answer({"resumed": done, "at": time.time()}, how.as_json, lambda: text)
    if not done:
        raise click.exceptions.Exit(REFUSED)


def _shown(resource: str) -> str:
    return "everything" if resource == SERIAL_RESOURCE else resource.replace(":", " ", 1)


commands = (pause, resume)
