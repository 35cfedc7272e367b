"""What is measured: every metric with its kind, labels and meaning. The table of the docs is made from this."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"

#: Models and orgs shown by name; more would be more series than a dashboard or a Prometheus is glad of.
MOST_MODELS = 100

#: Seconds without a sign of life from which on a running job counts as stuck, and its worker's jobs as stalled.
STUCK_SECONDS, STALLED_SECONDS = 600, 5


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric.

    Attributes:
        name: as Prometheus shows it, a counter's with its suffix ``_total``.
        kind: ``gauge``, ``counter`` or ``histogram``.
        labels: their names.
        help: what it means.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def _metrics() -> Iterator[Metric]:
    queue = ("queue",)
    for name, text in (
        ("waiting", "Jobs that could start but for what they wait for"),
        ("delayed", "Jobs that are not due yet"),
        ("dispatched", "Jobs on their way to a worker, holding what they need"),
        ("active", "Jobs that run or are being stopped"),
    ):
        yield Metric(f"queue_{name}_jobs", GAUGE, queue, text)
    yield Metric(
        "queue_blocked_jobs",
        GAUGE,
        ("queue", "reason"),
        "Waiting jobs by the kind of what stops them first: model, org, queue, integration or serial",
    )
    yield Metric(
        "queue_oldest_job_age_seconds",
        GAUGE,
        queue,
        "Age of the first pending job; 0 when there is none",
    )
    yield Metric("queue_limit_jobs", GAUGE, queue, "Jobs at once that the queue's limit allows")
    yield Metric("queue_slots", GAUGE, queue, "Slots of the live workers that consume the queue")
    yield Metric("queue_workers", GAUGE, queue, "Live workers that consume the queue")
    yield Metric(
        "queue_paused",
        GAUGE,
        ("queue", "source"),
        "1 while the queue or everything is paused, by source: operator, configuration or panic",
    )
    yield Metric(
        "queue_completed_total", COUNTER, ("queue", "task"), "Jobs that ended successfully"
    )
    yield Metric(
        "queue_failed_total",
        COUNTER,
        ("queue", "task"),
        "Jobs that ended FAILED or UNPROCESSABLE; a failure that is retried is no end",
    )
    yield Metric(
        "queue_events_total",
        COUNTER,
        ("queue", "task", "event"),
        "What happened to jobs, by the audit log's verb: submitted, dispatched, started, retried, expired, ...",
    )
    yield Metric(
        "queue_blocked_total",
        COUNTER,
        ("queue", "reason"),
        "Jobs that could not start when they were submitted, by the kind of what stopped them",
    )
    for name, text in (
        ("wait_time", "From submission, or its due time, to the first start of a job"),
        ("processing_time", "How long a run took"),
        ("lock_wait", "From submission to admission, of jobs that found a model taken"),
        ("lock_hold", "For how long a job had its models, per run"),
        ("handoff", "From admission of a job to its start: for so long its models stand idle"),
    ):
        yield Metric(f"queue_{name}_seconds", HISTOGRAM, queue, text)
    yield from _shared()
    yield from _workers()
    yield from _recovery()


def _shared() -> Iterator[Metric]:
    org = ("queue", "org")
    most = f"of the {MOST_MODELS} most wanted"
    yield Metric("model_waiting_jobs", GAUGE, ("model",), f"Jobs that wait for a model, {most}")
    yield Metric("model_active_jobs", GAUGE, ("model",), f"Jobs that hold a model, {most}")
    yield Metric(
        "coordinator_resources",
        GAUGE,
        ("kind", "state"),
        "Resources by kind and state: held by a job, waited for, paused",
    )
    yield Metric("org_active_jobs", GAUGE, org, "Jobs of an org that hold a unit of its share")
    yield Metric("org_waiting_jobs", GAUGE, org, "Waiting jobs of an org")
    yield Metric("org_limit_jobs", GAUGE, org, "Jobs at once that an org's share allows")
    yield Metric("org_started_total", COUNTER, org, "Jobs of an org that started")
    yield Metric("org_completed_total", COUNTER, org, "Jobs of an org that ended successfully")
    yield Metric("org_failed_total", COUNTER, org, "Jobs of an org that failed")
    yield Metric(
        "org_wait_seconds_total", COUNTER, org, "Seconds that started jobs of an org had waited"
    )
    yield Metric(
        "coordinator_panic_state",
        GAUGE,
        ("scope", "state"),
        "1 for the state of each circuit breaker that ever opened: closed, open or half_open",
    )
    yield Metric(
        "coordinator_alert", GAUGE, ("alert", "scope", "level"), "1 for each alert that is on"
    )


def _workers() -> Iterator[Metric]:
    node = ("worker",)
    yield Metric(
        "coordinator_workers", GAUGE, ("state",), "Live workers: active, draining, idle or leaving"
    )
    yield Metric("coordinator_worker_slots", GAUGE, node, "Jobs that a worker runs at once")
    yield Metric("coordinator_worker_active_jobs", GAUGE, node, "Jobs that a worker runs")
    yield Metric(
        "coordinator_worker_heartbeat_age_seconds", GAUGE, node, "Since a worker renewed its lease"
    )
    yield Metric(
        "coordinator_worker_idle_seconds",
        GAUGE,
        node,
        "For how long a worker has taken nothing although messages wait for it",
    )
    yield Metric(
        "coordinator_worker_events_total",
        COUNTER,
        ("event",),
        "Workers that joined, left in order, or whose lease ended: worker_joined, worker_left, worker_expired",
    )
    yield Metric(
        "coordinator_duplicate_deliveries_total",
        COUNTER,
        (),
        "Messages refused at their claim: delivered twice, or the job was canceled or paused meanwhile",
    )
    yield Metric(
        "coordinator_refused_finishes_total",
        COUNTER,
        (),
        "Ends of runs that had lost their job, refused by the fencing token",
    )
    yield Metric(
        "coordinator_self_fencing_total",
        COUNTER,
        (),
        "Times that a worker lost its lease, ended its jobs and came back",
    )
    yield Metric(
        "coordinator_stuck_jobs",
        GAUGE,
        (),
        f"Running jobs without a sign of life for {STUCK_SECONDS} s",
    )
    yield Metric(
        "coordinator_stalled_jobs",
        GAUGE,
        (),
        f"Jobs of workers that have not renewed their lease for {STALLED_SECONDS} s",
    )


def _recovery() -> Iterator[Metric]:
    yield Metric(
        "coordinator_up", GAUGE, ("part",), "Whether it could be asked: redis, ledger, database"
    )
    yield Metric("coordinator_info", GAUGE, ("version",), "1, for its label")
    yield Metric(
        "coordinator_recorder_lag_seconds", GAUGE, (), "Age of the oldest event not in the database"
    )
    yield Metric(
        "coordinator_recorder_backlog_events", GAUGE, (), "Events that are not in the database"
    )
    yield Metric("coordinator_recorder_elected", GAUGE, (), "Whether some process records")
    yield Metric("coordinator_set_aside_events", GAUGE, (), "Events the database would not take")
    yield Metric("coordinator_drift", GAUGE, (), "Differences that the last verification found")
    yield Metric(
        "coordinator_verified_timestamp_seconds", GAUGE, (), "When the locks were verified last"
    )
    yield Metric("coordinator_epoch", GAUGE, (), "Lives of the ledger so far")
    yield Metric(
        "coordinator_restored_timestamp_seconds", GAUGE, (), "When the present epoch was opened"
    )
    yield Metric("coordinator_restoring", GAUGE, (), "1 while the ledger is being restored")
    yield Metric(
        "coordinator_restore_jobs",
        GAUGE,
        ("state",),
        "Of a restore under way: jobs entered, and to enter in all",
    )
    yield Metric(
        "coordinator_restore_awaited_workers", GAUGE, (), "Workers that a restore waits for"
    )
    yield Metric("coordinator_redis_memory_bytes", GAUGE, (), "Memory that Redis uses")
    yield Metric("coordinator_redis_memory_limit_bytes", GAUGE, (), "Redis's maxmemory; 0 is none")
    yield Metric(
        "coordinator_refusing_jobs", GAUGE, (), "1 while new jobs are refused since Redis is full"
    )
    yield Metric(
        "coordinator_populator_healthy", GAUGE, (), "Whether the populator's last round was fine"
    )
    yield Metric(
        "coordinator_populator_round_timestamp_seconds", GAUGE, (), "The populator's last round"
    )
    yield Metric(
        "coordinator_populator_added_jobs", GAUGE, (), "Jobs the populator added in the last hour"
    )
    yield Metric("coordinator_scrape_seconds", GAUGE, (), "How long this scrape took")


#: All of them, by name, in the order of the docs.
METRICS: dict[str, Metric] = {metric.name: metric for metric in _metrics()}


def table() -> str:
    """Return the metrics as a table of Markdown."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS.values():
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "-"
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines)
