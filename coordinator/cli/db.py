"""``coordinator db VERB``: the database of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import MOMENT, How, bulk_options, confirm
from coordinator.cli.output import REFUSED, ErrorsShown, answer, json_option, rows

if TYPE_CHECKING:
    from coordinator.store import Store


@click.group("db", short_help="The database: upgrade, prune, export", cls=ErrorsShown)
def command() -> None:
    """The database: its tables, what to remove from it, its log."""


def _store(installation: Installation) -> Store:
    from coordinator.recovery.records import open_store

    return open_store(installation.settings)


@command.command()
@json_option
@click.pass_obj
def upgrade(installation: Installation, as_json: bool) -> None:
    """Bring the tables to what this version needs; nothing to do when they are."""
    store = _store(installation)
    before = store.upgrade()
    found = {"database": store.shown, "before": before.current, "now": before.head}
    answer(found, as_json, lambda: rows(tuple(found), [tuple(map(str, found.values()))]))


@command.command()
@json_option
@click.pass_obj
def status(installation: Installation, as_json: bool) -> None:
    """Tell where the database stands; exit code 1 when it needs an upgrade."""
    store = _store(installation)
    known = store.status()
    found: dict[str, Any] = {
        "database": store.shown,
        "migration": known.current,
        "needed": known.head,
        "up_to_date": known.up_to_date,
    }
    if known.up_to_date:
        found |= {
            "epoch": store.epoch(),
            "jobs": store.counts(),
            "workers": len(store.live_workers()[0]),
            "poison": len(store.poison()),
        }
    answer(found, as_json, lambda: rows(("", ""), [(name, _told(found[name])) for name in found]))
    if not known.up_to_date:
        raise click.exceptions.Exit(REFUSED)


def _told(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{number} {name}" for name, number in value.items()) or "none"
    return str(value)


@command.command()
@click.option("--log-days", type=click.FloatRange(min=0), help="Age at which events go.")
@click.option("--finished-days", type=click.FloatRange(min=0), help="Age at which ended jobs go.")
@bulk_options
@click.pass_obj
def prune(
    installation: Installation, log_days: float | None, finished_days: float | None, how: How
) -> None:
    """Remove old events and old ended jobs; ages are in days, by default those of the settings."""
    from coordinator.work_queue import WorkQueue

    settings = installation.settings
    work_queue = WorkQueue(settings)
    log_days = settings.log_days if log_days is None else log_days
    finished_days = settings.finished_days if finished_days is None else finished_days
    if not how.dry_run and not how.yes:
        old = work_queue.prune(log_days, finished_days, dry_run=True)
        confirm(
            f"Remove {old.events} events and {old.jobs} ended jobs from {work_queue.store.shown}?"
        )
    gone = work_queue.prune(log_days, finished_days, dry_run=how.dry_run, **how.signed)
    answer(
        {
            "dry_run": how.dry_run,
            "log_days": log_days,
            "finished_days": finished_days,
            "removed": gone,
        },
        how.as_json,
        lambda: rows(
            ("would be removed" if how.dry_run else "removed", "number"),
            [
                ("events", gone.events),
                ("ended jobs", gone.jobs),
                ("poison events", gone.poison),
                ("workers long gone", gone.workers),
            ],
        ),
    )


@command.command()
@click.option(
    "--since", type=MOMENT, default=0, help="A time (2026-01-31T12:00, UTC) or an age (7d)."
)
@click.option("--until", type=MOMENT, default=0, help="The same; events from then on are left out.")
@click.pass_obj
def export(installation: Installation, since: int, until: int) -> None:
    """Write the log as JSON lines, oldest first."""
    for line in _store(installation).export(since, until):
        click.echo(line)
