"""The command line: ``coordinator VERB``, also ``celery -A tasks coordinator VERB``.

One file per verb or small group of them. The files import what is heavy inside their functions: Celery loads this group
with each of its own commands, every worker's included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import click

from coordinator.cli import (
    audit,
    changes,
    check,
    conflicts,
    db,
    draining,
    failures,
    health,
    jobs,
    locks,
    metrics,
    orgs,
    panic,
    pauses,
    populate,
    rates,
    restart,
    status,
    stuck,
    submit,
    trigger,
    up,
    verify,
    web,
    workers,
    workflows,
)
from coordinator.cli.installation import Installation
from coordinator.cli.output import ErrorsShown

#: What there is, in the order of the help.
HEADINGS: Mapping[str, Sequence[click.Command]] = {
    "Installation": (up.command, check.command, restart.command, db.command, web.command),
    "Work": (
        submit.command,
        trigger.command,
        *jobs.commands,
        *changes.commands,
        workflows.command,
        *populate.commands,
    ),
    "Queues": (*pauses.commands, *draining.commands),
    "Recovery": (*failures.commands, *stuck.commands),
    "Fairness": orgs.commands,
    "Panic": panic.commands,
    "Workers": workers.commands,
    "Looking": (
        *status.commands,
        *health.commands,
        locks.command,
        conflicts.command,
        *rates.commands,
        audit.command,
        metrics.command,
    ),
}


class Headed(ErrorsShown):
    """A group whose commands are listed under headings."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for heading, commands in HEADINGS.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [
                        (f"{command.name:{width}}", command.get_short_help_str(100))
                        for command in commands
                    ]
                )


# Celery registers what its entry point loads under the command's own name.
@click.group(
    "coordinator",
    cls=Headed,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-A",
    "--app",
    metavar="APP",
    help="The Celery app, as in celery -A; default: COORDINATOR_APP, or tasks if it is found.",
)
@click.version_option(package_name="celery-coordinator")
@click.pass_context
def main(ctx: click.Context, app: str | None) -> None:
    """Task orchestration on Celery for work that shares scarce things."""
    ctx.obj = Installation.of(ctx, app)


for command in chain.from_iterable(HEADINGS.values()):
    main.add_command(command)
locks.command.add_command(verify.command)
