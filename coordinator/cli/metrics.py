"""``coordinator metrics``: what Prometheus would get, for people, scripts and node_exporter's textfile folder."""

from __future__ import annotations

import click

from coordinator.cli.installation import Installation
from coordinator.cli.output import answer, json_option


@click.command("metrics", short_help="Print all metrics in Prometheus's format")
@click.option("--describe", is_flag=True, help="List the metrics and what they mean instead.")
@json_option
@click.pass_obj
def metrics(installation: Installation, describe: bool, as_json: bool) -> None:
    """Print all metrics in Prometheus's text format; the same as GET /metrics.

    With Redis or the database away the others are printed, and coordinator_up says so.
    """
    # Imported here: every command loads this file, and few need Prometheus's client.
    from coordinator.metrics import METRICS, scrape, table

    if describe:
        answer(list(METRICS.values()), as_json, table)
        return
    text = scrape(installation.records).decode()
    answer({"text": text}, as_json, lambda: text.rstrip("\n"))


command = metrics
