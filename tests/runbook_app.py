"""The app of the runbooks' tests: jobs that do well or badly as the world, a folder of files, is.

Found by ``coordinator -A tests.runbook_app``, with its data folder in the environment.
"""

from __future__ import annotations

import fcntl
import os
import signal

from celery import Celery

from coordinator import checkpoint, coordinate
from coordinator.populator import Wish
from coordinator.settings import load
from tests.helpers import eventually

app = Celery("runbooks", set_as_current=False)
app.conf.update(
    task_default_queue="selfplay",
    task_queues={name: {} for name in ("selfplay", "training", "maintenance")},
    task_routes={"train": {"queue": "training"}, "coordinator.*": {"queue": "maintenance"}},
    broker_connection_retry_on_startup=True,
    result_backend_always_retry=True,
    coordinator_queues={
        "selfplay": {"workers": 4, "max_concurrency": 8, "max_per_org": 4},
        "training": {"workers": 2},
        "evaluation": {"workers": 0},
        "maintenance": {"workers": 1},
    },
    coordinator_panic={"every": 0.5, "window": 30, "volume": 5, "probes": 2},
    coordinator_populator="tests.runbook_app:plan",
)
coordinate(app)

world = load(app.conf).data_dir / "world"


def plan() -> list[Wish]:
    """Two games at any time, while the world wants any."""
    if not is_so("games-wanted"):
        return []
    return [Wish("selfplay", "chess", "play", {"model": "chess"}, 2, "the model needs games")]


def is_so(fact: str) -> bool:
    return (world / fact).exists()


def await_that(fact: str) -> None:
    """Wait until something is so, or the job is told to stop."""

    def over() -> bool:
        checkpoint()
        return is_so(fact)

    eventually(over, timeout=60, interval=0.1)


@app.task(name="play", models="{model}", shared=False)
def play(model: str) -> None:
    """Play a game, at once."""


@app.task(name="contest", models="{model}", shared=False)
def contest(model: str) -> None:
    """Play games until the world says that they are over."""
    await_that("games-over")


@app.task(name="fetch", integration="warehouse", max_retries=0, shared=False)
def fetch(item: int) -> None:
    """Fetch data from an outside system."""
    if is_so("warehouse-down"):
        raise ConnectionError(f"warehouse.example:5432 refuses connection {item}")


@app.task(name="train", models="{model}", max_retries=0, shared=False)
def train(model: str) -> None:
    """Train a model on a machine that may be in a bad state."""
    if is_so("disk-full"):
        raise OSError(28, "No space left on device", f"/data/{model}.bin")
    if is_so("hanging"):
        # One run, in a call that does not come back, without a checkpoint.
        (world / "hanging").unlink()
        eventually(lambda: is_so("never"), timeout=60, interval=0.1)
    if is_so("little-memory"):
        _take_memory()


def _take_memory() -> None:
    # As the kernel does when a second job needs more memory than the machine has left.
    with (world / "memory").open("w") as memory:
        try:
            fcntl.flock(memory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.kill(os.getpid(), signal.SIGKILL)
        await_that("memory-free")
