"""``coordinator health``: how each queue does, what is wrong for long, and answers for probes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import age
from coordinator.cli.output import REFUSED, answer, json_option, rows

if TYPE_CHECKING:
    from coordinator.operations.alerts import Alert
    from coordinator.operations.health import Probe, QueueHealth


@click.command("health", short_help="Show how queues do, with reasons, and alerts")
@click.argument("queue", required=False)
@click.option("--live", is_flag=True, help="Only whether anything works at all: Redis answers.")
@click.option("--ready", is_flag=True, help="Only whether jobs can be accepted and run.")
@click.option(
    "--worker", metavar="NODE", help="With --live: whether this worker has renewed its lease."
)
@click.option("--strict", is_flag=True, help="Exit code 1 for degraded queues, too.")
@json_option
@click.pass_obj
def health(
    installation: Installation,
    queue: str | None,
    live: bool,
    ready: bool,
    worker: str | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Show how queues do, with reasons, and alerts; exit code 1 when one is unhealthy.

    For probes: --live (a restart may help when it fails) and --ready (jobs should go elsewhere).
    """
    from coordinator.operations.health import DEGRADED, UNHEALTHY, worst

    if (live and ready) or (worker and not live) or (queue and (live or ready)):
        raise click.UsageError("give a queue, --live (perhaps with --worker) or --ready")
    work_queue = installation.records
    if live or ready:
        probe = work_queue.get_liveness(worker) if live else work_queue.get_readiness()
        answer(probe, as_json, lambda: _probe(probe))
        if not probe.ok:
            raise click.exceptions.Exit(REFUSED)
        return
    found = work_queue.get_queue_health(queue)
    alerts = work_queue.get_alerts()
    level = worst(one.level for one in found)
    told = {"level": level, "queues": found, "alerts": alerts}
    answer(told, as_json, lambda: _page(found, alerts))
    if level == UNHEALTHY or (strict and level == DEGRADED):
        raise click.exceptions.Exit(REFUSED)


def _probe(probe: Probe) -> str:
    return "\n".join(f"{'ok' if one.ok else 'NO'}  {one.text}" for one in probe.checks)


def _page(found: list[QueueHealth], alerts: list[Alert]) -> Any:
    from rich.console import Group
    from rich.text import Text

    lines: list[tuple[object, ...]] = []
    for one in found:
        causes = [cause.text for cause in one.causes] or [""]
        lines.append((one.queue, one.level, causes[0]))
        lines += [("", "", text) for text in causes[1:]]
    parts: list[Any] = [rows(("queue", "health", "why"), lines)]
    for alert in alerts:
        text = f"! {alert.level} for {age(alert.since)}: {alert.name}: {alert.message}"
        parts.append(Text(text, style="bold red" if alert.level == "critical" else "yellow"))
    return Group(*parts)


commands = (health,)
