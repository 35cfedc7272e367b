"""The producer of the Celery systems: one process that submits what it is told, one job after the other.

Reads one batch (JSON) per line from standard input and answers each with one line: what it measured. A
producer of another system does the same with that system's ordinary call.
"""

from __future__ import annotations

import cProfile
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.batch import Batch, Submitted
from benchmarks.figures import quantile

#: Starts of single calls are told up to this number of jobs.
DETAILS = 1000


def submit(batch: Batch, call: Callable[[Batch, int], None]) -> Submitted:
    """Submit a batch and measure every call."""
    starts, took = [], []
    cpu = time.process_time()
    due = time.monotonic_ns()
    for number in batch.numbers:
        if batch.every:
            while (left := due - time.monotonic_ns()) > 0:
                time.sleep(left / 1e9)
            due += int(batch.every * 1e9)
        start = time.monotonic_ns()
        call(batch, number)
        took.append(time.monotonic_ns() - start)
        starts.append(start)
    return Submitted(
        began=starts[0],
        ended=starts[-1] + took[-1],
        calls=starts if batch.count <= DETAILS else [],
        p50_us=quantile(took, 0.5) / 1e3,
        p99_us=quantile(took, 0.99) / 1e3,
        cpu=time.process_time() - cpu,
    )


def serve(call: Callable[[Batch, int], None]) -> None:
    """Answer batches until standard input ends."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(asdict(submit(Batch(**json.loads(line)), call))), flush=True)


def main() -> None:
    from benchmarks.tasks_app import TASKS

    work, work_for, crash = TASKS["work"], TASKS["work_for"], TASKS["crash"]

    def call(batch: Batch, number: int) -> None:
        if batch.org is not None:
            work_for.delay(number, batch.model(number), batch.ms, batch.org)
        elif batch.crash:
            crash.delay(number, batch.model(number), batch.ms)
        else:
            work.delay(number, batch.model(number), batch.ms)

    folder = os.environ.get("BENCH_PROFILE")
    if not folder:
        serve(call)
        return
    profile = cProfile.Profile()
    profile.runcall(serve, call)
    profile.dump_stats(Path(folder) / f"producer-{os.getpid()}.prof")


if __name__ == "__main__":
    main()
