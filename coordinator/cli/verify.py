"""``coordinator locks verify``: the records compared, and repaired."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import How, confirm, repairing
from coordinator.cli.output import REFUSED, answer

if TYPE_CHECKING:
    from coordinator.recovery.repairs import Verification

SHOWN = 20


@click.command("verify")
@click.option("--repair", is_flag=True, help="Mend what is found.")
@repairing
@click.pass_obj
def command(installation: Installation, repair: bool, how: How) -> None:
    """Recompute the locks from the jobs, compare ledger and store, and report every difference.

    Ends with 1 when a difference is left. A repair first frees what no run holds and enters what was lost; if that does
    not do, it builds the ledger again from the store and the workers: running jobs go on with their locks, and nothing
    starts until the workers have reported.
    """
    if repair and not how.yes:
        confirm("Repair what is found, by building the ledger again if need be?")
    found = installation.work_queue.verify_locks(repair, how.reason, how.by)
    document = {
        "drift": [asdict(item) for item in found.drift],
        "mended": found.mended,
        "rebuilt": found.rebuilt,
        "left": [asdict(item) for item in found.left],
    }
    answer(document, how.as_json, lambda: _told(found, repair))
    if found.left:
        raise click.exceptions.Exit(REFUSED)


def _told(found: Verification, repair: bool) -> str:
    if not found.drift:
        return "no drift: holders, classes, parking and order follow from the jobs; ledger and store agree"
    lines = [f"{len(found.drift)} differences"]
    lines += [f"  {item}" for item in found.drift[:SHOWN]]
    if len(found.drift) > SHOWN:
        lines.append(f"  and {len(found.drift) - SHOWN} more; --json shows all")
    if not repair:
        lines.append("coordinator locks verify --repair mends them")
        return "\n".join(lines)
    if found.mended:
        lines.append("mended: " + ", ".join(f"{k} {v}" for k, v in sorted(found.mended.items())))
    if found.rebuilt:
        lines.append("the ledger was built again from the store and the workers")
    lines.append(f"{len(found.left)} differences are left")
    lines += [f"  {item}" for item in found.left[:SHOWN]]
    return "\n".join(lines)
