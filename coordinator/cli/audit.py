"""``coordinator audit``: who did what, and what happened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import MOMENT, cursor_option, limit_option, page, short, worker_name
from coordinator.cli.output import json_option, rows
from coordinator.moments import shown_moment

if TYPE_CHECKING:
    from coordinator.operations.listings import AuditEntry


@click.command("audit", short_help="Show who did what, and what happened")
@click.option(
    "--event", metavar="VERB", help="paused, failed, ... or WORK_QUEUED, WORK_CLAIMED ..."
)
@click.option("--job", "job_id", metavar="JOB", help="Only of this job.")
@click.option("--resource", metavar="NAME", help="Only of this, such as queue:training.")
@click.option("--who", metavar="NAME", help="Only what this author did.")
@click.option("--since", type=MOMENT, default=0, help="A time (2026-01-31T12:00, UTC) or an age.")
@click.option("--until", type=MOMENT, default=0, help="The same; from then on is left out.")
@limit_option(50)
@cursor_option
@json_option
@click.pass_obj
def command(
    installation: Installation,
    event: str | None,
    job_id: str | None,
    resource: str | None,
    who: str | None,
    since: int,
    until: int,
    limit: int,
    cursor: str | None,
    as_json: bool,
) -> None:
    """Show the log, the newest first: every move of a job, every act of an operator."""
    found = installation.records.get_audit(
        event=event,
        job_id=job_id,
        resource=resource,
        who=who,
        since_ms=since,
        until_ms=until,
        limit=limit,
        cursor=cursor,
    )
    page("entries", found, as_json, lambda: _table(found))


def _table(found: list[AuditEntry]) -> Any:
    if not found:
        return "no such entry"
    return rows(
        ("when", "event", "job or resource", "who", "why", "before", "after"),
        [
            (
                shown_moment(entry.at),
                entry.event,
                entry.job_id or entry.resource or "-",
                worker_name(entry.who),
                short(entry.why or str(entry.data.get("error") or ""), 70),
                short(entry.before, 30),
                short(entry.after, 30),
            )
            for entry in found
        ],
    )
