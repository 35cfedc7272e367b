"""Footprint: what the coordinator adds to an import and to a worker that has nothing to do."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from benchmarks.figures import Bar, Metric, Row
from benchmarks.processes import ROOT
from benchmarks.workload import Case, Context, Sizes, Workload
from coordinator.store import Store

_IMPORTS = {
    "celery": "import celery.app.base, celery.app.amqp, celery.app.task, kombu.transport.redis",
    "coordinated": (
        "import celery.app.base, celery.app.amqp, celery.app.task, kombu.transport.redis\n"
        "from coordinator import coordinate"
    ),
}


def cases(_: Sizes) -> list[Case]:
    return [Case(name, name) for name in _IMPORTS]


def measure(context: Context) -> list[Row]:
    took = []
    # With its bytecode, as Celery has it from its installation: where none is written, each import compiles.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", _IMPORTS[context.case.name]]
    for _ in range(context.sizes["imports"]):
        began = time.monotonic()
        subprocess.run(command, cwd=ROOT, check=True, env=environment)
        took.append((time.monotonic() - began) * 1e3)
    row = Row(context.case.name, {"import": min(took)})
    site = context.install(2)
    if context.system.recorded:
        # As a deployment does; a process that migrates keeps Alembic, 11 MiB, until it ends.
        Store(site.store_url).upgrade()
    with site:
        site.warm_up()
        main = site.workers[0].tree()[0].memory_full_info()
        row.figures |= {
            "rss": main.rss / 2**20,
            "tree_rss": site.memory().rss,
            "tree_pss": site.memory().pss,
        }
    return [row]


WORKLOAD = Workload(
    "footprint",
    "Import time and memory",
    "The least of several imports in fresh interpreters, of Celery alone and with the coordinator. Memory "
    "of a worker with 2 processes after its warm-up: of its main process, and of the whole tree with the "
    "guard (shared pages counted in each process, and counted once). The tables are made before.",
    cases,
    (
        Metric("import", "import ms", difference=True),
        Metric("rss", "main RSS MiB", 1, difference=True),
        Metric("tree_rss", "tree RSS MiB", 1),
        Metric("tree_pss", "tree PSS MiB", 1),
    ),
    measure,
    {"imports": 5},
    {"imports": 1},
    bars=lambda _: [
        Bar("coordinated", "import", difference=True, most=150),
        Bar("coordinated", "rss", difference=True, most=15),
    ],
)
