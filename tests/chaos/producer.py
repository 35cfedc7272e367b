"""A producer: submits jobs and writes down the id of each before and after it was accepted."""

from __future__ import annotations

import argparse
import os
import random
import signal
import uuid
from typing import Any

from celery.exceptions import OperationalError
from kombu.exceptions import OperationalError as BrokerError

from coordinator.errors import CoordinatorError
from tests.chaos.app import FOLDER, app, flaky, parent, work
from tests.chaos.pauses import pause


def _note(kind: str, job: str) -> None:
    file = os.open(FOLDER / "accepted", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, f"{kind} {job}\n".encode())
    os.close(file)


def _die_between_row_and_ledger(number: int) -> None:
    """Make the submission of the given job kill this process after its row is committed."""
    ledger = app.coordination.work_queue.ledger
    submit, calls = ledger.submit, iter(range(number))

    def dies(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return submit(*arguments, **options)

    ledger.submit = dies


def main() -> None:
    """Submit ``--jobs`` jobs with ``--pause`` seconds between two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0.01)
    parser.add_argument("--shortest", type=float, default=0.01)
    parser.add_argument("--longest", type=float, default=0.14)
    parser.add_argument("--children", type=float, default=0.0, help="share of jobs with a process")
    parser.add_argument("--failing", type=float, default=0.0, help="share that fails once")
    parser.add_argument("--die-at", type=int, default=0)
    options = parser.parse_args()
    choice = random.Random(options.seed)
    if options.die_at:
        _die_between_row_and_ledger(options.die_at)
    for _ in range(options.jobs):
        models = [
            f"m{number}"
            for number in choice.sample(range(options.models), choice.choice((1, 1, 2, 3)))
        ]
        task = parent if choice.random() < options.children else work
        task = flaky if choice.random() < options.failing else task
        seconds = choice.uniform(options.shortest, options.longest)
        job, queue = uuid.uuid4().hex, choice.choice(("selfplay", "training"))
        _note("try", job)
        while True:
            try:
                task.apply_async((seconds,), task_id=job, models=models, queue=queue)
            except (CoordinatorError, OperationalError, BrokerError, OSError) as error:
                # Refused is not accepted: the caller may try again, with the same id.
                _note("refused", f"{job} {type(error).__name__}: {str(error)[:200]}")
                pause(0.2)
            else:
                break
        _note("accepted", job)
        pause(options.pause)


if __name__ == "__main__":
    main()
