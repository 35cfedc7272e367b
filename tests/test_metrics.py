"""Metrics: what a scrape tells, that totals never fall, and that Prometheus's own tools take it."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from coordinator.errors import StoreUnavailable
from coordinator.metrics import METRICS, scrape, table
from coordinator.settings import Settings
from coordinator.store import Store
from coordinator.work_queue import WorkQueue
from tests.helpers import ROOT, free_port, program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.desk import Desk
    from tests.web_site import Site

pytest_plugins = ["tests.workers", "tests.desk", "tests.web_site"]

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def promtool() -> str:
    """Return Prometheus's checker; the test is skipped without it, and fails where it is required."""
    return program("promtool", package="prometheus", required="REQUIRE_PROMTOOL")


def samples(work_queue: WorkQueue) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(scrape(work_queue).decode())
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, tuple(sorted(labels.items()))))


def test_a_scrape_tells_where_jobs_stand_and_what_they_wait_for(desk: Desk) -> None:
    first, second = desk.send("m", org="acme"), desk.send("m", org="acme")
    desk.send("other")
    desk.start(first)
    desk.queue.pause("training", by="ann")
    found = samples(desk.queue)
    queue = {"queue": "work"}
    assert value(found, "queue_active_jobs", **queue) == 1
    assert value(found, "queue_dispatched_jobs", **queue) == 1
    assert value(found, "queue_waiting_jobs", **queue) == 1
    assert value(found, "queue_blocked_jobs", **queue, reason="model") == 1
    assert value(found, "queue_blocked_jobs", **queue, reason="queue") == 0
    assert value(found, "queue_slots", **queue) == 10
    assert value(found, "queue_workers", **queue) == 1
    assert value(found, "model_waiting_jobs", model="m") == 1
    assert value(found, "model_active_jobs", model="m") == 1
    assert value(found, "model_waiting_jobs", model="other") == 0
    assert value(found, "org_active_jobs", **queue, org="acme") == 1
    assert value(found, "org_waiting_jobs", **queue, org="acme") == 1
    assert value(found, "coordinator_resources", kind="model", state="held") == 2
    assert value(found, "coordinator_resources", kind="queue", state="paused") == 1
    assert value(found, "queue_paused", queue="training", source="operator") == 1
    assert value(found, "queue_paused", queue="training", source="panic") == 0
    assert value(found, "coordinator_worker_active_jobs", worker="w") == 1
    assert value(found, "coordinator_worker_slots", worker="w") == 10
    assert value(found, "coordinator_workers", state="active") == 1
    assert value(found, "coordinator_up", part="redis") == 1
    assert value(found, "coordinator_up", part="ledger") == 1
    assert value(found, "coordinator_up", part="database") == 1
    assert value(found, "coordinator_restoring") == 0
    assert (value(found, "queue_oldest_job_age_seconds", **queue) or 0) > 0
    assert desk.state(second) == "waiting"


def test_totals_and_durations_come_from_the_database_and_outlive_what_is_pruned(desk: Desk) -> None:
    good, bad = desk.send("m", org="acme"), desk.send("m", org="acme")
    desk.end(good)
    desk.end(bad, "failed", "boom")
    desk.record()
    before = samples(desk.queue)
    labels = {"queue": "work", "task": "play"}
    assert value(before, "queue_completed_total", **labels) == 1
    assert value(before, "queue_failed_total", **labels) == 1
    assert value(before, "queue_events_total", **labels, event="started") == 2
    assert value(before, "queue_blocked_total", queue="work", reason="model") == 1
    for name in ("wait_time", "lock_hold", "handoff"):
        assert value(before, f"queue_{name}_seconds_count", queue="work") == 2, name
        assert value(before, f"queue_{name}_seconds_bucket", queue="work", le="+Inf") == 2, name
    assert value(before, "queue_lock_wait_seconds_count", queue="work") == 1
    assert value(before, "org_started_total", queue="work", org="acme") == 2
    assert value(before, "org_completed_total", queue="work", org="acme") == 1
    assert value(before, "org_failed_total", queue="work", org="acme") == 1
    gone = desk.queue.store.prune(0, 0)
    assert (gone.jobs, gone.events > 0) == (2, True)
    with redis.Redis.from_url(desk.ledger.url) as client:
        client.flushall()
    after = samples(desk.queue)
    for (name, labels_of), number in before.items():
        if METRICS.get(name) and METRICS[name].kind == "counter":
            assert after[name, labels_of] >= number, name
    assert value(after, "queue_wait_time_seconds_count", queue="work") == 2


def test_a_wiped_redis_and_one_that_is_away_are_told_from_each_other(
    desk: Desk, tmp_path: Path
) -> None:
    with redis.Redis.from_url(desk.ledger.url) as client:
        client.flushall()
    wiped = samples(desk.queue)
    assert value(wiped, "coordinator_up", part="redis") == 1
    assert value(wiped, "coordinator_up", part="ledger") == 0
    assert value(wiped, "coordinator_restoring") == 1
    away = WorkQueue(
        Settings(
            redis_url=f"redis://127.0.0.1:{free_port()}/0",
            database_url=f"sqlite:///{tmp_path}/other.db",
            data_dir=tmp_path,
        )
    )
    found = samples(away)
    assert value(found, "coordinator_up", part="redis") == 0
    assert value(found, "coordinator_up", part="database") == 1
    assert value(found, "coordinator_restoring") is None
    assert value(found, "coordinator_refused_finishes_total") == 0


def test_a_database_that_is_away_leaves_the_ledgers_metrics(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.send("m")

    def away(_: Store) -> Any:
        raise StoreUnavailable("the database is away")

    monkeypatch.setattr(Store, "totals", away)
    found = samples(desk.queue)
    assert value(found, "coordinator_up", part="database") == 0
    assert value(found, "queue_dispatched_jobs", queue="work") == 1


def test_breakers_and_alerts_are_told(desk: Desk) -> None:
    desk.queue.open_panic("queue:work", reason="test", by="ann")
    desk.queue.store.set_condition("alert", "queue_depth:work", "critical", 1, {"value": 2000})
    found = samples(desk.queue)
    scope = {"scope": "queue:work"}
    assert value(found, "coordinator_panic_state", **scope, state="open") == 1
    assert value(found, "coordinator_panic_state", **scope, state="closed") == 0
    assert value(found, "queue_paused", queue="work", source="panic") == 1
    name = {"alert": "queue_depth", "scope": "work", "level": "critical"}
    assert value(found, "coordinator_alert", **name) == 1


def test_what_was_verified_and_what_is_not_recorded_is_told(desk: Desk) -> None:
    desk.send("m")
    desk.ledger.note_drift(3)
    found = samples(desk.queue)
    assert value(found, "coordinator_drift") == 3
    assert (value(found, "coordinator_recorder_backlog_events") or 0) >= 2
    assert (value(found, "coordinator_recorder_lag_seconds") or -1) >= 0
    desk.record()
    assert value(samples(desk.queue), "coordinator_recorder_backlog_events") == 0


def test_every_metric_of_a_scrape_is_documented_and_every_documented_one_is_there(
    desk: Desk,
) -> None:
    text = scrape(desk.queue).decode()
    told = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert told == {name: metric.kind for name, metric in METRICS.items()}
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert table() in page, "docs/metrics.md: coordinator metrics --describe prints its table"


def test_promtool_has_nothing_to_say_against_it(desk: Desk) -> None:
    program = promtool()
    desk.end(desk.send("m", org="acme"))
    desk.record()
    done = subprocess.run(
        [program, "check", "metrics"], input=scrape(desk.queue), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout.decode(), done.stderr.decode()) == (0, "", "")


def test_prometheus_gets_it_with_a_viewers_token_only(site: Site) -> None:
    assert site.ask("GET", "/metrics", scope="").status_code == 401
    answer = site.ask("GET", "/metrics", scope="viewer")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'coordinator_up{part="database"} 1.0' in answer.text
