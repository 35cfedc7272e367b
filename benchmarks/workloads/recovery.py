"""Recovery: kill -9 of a whole worker in the middle of a long job that holds a model."""

from __future__ import annotations

import time

from benchmarks.batch import Batch
from benchmarks.figures import Metric, Row
from benchmarks.installation import Installation
from benchmarks.processes import LimitReached, Program, until
from benchmarks.workload import Case, Context, Sizes, Workload


def cases(_: Sizes) -> list[Case]:
    return [Case(name, name) for name in ("celery", "coordinated", "celery-lock01", "celery-lock1")]


def _worker_of(site: Installation, pid: int) -> Program:
    for program in site.workers:
        if pid in [process.pid for process in program.tree()]:
            return program
    raise LimitReached(f"no worker has process {pid}")


def measure(context: Context) -> list[Row]:
    sizes, row = context.sizes, Row(context.case.name)
    followers = Batch(sizes["followers"], first=1, ms=10)
    with context.install(1, 1, lease=sizes["lease"], begin=True) as site:
        site.warm_up()
        site.submit(Batch(1, ms=sizes["ms"], crash=True))
        until(lambda: site.trace.count("begun") > 0, 30, "the long job runs")
        (long,) = site.trace.read("begun")
        site.submit(followers)
        time.sleep(sizes["after"])
        early = sum(run.number > 0 for run in site.trace.read("begun"))
        victim = _worker_of(site, long.pid)
        site.workers.remove(victim)
        killed = time.monotonic_ns()
        victim.kill()

        def over() -> bool:
            begun = [run for run in site.trace.read("begun") if run.began > killed]
            numbers = {run.number for run in begun}
            return numbers >= {0, *followers.numbers}

        try:
            until(over, sizes["limit"], "all jobs start again", 0.1)
        except LimitReached:
            row.notes.append(f"watched for {sizes['limit']:g} s")
        begun = [run for run in site.trace.read("begun") if run.began > killed]
        again = [run.began for run in begun if run.number == 0]
        after = (begun[0].began - killed) / 1e9 if begun else None
        row.figures = {
            "early": early,
            "next": after,
            "rerun": (again[0] - killed) / 1e9 if again else None,
            "followers": early + len({run.number for run in begun} - {0}),
        }
        if context.system.recorded and not over():
            row.violations.append(f"{len(begun)} of {followers.count + 1} jobs started after it")
        if context.system.locked and early:
            row.violations.append(f"{early} jobs of the model ran beside the long one")
    return [row]


WORKLOAD = Workload(
    "recovery",
    "kill -9 of a worker that holds a model",
    "Two workers of one process each. A job of 60 s holds the model, five more wait; 5 s later its worker "
    "is killed (main process, children and guard) and not replaced. Seconds from the kill to the next "
    "start on the model and to the second start of the killed job. Leases of 30 s, the default; the "
    "recipe's locks live for 120 s.",
    cases,
    (
        Metric("early", "followers run before"),
        Metric("next", "next job of the model s", 1, ratio=True),
        Metric("rerun", "killed job again s", 1),
        Metric("followers", "of 5 followers run"),
    ),
    measure,
    {"ms": 60_000, "followers": 5, "after": 5.0, "lease": 30.0, "limit": 150.0},
    {"ms": 60_000, "followers": 5, "after": 0.5, "lease": 2.0, "limit": 8.0},
    runs=3,
)
