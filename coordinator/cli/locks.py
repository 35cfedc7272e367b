"""``coordinator locks``: who holds what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.options import age, worker_name
from coordinator.cli.output import ErrorsShown, answer, json_option, rows

if TYPE_CHECKING:
    from coordinator.ledger import Lock

KINDS = ("model", "serial", "integration", "org", "queue")


@click.group(
    "locks",
    short_help="List what is held, by whom and for how long",
    cls=ErrorsShown,
    invoke_without_command=True,
)
@click.option("--kind", type=click.Choice(KINDS), multiple=True, help="Instead of models.")
@json_option
@click.pass_context
def command(ctx: click.Context, kind: tuple[str, ...], as_json: bool) -> None:
    """List what is held, by whom and for how long, and how many jobs wait for it."""
    if ctx.invoked_subcommand is not None:
        return
    found = ctx.obj.work_queue.get_locks(kind or ("model",))
    answer(found, as_json, lambda: _table(found))


def _table(found: list[Lock]) -> Any:
    from coordinator.operations.holds import hold_of, paused_by

    if not found:
        return "nothing is held"
    lines = []
    for lock in found:
        paused = f"PAUSED {paused_by(hold_of(lock.resource, lock.hold))}" if lock.hold else ""
        holders: list[tuple[str, ...]] = [
            (
                holder.id,
                holder.task or "-",
                holder.state or "-",
                worker_name(holder.worker),
                age(None if holder.started_ms is None else holder.started_ms / 1000),
            )
            for holder in lock.holders
        ]
        for number, holder in enumerate(holders or [("-",) * 5]):
            first = (lock.resource, *holder, str(lock.waiting), paused)
            lines.append(first if number == 0 else ("", *holder, "", ""))
    return rows(("resource", "held by", "task", "state", "worker", "for", "waiting", ""), lines)
