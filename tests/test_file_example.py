"""examples/file_processing as its page tells it: a producer, stamped files, one that is gone, a worker that dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coordinator.settings import load
from coordinator.work_queue import WorkQueue
from tests.helpers import ROOT, eventually, running

if TYPE_CHECKING:
    from tests.workers import Installation

pytest_plugins = ["tests.workers"]

PATIENCE = 90


class Example:
    """The shipped app on an installation of its own, and the example's producer."""

    def __init__(self, installation: Installation) -> None:
        self.folder = installation.folder
        own = {
            "COORDINATOR_REDIS_URL": installation.broker,
            "COORDINATOR_DATA_DIR": str(self.folder),
            # A lease is 30 s: what is shown here is that it ends.
            "COORDINATOR_LEASE_SECONDS": "3",
        }
        self.env = {**os.environ, **own, "PYTHONPATH": str(ROOT), "C_FORCE_ROOT": "1"}
        self.queue = WorkQueue(load({}, own))

    def produce(self, *options: str) -> list[tuple[Path, str]]:
        """Run the producer to its end; returns each file and the id of its job."""
        command = (sys.executable, "-m", "examples.file_processing.producer", "--every", "0.05")
        done = subprocess.run(
            [*command, *options], env=self.env, cwd=ROOT, capture_output=True, text=True, check=True
        )
        told = re.findall(r"^(\S+) job (\S+)", done.stdout, re.MULTILINE)
        return [(Path(path), job_id) for path, job_id in told]

    @contextlib.contextmanager
    def worker(self, name: str, queue: str = "selfplay") -> Iterator[int]:
        """Run a worker; that of maintenance records what happens, and sees that a lease has ended."""
        log = self.folder / f"{name}.log"
        celery = (sys.executable, "-m", "celery", "-A", "tasks", "worker", "-n", f"{name}@test")
        quiet = ("--without-gossip", "--without-mingle", "-c", "1", "-Q", queue, "-l", "INFO")
        with running(*celery, *quiet, env=self.env, cwd=ROOT, log=log, grace=0) as process:
            eventually(lambda: " ready." in log.read_text(), timeout=PATIENCE)
            yield process.pid

    def becomes(self, job_id: str, status: str) -> None:
        def check() -> None:
            assert self.queue.get_job(job_id).status == status

        eventually(check, timeout=PATIENCE)


@pytest.fixture
def example(alone: Installation) -> Iterator[Example]:
    own = Example(alone)
    yield own
    own.queue.ledger.pool.disconnect()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_files_are_stamped_and_one_that_is_gone_ends_unprocessable(example: Example) -> None:
    # Before there is a worker, so that the deleted file is gone when its job runs.
    *there, (gone, lost) = example.produce("--count", "3", "--delete-every", "3")
    with example.worker("keeper", "maintenance"), example.worker("w1"):
        for path, job_id in there:
            example.becomes(job_id, "COMPLETED")
            first, stamped = path.read_text().splitlines()
            assert first == f"file {int(path.stem[-5:])}"
            assert f"job={job_id} worker=w1@test" in stamped
        # Three retries after 1, 2 and 4 seconds.
        example.becomes(lost, "UNPROCESSABLE")
        (failure,) = eventually(lambda: example.queue.get_recent_failures(10), timeout=PATIENCE)
        assert failure.id == lost
        assert "FileNotFoundError" in failure.error
        record = example.queue.get_job(lost)
        assert (record.retries, record.attempts) == (3, 4)
        gaps = [after - before for before, after in pairwise(_starts(example, lost))]
        assert all(gap >= delay - 0.01 for gap, delay in zip(gaps, (1, 2, 4), strict=True)), gaps
        assert not gone.exists()
        # Put back, it is processed.
        gone.write_text("back\n")
        example.queue.resubmit_job(lost)
        example.becomes(lost, "COMPLETED")
        assert f"job={lost}" in gone.read_text()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_worker_that_dies_gives_its_file_to_another(example: Example) -> None:
    with example.worker("keeper", "maintenance"):
        with example.worker("w1") as pid:
            ((path, job_id),) = example.produce("--count", "1", "--seconds", "4")
            example.becomes(job_id, "PROCESSING")
            os.kill(pid, signal.SIGKILL)
            example.becomes(job_id, "PENDING")
            assert path.read_text().count("job=") == 0
        with example.worker("w2"):
            example.becomes(job_id, "COMPLETED")
    (stamp,) = path.read_text().splitlines()[1:]
    assert f"job={job_id} worker=w2@test" in stamp
    assert example.queue.get_job(job_id).losses == 1


def _starts(example: Example, job_id: str) -> list[float]:
    return [one.at for one in example.queue.get_history(job_id) if one.event == "started"]
