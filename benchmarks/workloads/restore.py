"""Restore: FLUSHALL with many jobs waiting, and how long until they wait again at their old places."""

from __future__ import annotations

import resource
import time
import uuid

from benchmarks.driver import QUEUE, message
from benchmarks.figures import Bar, Metric, Row
from benchmarks.servers import RedisServer
from benchmarks.workload import Case, Context, Sizes, Workload
from coordinator.jobs import Job
from coordinator.ledger import Ledger
from coordinator.recovery.restorer import Restorer
from coordinator.resources import needs_of
from coordinator.settings import Settings
from coordinator.store import Store

#: Rows written in one transaction while filling.
BATCH = 2000


def cases(sizes: Sizes) -> list[Case]:
    return [
        Case(f"{sizes['jobs']:,} waiting, {models:,} models", None, {"models": models})
        for models in sizes["models"]
    ]


def _fill(store: Store, jobs: int, models: int) -> None:
    for start in range(0, jobs, BATCH):
        batch = []
        for number in range(start, min(start + BATCH, jobs)):
            job_id, model = str(uuid.UUID(int=number, version=4)), f"model-{number % models:06d}"
            needs = needs_of(QUEUE, [model])
            # One microsecond apart, or their order would be a matter of chance.
            at_ms = 1_700_000_000_000 + number
            batch.append(
                Job(job_id, "work", QUEUE, needs, message(job_id, model), submitted_ms=at_ms)
            )
        store.insert(batch)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(context: Context) -> list[Row]:
    sizes, row = context.sizes, Row(context.case.name)
    store = Store(f"sqlite:///{context.folder / 'store.db'}")
    store.upgrade()
    _fill(store, sizes["jobs"], context.case.values["models"])
    with RedisServer(context.folder / "redis") as server:
        ledger = Ledger(server.url)
        settings = Settings(redis_url=server.url, data_dir=context.folder)
        restorer = Restorer(ledger, store, settings, lambda _: (), "benchmark")
        server.client.flushall()
        before, redis_before, began = _cpu(), server.cpu(), time.perf_counter()
        restorer.ensure_open()
        seconds, cpu, redis_cpu = (
            time.perf_counter() - began,
            _cpu() - before,
            server.cpu() - redis_before,
        )
        waiting = ledger.counts().get((QUEUE, "waiting"), 0)
        row.figures = {"seconds": seconds, "cpu": cpu, "redis": redis_cpu, "waiting": waiting}
        if waiting != sizes["jobs"]:
            row.violations.append(f"{sizes['jobs'] - waiting} of {sizes['jobs']} jobs are not back")
    store.close()
    return [row]


WORKLOAD = Workload(
    "restore",
    "Restore of waiting jobs after FLUSHALL",
    "The store (SQLite) has waiting jobs; Redis is wiped. Seconds until all wait in the ledger again, at their "
    "old places, with the CPU seconds of the process that restores and of Redis. No worker is awaited.",
    cases,
    (
        Metric("seconds", "seconds", 1),
        Metric("cpu", "CPU s", 1),
        Metric("redis", "Redis CPU s", 1),
        Metric("waiting", "waiting again"),
    ),
    measure,
    {"jobs": 100_000, "models": (1000, 100_000)},
    {"jobs": 500, "models": (10, 500)},
    runs=3,
    bars=lambda sizes: [Bar(case.name, "seconds", most=30.0) for case in cases(sizes)],
)
