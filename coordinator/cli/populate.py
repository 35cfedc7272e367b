"""``coordinator populate``: top the queues up, and see what was decided, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import How, age, audited
from coordinator.cli.output import REFUSED, Failure, answer, rows

if TYPE_CHECKING:
    from coordinator.populator import Population


@click.command("populate", short_help="Top up queues as the app wishes, now")
@click.option(
    "--force", is_flag=True, help="Fill up whatever stands in the way: pauses, failures before."
)
@click.option("--dry-run", is_flag=True, help="Show what would be decided, and stop.")
@click.option("--explain", is_flag=True, help="Show what was decided last, by any process.")
@click.option("--health", is_flag=True, help="Show whether it works; exit code 1 when not.")
@audited
@click.pass_obj
def populate(
    installation: Installation,
    force: bool,
    explain: bool,
    health: bool,
    how: How,
) -> None:
    """Top up queues as the app wishes, once, at once; beat has it done every two seconds."""
    from coordinator.author import default_author
    from coordinator.maintenance import populator_of

    if explain + health + (force or how.dry_run) > 1:
        raise click.UsageError("give --explain, --health, or --force and --dry-run")
    # A round does not wait for a ledger that is being restored.
    installation.records.wait_until_open()
    populator = populator_of(installation.app)
    if populator is None:
        raise Failure("no populator: set coordinator_populator to module:function")
    if health:
        found = populator.health_check()
        answer(found, how.as_json, lambda: _health(found))
        if not found["is_healthy"]:
            raise click.exceptions.Exit(REFUSED)
        return
    if explain:
        last = populator.last
        answer(last, how.as_json, lambda: _table(last))
        return
    author = how.by or default_author()
    done = populator.populate(force, how.dry_run, reason=how.reason, by=author)
    answer(done, how.as_json, lambda: _table(done))
    if done.error:
        raise click.exceptions.Exit(REFUSED)


def _health(found: dict[str, Any]) -> str:
    word = "works" if found["is_healthy"] else "does not work"
    since = age(found["last_populate_time"])
    added = found["items_added_hour"]
    return f"the populator {word}: {found['message']} (last round {since} ago, {added} jobs added in the last hour)"


def _table(done: Population) -> Any:
    from rich.console import Group
    from rich.text import Text

    title = f"{done.added} jobs added, {age(done.at or None)} ago"
    parts: list[Any] = [Text(f"{title}: {done.error}" if done.error else title)]
    if done.decisions:
        lines = []
        for one in done.decisions:
            there = f"{one.present}/{one.wanted}"
            what = one.queue, one.model or "-", there, one.submitted
            lines.append((*what, one.code, one.reason))
        columns = ("queue", "model", "there", "added", "decided", "why")
        parts.append(rows(columns, lines))
    return Group(*parts)


commands = (populate,)
