"""Throughput: no-op jobs, none of which stands in another one's way."""

from __future__ import annotations

from benchmarks.batch import Batch
from benchmarks.figures import Bar, Metric, Row
from benchmarks.workload import Case, Context, Sizes, Workload


def cases(_: Sizes) -> list[Case]:
    names = ("celery", "coordinated", "coordinated-redis", "celery-lock1")
    return [Case(name, name) for name in names]


def measure(context: Context) -> list[Row]:
    jobs, limit = context.sizes["jobs"], context.sizes["limit"]
    row = Row(context.case.name)
    with context.install(context.sizes["slots"]) as site:
        site.warm_up()
        full = Batch(jobs, models=jobs)
        site.freeze()
        filled = site.submit(full, limit)
        # What the recorder still has to do of the filling does not belong to the draining.
        site.wait_recorded(limit, idle=False)
        before = site.cpu()
        began = site.thaw()
        site.wait_ran(jobs, limit)
        recorded = site.wait_recorded(limit)
        used = site.cpu() - before
        runs = site.trace.read()
        ended = max(run.ended for run in runs)
        row.figures = {
            "drain": jobs / ((recorded if site.system.recorded else ended) - began) * 1e9,
            "ran": jobs / (ended - began) * 1e9,
            "enqueue": jobs / filled.seconds,
            "worker_cpu": used.workers / jobs * 1e3,
            "recorder_cpu": used.helpers / jobs * 1e3,
            "server_cpu": used.server / jobs * 1e3,
            "rss": site.memory().rss,
        }
        context.verify(row, runs, full.numbers)

        flow = Batch(jobs, first=jobs, models=jobs)
        submitted = site.submit(flow, limit)
        site.wait_ran(2 * jobs, limit)
        recorded = site.wait_recorded(limit)
        runs = [run for run in site.trace.read() if run.number >= jobs]
        ended = recorded if site.system.recorded else max(run.ended for run in runs)
        row.figures["through"] = jobs / (ended - submitted.began) * 1e9
        row.figures["lag"] = site.lag if site.system.recorded else None
        context.verify(row, runs, flow.numbers)
        if site.system.recorded and site.recorded_since_warm_up() != 2 * jobs:
            row.violations.append(f"the store has {site.recorded_since_warm_up()} of {2 * jobs}")
    return [row]


WORKLOAD = Workload(
    "throughput",
    "Uncontended throughput",
    "No-op jobs, each with a model of its own, 2 worker processes; the same result backend and prefetch "
    "everywhere. *Drain*: the queue was filled while the workers were frozen; time from their thawing to "
    "the last job's end and, with a store, to the commit of the last audit row. *Through*: from the first "
    "submit to the same end, workers running meanwhile. *Ran* is drain without waiting for the store. "
    "*Recorder lag* is the greatest age of an event that the store did not have yet, while jobs ran.",
    cases,
    (
        Metric("drain", "drain jobs/s", ratio=True),
        Metric("through", "through jobs/s", ratio=True),
        Metric("ran", "ran jobs/s", ratio=True),
        Metric("enqueue", "enqueue/s", ratio=True),
        Metric("worker_cpu", "worker CPU ms/job", 2, ratio=True),
        Metric("recorder_cpu", "recorder CPU ms/job", 2),
        Metric("lag", "recorder lag s", 2),
        Metric("server_cpu", "Redis CPU ms/job", 2),
        Metric("rss", "worker RSS MiB"),
    ),
    measure,
    {"jobs": 10_000, "slots": 2, "limit": 300},
    {"jobs": 300, "slots": 2, "limit": 60},
    bars=lambda _: (
        [
            Bar(row, metric, ratio=True, least=least)
            for row, least in (("coordinated", 1.2), ("coordinated-redis", 1.5))
            for metric in ("drain", "through")
        ]
        + [Bar(row, "lag", most=1.0) for row in ("coordinated", "coordinated-redis")]
    ),
)
