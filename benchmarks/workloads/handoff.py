"""Hand-off: from the end of one job to the start of the next one of the same model."""

from __future__ import annotations

from benchmarks.batch import Batch
from benchmarks.figures import Bar, Metric, Row, quantile
from benchmarks.trace import REFUSED, gaps
from benchmarks.workload import Case, Context, Sizes, Workload


def cases(_: Sizes) -> list[Case]:
    # Without locks only a worker of one process runs one job of a model at a time.
    names = ("coordinated", "coordinated-redis", "celery-lock01", "celery-lock1")
    return [Case("celery", "celery", {"slots": 1}), *(Case(name, name) for name in names)]


def measure(context: Context) -> list[Row]:
    sizes, row = context.sizes, Row(context.case.name)
    batch = Batch(sizes["jobs"], ms=sizes["ms"])
    with context.install(context.case.values.get("slots", sizes["slots"])) as site:
        site.warm_up()
        site.freeze()
        site.submit(batch, sizes["limit"])
        site.wait_recorded(sizes["limit"], idle=False)
        site.thaw()
        site.wait_ran(batch.count, sizes["limit"])
        runs = site.trace.read()
        between = gaps(runs)
        row.figures = {
            "p50": quantile(between, 0.5),
            "p95": quantile(between, 0.95),
            "p99": quantile(between, 0.99),
            "makespan": (runs[-1].ended - runs[0].began) / 1e9,
            "refused": site.trace.count(REFUSED),
        }
        context.verify(row, runs, batch.numbers, batch.model)
        site.wait_recorded(sizes["limit"])

        single, number, ran = [], batch.count, batch.count
        for pair in range(sizes["pairs"]):
            # Leaders of different length: else a retry after a fixed time would always come right, or wrong.
            share = pair / max(1, sizes["pairs"] - 1)
            ms = 50 + share * (sizes["longest"] - 50)
            site.submit(Batch(1, first=number, ms=ms))
            site.submit(Batch(1, first=number + 1, ms=1))
            ran += 2
            site.wait_ran(ran, sizes["limit"])
            runs = [run for run in site.trace.read() if run.number >= number]
            single += gaps(runs)
            number += 2
        row.figures |= {"one_p50": quantile(single, 0.5), "one_p95": quantile(single, 0.95)}
    return [row]


WORKLOAD = Workload(
    "handoff",
    "Hand-off on one model",
    "300 jobs of 20 ms of one model, 4 worker processes; plain Celery, which has no locks, with one "
    "process. Milliseconds from the end of one job to the start of the next. *One waiting*: the same with "
    "a single job waiting behind one of 50 to 990 ms, where no crowd of retries hides the delay.",
    cases,
    (
        Metric("p50", "gap p50 ms", 2, ratio=True),
        Metric("p95", "p95", 1),
        Metric("p99", "p99", 1, ratio=True),
        Metric("one_p50", "one waiting p50 ms", 2, ratio=True),
        Metric("one_p95", "p95", 1),
        Metric("makespan", "makespan s", 1),
        Metric("refused", "refused runs"),
        Metric("overlaps", "overlaps"),
        Metric("disorder", "out of order"),
    ),
    measure,
    {"jobs": 300, "ms": 20, "slots": 4, "pairs": 20, "longest": 990, "limit": 120},
    {"jobs": 40, "ms": 5, "slots": 2, "pairs": 3, "longest": 100, "limit": 60},
    bars=lambda _: [
        Bar("coordinated", "p50", ratio=True, most=1.0),
        Bar("coordinated", "p99", ratio=True, most=1.5),
        Bar("coordinated", "disorder", most=0),
    ],
)
