"""Backlog: many jobs blocked behind one busy model; what that costs everybody else."""

from __future__ import annotations

import time

from benchmarks.batch import Batch
from benchmarks.figures import Bar, Metric, Row, quantile
from benchmarks.installation import Installation
from benchmarks.processes import LimitReached, until
from benchmarks.trace import REFUSED
from benchmarks.workload import Case, Context, Sizes, Workload

#: Milliseconds the busy model is held: longer than the run lasts.
FOREVER = 3_600_000


def cases(sizes: Sizes) -> list[Case]:
    found = [Case("celery, 0 blocked", "celery", {"blocked": 0})]
    for system, most in sizes["systems"].items():
        found += [
            Case(f"{system}, {blocked:,} blocked", system, {"blocked": blocked})
            for blocked in sizes["blocked"]
            if blocked <= most
        ]
    return found


def measure(context: Context) -> list[Row]:
    sizes, row = context.sizes, Row(context.case.name)
    blocked, probes = context.case.values["blocked"], sizes["probes"]
    with context.install(4, begin=True) as site:
        site.warm_up()
        empty = site.server.memory()
        site.submit(Batch(1, ms=FOREVER, prefix="busy"))
        until(lambda: site.trace.count("begun") > 0, 30, "the model is busy")
        if blocked:
            submitted = site.submit(Batch(blocked, first=1, prefix="busy"), sizes["fill"])
            row.figures["enqueue"] = blocked / submitted.seconds
            site.wait_recorded(sizes["fill"], idle=False)
            row.figures["bytes"] = (site.server.memory() - empty) / blocked
        # Beat's first rounds import what later ones have, and the reaper compares rows that are new for a minute.
        time.sleep(sizes["settle"])
        _idle(site, sizes["idle"], row)

        first = 2 * WIDTH
        batch = Batch(probes, first=first, models=probes, prefix="free", every=sizes["every"])
        submitted = site.submit(batch, probes * sizes["every"] + 60)
        begun: dict[int, int] = {}
        try:
            until(
                lambda: sum(run.number >= first for run in site.trace.read("begun")) >= probes,
                sizes["patience"],
                "probes",
                0.1,
            )
        except LimitReached:
            row.notes.append(f"not all probes started within {sizes['patience']:g} s")
        for run in site.trace.read("begun"):
            begun.setdefault(run.number, run.began)
        # A probe that did not start is later than all that did.
        waits = [
            (begun[number] - submitted.calls[number - first]) / 1e6
            if number in begun
            else float("inf")
            for number in batch.numbers
        ]
        for name, share in (("p50", 0.5), ("p95", 0.95)):
            value = quantile(waits, share)
            row.figures[name] = None if value == float("inf") else value
        row.figures["started"] = sum(wait < float("inf") for wait in waits)
        row.figures["rss"] = site.memory().rss
        if context.system.recorded and row.figures["started"] != probes:
            row.violations.append(f"{row.figures['started']:g} of {probes} free jobs started")
        if context.system.locked and (early := [n for n in begun if 0 < n < first]):
            row.violations.append(f"{len(early)} blocked jobs started")
    return [row]


#: Jobs of one kind are numbered apart from those of another by this.
WIDTH = 1_000_000


def _idle(site: Installation, seconds: float, row: Row) -> None:
    refused = site.trace.count(REFUSED)
    before, began = site.cpu(), time.monotonic()
    time.sleep(seconds)
    used, took = site.cpu() - before, time.monotonic() - began
    row.figures |= {
        "worker_idle": used.workers / took * 100,
        "recorder_idle": used.helpers / took * 100,
        "server_idle": used.server / took * 100,
        "idle": (used.workers + used.helpers + used.server) / took * 100,
        "refused": (site.trace.count(REFUSED) - refused) / took,
    }


def reference(row: str) -> str | None:
    return f"{row.partition(',')[0]}, 0 blocked"


def bars(sizes: Sizes) -> list[Bar]:
    row = f"coordinated, {max(sizes['blocked']):,} blocked"
    return [Bar(row, "p50", ratio=True, most=1.3), Bar(row, "idle", most=2.0)]


WORKLOAD = Workload(
    "backlog",
    "Blocked backlog behind one busy model",
    "One job holds a model (4 worker processes, so 3 are free) and so many jobs of that model wait; then 50 "
    "jobs of free models are submitted 100 ms apart. Latency from the `delay()` call to the start of the "
    "body; ratio to the same system with nothing blocked. Idle CPU in percent of one core for `idle` "
    "seconds, `settle` seconds after the last submission (the reaper compares new rows for a minute). Bytes: growth of "
    "Redis's `used_memory` per blocked job.",
    cases,
    (
        Metric("started", "free jobs started"),
        Metric("p50", "latency p50 ms", 2, ratio=True),
        Metric("p95", "p95 ms", 1),
        Metric("idle", "idle CPU %", 2),
        Metric("worker_idle", "workers %", 2),
        Metric("recorder_idle", "recorder %", 2),
        Metric("server_idle", "Redis %", 2),
        Metric("refused", "refused/s"),
        Metric("bytes", "bytes per blocked job"),
        Metric("enqueue", "enqueue/s"),
        Metric("rss", "worker RSS MiB"),
    ),
    measure,
    {
        "blocked": (0, 10_000, 100_000),
        # The recipe keeps blocked jobs in the workers' memory: at 10,000 it stands still already.
        "systems": {"coordinated": 100_000, "coordinated-redis": 100_000, "celery-lock1": 10_000},
        "probes": 50,
        "every": 0.1,
        "idle": 20.0,
        "settle": 75.0,
        "patience": 30.0,
        "fill": 900,
    },
    {
        "blocked": (0, 300),
        "systems": {"coordinated": 300, "celery-lock1": 300},
        "probes": 10,
        "every": 0.05,
        "idle": 1.0,
        "settle": 0.5,
        "patience": 3.0,
        "fill": 60,
    },
    references=reference,
    bars=bars,
)
