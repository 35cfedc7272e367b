"""Wiped: what is left of the accepted jobs when what holds them in memory forgets everything."""

from __future__ import annotations

import time

from benchmarks.batch import Batch
from benchmarks.figures import Bar, Metric, Row
from benchmarks.workload import Case, Context, Sizes, Workload


def cases(_: Sizes) -> list[Case]:
    return [Case(name, name) for name in ("celery", "coordinated", "celery-lock1")]


def measure(context: Context) -> list[Row]:
    sizes, row = context.sizes, Row(context.case.name)
    batch = Batch(sizes["jobs"], models=sizes["models"])
    with context.install(1, 1, lease=sizes["lease"]) as site:
        site.warm_up()
        site.freeze()
        site.submit(batch, sizes["limit"])
        wiped = time.monotonic()
        site.server.wipe()
        site.thaw()
        ran, changed, last = 0, time.monotonic(), wiped
        while ran < batch.count and time.monotonic() - changed < sizes["quiet"]:
            time.sleep(0.1)
            if (found := site.trace.count()) > ran:
                ran, changed = found, time.monotonic()
                last = changed
        runs = site.trace.read()
        done = len({run.number for run in runs})
        row.figures = {
            "ran": done,
            "lost": (batch.count - done) / batch.count * 100,
            "seconds": last - wiped if done == batch.count else None,
        }
        # With durability redis what is not recorded yet is lost, as its documentation says.
        if context.system.name == "coordinated":
            context.verify(row, runs, batch.numbers, batch.model)
    return [row]


WORKLOAD = Workload(
    "wiped",
    "The server forgets what was accepted",
    "1,000 no-op jobs over 10 models are accepted while two workers are frozen; then Redis is emptied (FLUSHALL: "
    "what a restart without persistence, or a failover, leaves) and the workers go on. PostgreSQL, which has no such "
    "memory, is killed and started again. What has not run when nothing ran any more for a while is lost. The "
    "coordinator's lease is as short as it may be in a test; its store is in SQLite.",
    cases,
    (
        Metric("ran", "jobs ran"),
        Metric("lost", "lost %", 1),
        Metric("seconds", "until all had run s", 1),
    ),
    measure,
    {"jobs": 1_000, "models": 10, "lease": 5.0, "quiet": 25.0, "limit": 120},
    {"jobs": 60, "models": 3, "lease": 3.0, "quiet": 12.0, "limit": 60},
    runs=1,
    together=True,
    bars=lambda _: [Bar("coordinated", "lost", most=0)],
)
