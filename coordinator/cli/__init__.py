"""The command line: ``coordinator VERB``, also ``celery -A tasks coordinator VERB``.

One file per verb or small group of them. The files import what is heavy inside their functions: Celery loads this group
with each of its own commands, every worker's included.
"""

from __future__ import annotations

import click

from coordinator.cli import (
    audit,
    changes,
    check,
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


# Celery registers what its entry point loads under the command's own name.
@click.group(
    "coordinator",
    cls=ErrorsShown,
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


for command in (
    up.command,
    check.command,
    *status.commands,
    submit.command,
    trigger.command,
    *jobs.commands,
    *changes.commands,
    *failures.commands,
    *stuck.commands,
    *pauses.commands,
    *draining.commands,
    *orgs.commands,
    *panic.commands,
    *health.commands,
    *workers.commands,
    *populate.commands,
    restart.command,
    locks.command,
    *rates.commands,
    metrics.command,
    audit.command,
    workflows.command,
    db.command,
    web.command,
):
    main.add_command(command)
locks.command.add_command(verify.command)
