"""The app under chaos: tasks that write down themselves when they start, live and end.

One line is one write to a file opened for appending, so that a killed process leaves whole lines:
``seconds kind job token pid models planned``, seconds on CLOCK_MONOTONIC, which all processes share.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery

from coordinator import coordinate, current_job

FOLDER = Path(os.environ.get("CHAOS_FOLDER", "."))
TRACE = FOLDER / "trace"
QUEUES = ("selfplay", "training", "maintenance")

#: Seconds between two signs of life of a task body.
BEAT = 0.01

app = Celery("chaos", broker=os.environ.get("COORDINATOR_REDIS_URL"))
app.conf.result_backend = os.environ.get("COORDINATOR_REDIS_URL")
app.conf.task_queues = {name: {"exchange": name, "routing_key": name} for name in QUEUES}
app.conf.task_default_queue = "selfplay"
app.conf.result_backend_always_retry = True
app.conf.broker_connection_retry_on_startup = True
app.conf.broker_transport_options = {
    "visibility_timeout": float(os.environ.get("CHAOS_VISIBILITY", "3600")),
}
app.conf.coordinator_retry_delays = (0.05,)
coordinate(app)


def write(kind: str, job: str, token: int, models: Sequence[str] = (), planned: float = 0) -> None:
    """Write one line of the trace."""
    start = f"{time.monotonic():.6f} {kind} {job} {token} {os.getpid()}"
    line = f"{start} {','.join(models)} {planned:.3f}\n"
    file = os.open(TRACE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def _live(seconds: float) -> None:
    job = current_job()
    assert job is not None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        write("alive", job.id, job.token, job.models)
        time.sleep(BEAT)


def _start(planned: float = 0) -> Any:
    job = current_job()
    assert job is not None
    write("start", job.id, job.token, job.models, planned)
    return job


@app.task(name="chaos.work", max_retries=50)
def work(seconds: float) -> str:
    """Live for some time."""
    job = _start(seconds)
    _live(seconds)
    write("end", job.id, job.token, job.models)
    return "done"


@app.task(name="chaos.flaky", bind=True, max_retries=50)
def flaky(self: Any, seconds: float) -> Any:
    """Fail at first, then do the work: the retry is due by the clock of the worker that failed."""
    if not self.request.retries:
        raise ValueError("fails once")
    return work.run(seconds)


@app.task(name="chaos.parent", max_retries=50)
def parent(seconds: float) -> None:
    """Let a process with a session of its own do the work."""
    job = _start(seconds)
    command = [sys.executable, "-S", "-m", "tests.chaos.child", str(TRACE), job.id, str(job.token)]
    subprocess.run(
        [*command, ",".join(job.models), str(seconds)], check=True, start_new_session=True
    )
    write("end", job.id, job.token, job.models)


@app.task(name="chaos.die", max_retries=3)
def die(how: str) -> None:
    """Take the worker process along, in one of several ways."""
    _start()
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "memory":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (300 * 1024 * 1024, hard))
        hog = []
        while True:
            hog.append(bytearray(16 * 1024 * 1024))
    raise ValueError(how)


@app.task(name="chaos.collect", coordinated=False, queue="maintenance")
def collect(parts: Sequence[str]) -> int:
    """The body of a chord."""
    return len(parts)
