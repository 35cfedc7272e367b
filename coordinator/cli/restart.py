"""``coordinator restart NAME``: one process of ``coordinator up``, from any terminal."""

from __future__ import annotations

import click

from coordinator.cli.installation import Installation
from coordinator.cli.output import answer, json_option, rows


@click.command("restart", short_help="Restart a process of coordinator up, losing no job")
@click.argument("name")
@json_option
@click.pass_obj
def command(installation: Installation, name: str, as_json: bool) -> None:
    """Restart a process of `coordinator up` without losing jobs.

    NAME is a process (worker-training, beat, flower, redis), a queue, `worker` for all workers one
    after the other, or `populator` for the worker it runs in. What a worker has not done after six seconds goes
    back to waiting and runs again; that counts no attempt.
    """
    from coordinator.machine.processes import Processes

    processes = Processes(installation.settings.data_dir)
    restarted = [processes.restart(found) for found in processes.find(name)]
    answer(
        restarted,
        as_json,
        lambda: rows(("process", "state", "pid"), [(p.name, p.state, p.pid) for p in restarted]),
    )
