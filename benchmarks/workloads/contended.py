"""Contended: few models, many jobs; the ideal is one job per model at any time, without a pause."""

from __future__ import annotations

from benchmarks.batch import Batch
from benchmarks.figures import Bar, Metric, Row
from benchmarks.trace import REFUSED
from benchmarks.workload import Case, Context, Sizes, Workload


def cases(_: Sizes) -> list[Case]:
    names = ("celery", "coordinated", "coordinated-redis", "celery-lock01", "celery-lock1")
    return [Case(name, name) for name in names]


def measure(context: Context) -> list[Row]:
    sizes, row = context.sizes, Row(context.case.name)
    batch = Batch(sizes["jobs"], models=sizes["models"], ms=sizes["ms"])
    with context.install(sizes["slots"]) as site:
        site.warm_up()
        site.freeze()
        site.submit(batch, sizes["limit"])
        site.wait_recorded(sizes["limit"], idle=False)
        before = site.cpu()
        site.thaw()
        site.wait_ran(batch.count, sizes["limit"])
        used = site.cpu() - before
        runs = site.trace.read()
        makespan = (max(run.ended for run in runs) - runs[0].began) / 1e9
        ideal = batch.count * batch.ms / 1e3 / batch.models
        row.figures = {
            "makespan": makespan,
            "ideal": makespan / ideal,
            "refused": site.trace.count(REFUSED),
            "worker_cpu": used.workers,
            "recorder_cpu": used.helpers,
        }
        context.verify(row, runs, batch.numbers, batch.model)
        if context.system.recorded:
            site.wait_recorded(sizes["limit"])
            if site.recorded_since_warm_up() != batch.count:
                row.violations.append(f"the store has {site.recorded_since_warm_up()} jobs")
    return [row]


WORKLOAD = Workload(
    "contended",
    "Contended makespan",
    "2,000 jobs of 5 ms over 4 models with 8 worker processes; first job's start to last job's end. "
    "*Refused* runs found their model locked (wasted executions). *Out of order* jobs started after a later "
    "one of their model. Plain Celery, which has no locks, is the reference of the ratio: its overlaps "
    "are what the others must not have.",
    cases,
    (
        Metric("makespan", "makespan s", 2, ratio=True),
        Metric("ideal", "by the ideal", 2),
        Metric("refused", "refused runs"),
        Metric("overlaps", "overlaps"),
        Metric("disorder", "out of order"),
        Metric("farthest", "farthest place"),
        Metric("worker_cpu", "worker CPU s", 1),
        Metric("recorder_cpu", "recorder CPU s", 1),
    ),
    measure,
    {"jobs": 2_000, "models": 4, "ms": 5, "slots": 8, "limit": 90},
    {"jobs": 120, "models": 3, "ms": 5, "slots": 4, "limit": 60},
    bars=lambda _: [
        Bar("coordinated", "makespan", ratio=True, most=1.05),
        *(Bar("coordinated", metric, most=0) for metric in ("refused", "overlaps", "disorder")),
    ],
)
