"""The Celery app under test: the same tasks as plain Celery, coordinated, and with the usual lock recipe.

Configured by the environment, since every process of a run (workers, producer) imports it on its own. In a
coordinated app the task options ``models`` and ``org`` say what a job needs; plain Celery ignores them.
"""

from __future__ import annotations

import cProfile
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
from celery import Celery, signals
from kombu.entity import Queue

from benchmarks.trace import BEGUN, RAN, REFUSED, Writer

SYSTEM = os.environ["BENCH_SYSTEM"]
BROKER = os.environ["BENCH_BROKER"]
FOLDER = Path(os.environ["BENCH_FOLDER"])
BEGIN = os.environ.get("BENCH_BEGIN") == "1"
COUNTDOWN = float(os.environ.get("BENCH_COUNTDOWN", "1"))
PROFILE = os.environ.get("BENCH_PROFILE")

QUEUE = "bench"

#: How long a lock of the recipe outlives a worker that died, in seconds.
LOCK_TTL = 120

app = Celery("benchmarks", broker=BROKER, backend=BROKER)
if SYSTEM == "coordinated":
    from coordinator import coordinate

    coordinate(app)
    app.conf.coordinator_durability = os.environ["BENCH_DURABILITY"]
    app.conf.coordinator_database_url = os.environ["BENCH_DATABASE"]
    app.conf.coordinator_data_dir = str(FOLDER)
    app.conf.coordinator_lease_seconds = float(os.environ["BENCH_LEASE"])
    app.conf.task_queues = [Queue(QUEUE), Queue("maintenance")]
app.conf.task_default_queue = QUEUE
app.conf.broker_connection_retry_on_startup = True

writer = Writer(FOLDER / "trace")


def run(number: int, ms: float) -> None:
    """Sleep for ``ms`` milliseconds and write down when."""
    began = time.monotonic_ns()
    if BEGIN:
        writer.write(BEGUN, number, began)
    if ms:
        time.sleep(ms / 1000)
    writer.write(RAN, number, began)


def work(number: int, model: str, ms: float) -> None:  # noqa: ARG001 - the lock needs the model
    run(number, ms)


def work_for(number: int, model: str, ms: float, org: str) -> None:  # noqa: ARG001
    run(number, ms)


def crash(number: int, model: str, ms: float) -> None:  # noqa: ARG001
    """Sleep in the first run only."""
    mark = FOLDER / f"crash-{number}"
    first = not mark.exists()
    mark.touch()
    run(number, ms if first else 0)


_clients: dict[int, redis.Redis] = {}


def _client() -> redis.Redis:
    # A connection that was made before the fork would be shared by the pool's processes.
    pid = os.getpid()
    if pid not in _clients:
        _clients[pid] = redis.Redis.from_url(BROKER)
    return _clients[pid]


def _define(function: Callable[..., None], **options: Any) -> Any:
    if SYSTEM != "lock":
        return app.task(name=function.__name__, **options)(function)

    def locked(self: Any, number: int, model: str, *args: Any) -> None:
        lock = _client().lock(f"lock:{model}", timeout=LOCK_TTL)
        if not lock.acquire(blocking=False):
            writer.write(REFUSED, number, time.monotonic_ns())
            raise self.retry(countdown=COUNTDOWN)
        try:
            function(number, model, *args)
        finally:
            lock.release()

    return app.task(name=function.__name__, bind=True, max_retries=None)(locked)


#: Tasks by what a batch asks for.
TASKS = {
    "work": _define(work, models="{model}"),
    "work_for": _define(work_for, models="{model}", org="{org}"),
    "crash": _define(crash, models="{model}"),
}


def _ready(sender: Any = None, **_: Any) -> None:
    (FOLDER / "ready" / str(sender.hostname)).touch()


signals.worker_ready.connect(_ready, weak=False)

if PROFILE:
    _profiles: dict[int, cProfile.Profile] = {}

    def _start_profile(**_: Any) -> None:
        profile = _profiles[os.getpid()] = cProfile.Profile()
        profile.enable()

    def _keep_profile(kind: str) -> None:
        profile = _profiles.pop(os.getpid(), None)
        if profile is not None:
            profile.disable()
            profile.dump_stats(Path(str(PROFILE)) / f"{kind}-{os.getpid()}.prof")

    # The main process starts after its pool, so that the children are not born with its profile.
    signals.worker_ready.connect(_start_profile, weak=False)
    signals.worker_shutdown.connect(lambda **_: _keep_profile("main"), weak=False)
    signals.worker_process_init.connect(_start_profile, weak=False)
    signals.worker_process_shutdown.connect(lambda **_: _keep_profile("child"), weak=False)
