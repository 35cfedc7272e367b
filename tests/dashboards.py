"""Grafana's dashboards, made from the short descriptions below.

``python -m tests.dashboards`` writes ``deploy/grafana/dashboards`` anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.helpers import ROOT

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"

#: The uid of the data source, as it is provisioned.
SOURCE = {"type": "prometheus", "uid": "coordinator-prometheus"}

#: Grafana's grid has 24 columns.
COLUMNS = 24

ALL_QUEUES = 'queue=~"$queue"'


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title, kind: what it shows, and how: ``timeseries``, ``stat``, ``table`` or ``bargauge``.
        queries: legend to expression.
        unit: Grafana's name of it.
        width: in columns.
        about: for who asks what it means.
        stacked: whether the lines are stacked.
        alarm: from where on a number is red.
    """

    title: str
    kind: str
    queries: dict[str, str]
    unit: str = "short"
    width: int = 12
    about: str = ""
    stacked: bool = False
    alarm: float | None = None


@dataclass(frozen=True)
class Board:
    """One dashboard: its uid, its title, variables (name to metric and label) and rows of panels."""

    uid: str
    title: str
    variables: dict[str, tuple[str, str]]
    rows: dict[str, Sequence[Panel]]


def _quantile(share: float, metric: str, by: str, where: str = "") -> str:
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{where}[$__rate_interval])))"


def _rate(metric: str, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{where}[$__rate_interval]))"


QUEUE = {"queue": ("queue_waiting_jobs", "queue")}
ONE = f"{{{ALL_QUEUES}}}"
ORG = f'{{{ALL_QUEUES}, org=~"$org"}}'

BOARDS = (
    Board(
        "queues-overview",
        "Coordinator: queues",
        {},
        {
            "Now": (
                Panel("Waiting", "stat", {"": "sum(queue_waiting_jobs)"}, width=4),
                Panel("Active", "stat", {"": "sum(queue_active_jobs)"}, width=4),
                Panel(
                    "Completed in the last hour",
                    "stat",
                    {"": "sum(increase(queue_completed_total[1h]))"},
                    width=4,
                ),
                Panel(
                    "Failed in the last hour",
                    "stat",
                    {"": "sum(increase(queue_failed_total[1h]))"},
                    width=4,
                    alarm=1,
                ),
                Panel("Workers", "stat", {"": "sum(coordinator_workers)"}, width=4),
                Panel("Stuck", "stat", {"": "coordinator_stuck_jobs"}, width=4, alarm=1),
            ),
            "Queues": (
                Panel(
                    "Waiting jobs",
                    "timeseries",
                    {"{{queue}}": "sum by (queue) (queue_waiting_jobs)"},
                ),
                Panel(
                    "Active jobs", "timeseries", {"{{queue}}": "sum by (queue) (queue_active_jobs)"}
                ),
                Panel(
                    "Completed per second",
                    "timeseries",
                    {"{{queue}}": _rate("queue_completed_total", "queue")},
                    unit="ops",
                ),
                Panel(
                    "Share of failures",
                    "timeseries",
                    {
                        "{{queue}}": "sum by (queue) (rate(queue_failed_total[15m])) / (sum by (queue) "
                        "(rate(queue_failed_total[15m])) + sum by (queue) (rate(queue_completed_total[15m])))"
                    },
                    unit="percentunit",
                ),
                Panel(
                    "Wait, 95 % of jobs",
                    "timeseries",
                    {"{{queue}}": _quantile(0.95, "queue_wait_time_seconds", "queue")},
                    unit="s",
                    about="From submission, or its due time, to the first start.",
                ),
                Panel(
                    "Processing, 95 % of runs",
                    "timeseries",
                    {"{{queue}}": _quantile(0.95, "queue_processing_time_seconds", "queue")},
                    unit="s",
                ),
            ),
            "What stands in the way": (
                Panel(
                    "Blocked, by reason",
                    "timeseries",
                    {"{{reason}}": "sum by (reason) (queue_blocked_jobs)"},
                    stacked=True,
                ),
                Panel(
                    "Paused",
                    "table",
                    {"": "queue_paused == 1"},
                    width=6,
                    about="By an operator, the configuration or panic.",
                ),
                Panel(
                    "Alerts",
                    "table",
                    {"": "coordinator_alert == 1"},
                    width=6,
                    about="Those the coordinator raises itself (`coordinator_alerts`).",
                ),
            ),
        },
    ),
    Board(
        "queue-details",
        "Coordinator: one queue",
        QUEUE,
        {
            "Jobs": (
                Panel(
                    "Where jobs are",
                    "timeseries",
                    {
                        "waiting": f"sum(queue_waiting_jobs{ONE})",
                        "delayed": f"sum(queue_delayed_jobs{ONE})",
                        "dispatched": f"sum(queue_dispatched_jobs{ONE})",
                        "active": f"sum(queue_active_jobs{ONE})",
                    },
                    stacked=True,
                ),
                Panel(
                    "What they wait for",
                    "timeseries",
                    {"{{reason}}": f"sum by (reason) (queue_blocked_jobs{ONE})"},
                    stacked=True,
                ),
                Panel(
                    "Capacity",
                    "timeseries",
                    {
                        "slots": f"sum(queue_slots{ONE})",
                        "limit": f"sum(queue_limit_jobs{ONE})",
                        "in use": f"sum(queue_active_jobs{ONE} + queue_dispatched_jobs{ONE})",
                    },
                ),
                Panel(
                    "Oldest pending job",
                    "timeseries",
                    {"{{queue}}": f"queue_oldest_job_age_seconds{ONE}"},
                    unit="s",
                ),
            ),
            "Tasks": (
                Panel(
                    "Completed per second",
                    "timeseries",
                    {"{{task}}": _rate("queue_completed_total", "task", ONE)},
                    unit="ops",
                ),
                Panel(
                    "Failed per second",
                    "timeseries",
                    {"{{task}}": _rate("queue_failed_total", "task", ONE)},
                    unit="ops",
                ),
                Panel(
                    "What happened, per second",
                    "timeseries",
                    {"{{event}}": _rate("queue_events_total", "event", ONE)},
                    unit="ops",
                ),
                Panel(
                    "In the last hour",
                    "table",
                    {"": f"sum by (task, event) (increase(queue_events_total{ONE}[1h])) > 0"},
                ),
            ),
            "Times": tuple(
                Panel(
                    title,
                    "timeseries",
                    {
                        f"{share:.0%} of them": _quantile(share, metric, "queue", ONE)
                        for share in (0.5, 0.95, 0.99)
                    },
                    unit="s",
                )
                for title, metric in (
                    ("Wait", "queue_wait_time_seconds"),
                    ("Processing", "queue_processing_time_seconds"),
                    ("Hand-off", "queue_handoff_seconds"),
                    ("Lock wait", "queue_lock_wait_seconds"),
                )
            ),
        },
    ),
    Board(
        "queue-org-stats",
        "Coordinator: orgs",
        {**QUEUE, "org": ("org_waiting_jobs", "org")},
        {
            "Now": (
                Panel(
                    "Active, by org",
                    "timeseries",
                    {"{{queue}} {{org}}": f"org_active_jobs{ORG}"},
                    stacked=True,
                ),
                Panel(
                    "Waiting, by org",
                    "timeseries",
                    {"{{queue}} {{org}}": f"org_waiting_jobs{ORG}"},
                    stacked=True,
                ),
                Panel(
                    "Share of the limit in use",
                    "bargauge",
                    {"{{queue}} {{org}}": f"org_active_jobs{ORG} / org_limit_jobs{ORG}"},
                    unit="percentunit",
                ),
                Panel(
                    "Share of what waits",
                    "bargauge",
                    {
                        "{{queue}} {{org}}": f"org_waiting_jobs{ORG} / on(queue) group_left() "
                        f"sum by (queue) (org_waiting_jobs{ONE})"
                    },
                    unit="percentunit",
                ),
            ),
            "Over time": (
                Panel(
                    "Started per second",
                    "timeseries",
                    {"{{org}}": _rate("org_started_total", "org", ORG)},
                    unit="ops",
                    about="Fair turns: with equal weights and enough work the lines are equal.",
                ),
                Panel(
                    "Average wait",
                    "timeseries",
                    {
                        "{{org}}": f"{_rate('org_wait_seconds_total', 'org', ORG)} / "
                        f"{_rate('org_started_total', 'org', ORG)}"
                    },
                    unit="s",
                ),
                Panel(
                    "Completed per second",
                    "timeseries",
                    {"{{org}}": _rate("org_completed_total", "org", ORG)},
                    unit="ops",
                ),
                Panel(
                    "Failed per second",
                    "timeseries",
                    {"{{org}}": _rate("org_failed_total", "org", ORG)},
                    unit="ops",
                ),
            ),
        },
    ),
    Board(
        "locks-models",
        "Coordinator: locks and models",
        {"model": ("model_waiting_jobs", "model")},
        {
            "Models": (
                Panel(
                    "Most wanted",
                    "bargauge",
                    {"{{model}}": "topk(20, model_waiting_jobs > 0)"},
                    about="Waiting jobs per model.",
                ),
                Panel(
                    "Waiting for the model",
                    "timeseries",
                    {"{{model}}": 'model_waiting_jobs{model=~"$model"}'},
                ),
                Panel(
                    "Holding the model",
                    "timeseries",
                    {"{{model}}": 'model_active_jobs{model=~"$model"}'},
                ),
                Panel(
                    "Resources",
                    "timeseries",
                    {"{{kind}} {{state}}": "coordinator_resources > 0"},
                    about="Held, waited for, paused.",
                ),
            ),
            "Locks": (
                Panel(
                    "Lock wait, 95 %",
                    "timeseries",
                    {"{{queue}}": _quantile(0.95, "queue_lock_wait_seconds", "queue")},
                    unit="s",
                ),
                Panel(
                    "Lock hold, 95 %",
                    "timeseries",
                    {"{{queue}}": _quantile(0.95, "queue_lock_hold_seconds", "queue")},
                    unit="s",
                ),
                Panel(
                    "Hand-off, 99 %",
                    "timeseries",
                    {"{{queue}}": _quantile(0.99, "queue_handoff_seconds", "queue")},
                    unit="s",
                    about="From admission to start: for so long a model stands idle between two jobs.",
                ),
                Panel(
                    "Blocked at submission, per second",
                    "timeseries",
                    {"{{reason}}": _rate("queue_blocked_total", "reason")},
                    unit="ops",
                ),
            ),
        },
    ),
    Board(
        "recovery",
        "Coordinator: recovery",
        {},
        {
            "Now": (
                Panel("Redis", "stat", {"": 'coordinator_up{part="redis"}'}, width=4),
                Panel("Ledger", "stat", {"": 'coordinator_up{part="ledger"}'}, width=4),
                Panel("Database", "stat", {"": 'coordinator_up{part="database"}'}, width=4),
                Panel("Drift", "stat", {"": "coordinator_drift"}, width=4, alarm=1),
                Panel("Epoch", "stat", {"": "coordinator_epoch"}, width=4),
                Panel("Stalled jobs", "stat", {"": "coordinator_stalled_jobs"}, width=4, alarm=1),
            ),
            "Losses": (
                Panel(
                    "Lost runs and retries per second",
                    "timeseries",
                    {
                        "{{event}}": _rate(
                            "queue_events_total",
                            "event",
                            '{event=~"expired|retried|released|undelivered"}',
                        )
                    },
                    unit="ops",
                ),
                Panel(
                    "Refused per second",
                    "timeseries",
                    {
                        "duplicate deliveries": "rate(coordinator_duplicate_deliveries_total[$__rate_interval])",
                        "late finishes": "rate(coordinator_refused_finishes_total[$__rate_interval])",
                        "self-fencing": "rate(coordinator_self_fencing_total[$__rate_interval])",
                    },
                    unit="ops",
                ),
                Panel(
                    "Workers that come and go",
                    "timeseries",
                    {"{{event}}": "increase(coordinator_worker_events_total[$__rate_interval])"},
                ),
                Panel(
                    "Workers",
                    "timeseries",
                    {"{{state}}": "coordinator_workers"},
                    stacked=True,
                ),
                Panel(
                    "Since the last heartbeat",
                    "timeseries",
                    {"{{worker}}": "topk(20, coordinator_worker_heartbeat_age_seconds)"},
                    unit="s",
                ),
                Panel(
                    "Circuit breakers",
                    "table",
                    {"": "coordinator_panic_state == 1"},
                ),
            ),
            "Records": (
                Panel(
                    "Recorder's lag",
                    "timeseries",
                    {"lag": "coordinator_recorder_lag_seconds"},
                    unit="s",
                ),
                Panel(
                    "Events not recorded",
                    "timeseries",
                    {"events": "coordinator_recorder_backlog_events"},
                ),
                Panel(
                    "Restore",
                    "timeseries",
                    {
                        "{{state}}": "coordinator_restore_jobs",
                        "awaited workers": "coordinator_restore_awaited_workers",
                        "restoring": "coordinator_restoring",
                    },
                ),
                Panel(
                    "Redis's memory",
                    "timeseries",
                    {
                        "used": "coordinator_redis_memory_bytes",
                        "limit": "coordinator_redis_memory_limit_bytes",
                    },
                    unit="bytes",
                ),
                Panel(
                    "Populator: jobs added in the last hour",
                    "timeseries",
                    {
                        "added": "coordinator_populator_added_jobs",
                        "healthy": "coordinator_populator_healthy",
                    },
                ),
                Panel("Scrape", "timeseries", {"seconds": "coordinator_scrape_seconds"}, unit="s"),
            ),
        },
    ),
)


def dashboard(board: Board) -> dict[str, Any]:
    """Return a dashboard as Grafana has it."""
    return {
        "uid": board.uid,
        "title": board.title,
        "tags": ["coordinator"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_variable(name, *of) for name, of in board.variables.items()]},
        "annotations": {"list": []},
        "links": [
            {
                "type": "dashboards",
                "title": "Coordinator",
                "tags": ["coordinator"],
                "asDropdown": True,
            }
        ],
        "panels": list(_panels(board)),
    }


def _variable(name: str, metric: str, label: str) -> dict[str, Any]:
    query = f"label_values({metric}, {label})"
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "refresh": 2,
        "sort": 1,
    }


def _panels(board: Board) -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, panels in board.rows.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": COLUMNS, "x": 0, "y": top},
            "panels": [],
        }
        top, left, height = top + 1, 0, 0
        for panel in panels:
            number += 1
            tall = 4 if panel.kind == "stat" else 8
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            place = {"h": tall, "w": panel.width, "x": left, "y": top}
            left, height = left + panel.width, max(height, tall)
            yield _panel(number, panel, place)
        top += height


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    instant = panel.kind in ("table", "stat", "bargauge")
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {"fillOpacity": 20 if panel.stacked else 5, "showPoints": "never"}
        custom |= {"stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"}}
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.alarm is not None:
        steps.append({"color": "red", "value": panel.alarm})
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
                "instant": instant,
                "range": not instant,
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for index, (legend, expression) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": custom,
                "thresholds": {"mode": "absolute", "steps": steps},
            },
            "overrides": [],
        },
        "options": {},
    }


def files() -> dict[str, str]:
    """Return the text of each dashboard's file, by name."""
    return {f"{board.uid}.json": json.dumps(dashboard(board), indent=1) + "\n" for board in BOARDS}


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).write_text(text)
