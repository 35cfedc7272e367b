"""What the Python peers have in common: the body of the jobs, one process per slot, and the producer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.batch import Batch
from benchmarks.producer import serve
from benchmarks.trace import BEGUN, RAN, REFUSED, Writer

URL = os.environ["BENCH_BROKER"]
FOLDER = Path(os.environ["BENCH_FOLDER"])
#: Whether jobs of one model exclude each other, by whatever the peer has.
LOCK = os.environ["BENCH_LOCK"] == "1"
BEGIN = os.environ.get("BENCH_BEGIN") == "1"
QUEUE = "bench"

#: How long a lock of a recipe outlives a worker that died, in seconds.
LOCK_TTL = 120

writer = Writer(FOLDER / "trace")

#: number, model, milliseconds, whether to sleep in the first run only
Call = Callable[[int, str, float, bool], object]


def run(number: int, ms: float, crash: bool) -> None:
    """Sleep for ``ms`` milliseconds and write down when; one that may crash sleeps in its first run only."""
    began = time.monotonic_ns()
    if BEGIN:
        writer.write(BEGUN, number, began)
    mark = FOLDER / f"crash-{number}"
    if crash and mark.exists():
        ms = 0
    elif crash:
        mark.touch()
    if ms:
        time.sleep(ms / 1000)
    writer.write(RAN, number, began)


def refused(number: int) -> None:
    """Write down that a job found its model locked."""
    writer.write(REFUSED, number, time.monotonic_ns())


def ready(name: str) -> None:
    (FOLDER / "ready" / name).touch()


def forked(slots: int, work: Callable[[], object]) -> None:
    """Run ``work`` in so many processes, and wait for all of them."""
    for _ in range(slots):
        if os.fork() == 0:
            try:
                work()
            finally:
                os._exit(1)
    for _ in range(slots):
        os.wait()


def main(worker: Callable[[str, int], object], call: Call) -> None:
    """Do as the command line says."""
    if sys.argv[1] == "worker":
        worker(sys.argv[2], int(sys.argv[3]))
        return

    def submit(batch: Batch, number: int) -> None:
        call(number, batch.model(number), batch.ms, batch.crash)

    serve(submit)
