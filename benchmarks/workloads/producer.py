"""Producer: what ``delay()`` costs its caller."""

from __future__ import annotations

from benchmarks.batch import Batch
from benchmarks.figures import Bar, Metric, Row
from benchmarks.workload import Case, Context, Sizes, Workload


def cases(_: Sizes) -> list[Case]:
    return [Case(name, name) for name in ("celery", "coordinated", "coordinated-redis")]


def measure(context: Context) -> list[Row]:
    calls, limit = context.sizes["calls"], context.sizes["limit"]
    row = Row(context.case.name)
    with context.install(2) as site:
        site.warm_up()
        site.freeze()
        batch = Batch(calls, models=context.sizes["models"])
        before = site.cpu()
        done = site.submit(batch, limit)
        used = site.cpu() - before
        row.figures = {
            "rate": calls / done.seconds,
            "p50": done.p50_us,
            "p99": done.p99_us,
            "cpu": done.cpu / calls * 1e6,
            "server_cpu": used.server / calls * 1e6,
        }
        site.thaw()
        site.wait_ran(calls, limit)
        site.wait_recorded(limit)
        context.verify(row, site.trace.read(), batch.numbers)
    return [row]


WORKLOAD = Workload(
    "producer",
    "Rate of delay()",
    "One process calls `delay()` as fast as it can over 100 models; workers are frozen meanwhile, the "
    "recorder (where there is one) is not.",
    cases,
    (
        Metric("rate", "calls/s", ratio=True),
        Metric("p50", "p50 us", ratio=True),
        Metric("p99", "p99 us", ratio=True),
        Metric("cpu", "producer CPU us/call"),
        Metric("server_cpu", "Redis CPU us/call"),
    ),
    measure,
    {"calls": 5_000, "models": 100, "limit": 120},
    {"calls": 200, "models": 100, "limit": 60},
    bars=lambda _: [
        Bar("coordinated", "rate", ratio=True, least=0.8),
        Bar("coordinated-redis", "rate", ratio=True, least=0.95),
    ],
)
