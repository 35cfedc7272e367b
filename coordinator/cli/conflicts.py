"""``coordinator conflicts``: what observe-only mode has found."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import age, confirm, limit_option, worker_name, yes_option
from coordinator.cli.output import answer, json_option, rows

if TYPE_CHECKING:
    from coordinator.observing import Conflicts


@click.command("conflicts", short_help="What would have waited, in observe-only mode")
@limit_option(10)
@click.option("--clear", is_flag=True, help="Forget what was found, and begin anew.")
@yes_option
@json_option
@click.pass_obj
def command(installation: Installation, limit: int, clear: bool, yes: bool, as_json: bool) -> None:
    """Tell which runs would have waited for a model, as seen with coordinator_mode = observe.

    Per task how many of its runs began while another run used one of their models; then which task stood in the way
    on which model; then the latest examples. Counts are kept for 30 days after the last run.
    """
    queue = installation.records
    if clear:
        if not yes:
            confirm("Forget what was observed so far?")
        queue.clear_conflicts()
    found = queue.get_conflicts()
    document = {**asdict(found), "runs": found.runs, "waited": found.waited}
    answer(document, as_json, lambda: _shown(found, limit))


def _shown(found: Conflicts, limit: int) -> Any:
    from rich.console import Group
    from rich.text import Text

    if not found.tasks and not found.refused:
        return "no run was observed: coordinator_mode = observe in the workers, and tasks that name models"
    parts: list[Any] = [Text(f"observed for {age(found.since)}")]
    parts += [Text(str(task)) for task in found.tasks[:limit]]
    parts += [
        Text(f"{one.number:,} runs of {one.task} would have been refused: {one.error}")
        for one in found.refused[:limit]
    ]
    if found.pairs:
        lines = [(one.model, one.task, one.other_task, one.number) for one in found.pairs[:limit]]
        parts += [Text(), rows(("model", "would have waited", "for", "times"), lines)]
    if found.examples:
        lines_of_examples = [
            (
                one.model,
                age(one.at),
                one.job_id,
                worker_name(one.worker),
                one.other_job_id or "-",
                worker_name(one.other_worker),
            )
            for one in found.examples[:limit]
        ]
        columns = ("model", "ago", "job", "on", "beside", "on ")
        parts += [Text(), rows(columns, lines_of_examples)]
    return Group(*parts)
