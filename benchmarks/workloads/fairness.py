"""Fairness: a small org behind a large one."""

from __future__ import annotations

from benchmarks.batch import Batch
from benchmarks.figures import Bar, Metric, Row
from benchmarks.workload import Case, Context, Sizes, Workload


def cases(_: Sizes) -> list[Case]:
    return [Case(name, name) for name in ("celery", "coordinated", "coordinated-redis")]


def measure(context: Context) -> list[Row]:
    sizes, row = context.sizes, Row(context.case.name)
    many, few, limit = sizes["many"], sizes["few"], sizes["limit"]
    large = Batch(many, models=many, prefix="x", ms=sizes["ms"], org="X")
    small = Batch(few, first=many, models=few, prefix="y", ms=sizes["ms"], org="Y")
    with context.install(sizes["slots"]) as site:
        site.warm_up()
        site.freeze()
        site.submit(large, limit)
        site.submit(small, limit)
        site.wait_recorded(limit, idle=False)
        began = site.thaw()
        site.wait_ran(many + few, limit)
        runs = site.trace.read()
        last = max(place for place, run in enumerate(runs) if run.number in small.numbers)
        first = min(place for place, run in enumerate(runs) if run.number in small.numbers)
        row.figures = {
            "starts": last + 1,
            "first": first + 1,
            "y_last": (runs[last].began - began) / 1e9,
            "x_last": (max(r.began for r in runs if r.number in large.numbers) - began) / 1e9,
        }
        context.verify(row, runs, range(many + few))
        site.wait_recorded(limit)
    return [row]


WORKLOAD = Workload(
    "fairness",
    "A small org behind a large one",
    "5,000 jobs of 5 ms of org X are queued, then 50 of org Y; 4 worker processes, every job with its own "
    "model. *Starts* counts the starts, of both orgs, until the last job of Y has started.",
    cases,
    (
        Metric("starts", "starts until Y's last", ratio=True),
        Metric("first", "until Y's first"),
        Metric("y_last", "Y's last start s", 2, ratio=True),
        Metric("x_last", "X's last start s", 2, ratio=True),
    ),
    measure,
    {"many": 5_000, "few": 50, "ms": 5, "slots": 4, "limit": 120},
    {"many": 200, "few": 10, "ms": 2, "slots": 2, "limit": 60},
    bars=lambda sizes: [Bar("coordinated", "starts", most=3 * sizes["few"])],
)
