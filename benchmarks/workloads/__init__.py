"""The workloads by name."""

from __future__ import annotations

from benchmarks.workload import Workload
from benchmarks.workloads import (
    backlog,
    console,
    contended,
    fairness,
    footprint,
    handoff,
    ledger,
    producer,
    recovery,
    restore,
    scrape,
    throughput,
    wiped,
    workers,
)

WORKLOADS: dict[str, Workload] = {
    module.WORKLOAD.name: module.WORKLOAD
    for module in (
        throughput,
        producer,
        contended,
        handoff,
        backlog,
        fairness,
        recovery,
        wiped,
        restore,
        ledger,
        footprint,
        scrape,
        console,
        workers,
    )
}
