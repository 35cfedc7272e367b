"""``coordinator check``: can this installation work?"""

from __future__ import annotations

import click

from coordinator.cli.installation import Installation
from coordinator.cli.output import REFUSED, answer, json_option, rows


@click.command("check", short_help="Tell whether this installation can work")
@json_option
@click.pass_obj
def command(installation: Installation, as_json: bool) -> None:
    """Tell whether this installation can work, and what to do where it cannot."""
    from coordinator.machine.check import MISSING, examine

    findings = examine(installation.name, lambda: installation.app)
    answer(
        {"ok": all(found.state != MISSING for found in findings), "findings": findings},
        as_json,
        lambda: rows(
            ("", "check", "found", "what to do"),
            [(found.state, found.name, found.found, found.remedy) for found in findings],
        ),
    )
    if any(found.state == MISSING for found in findings):
        raise click.exceptions.Exit(REFUSED)
