"""The guard as a process of its own, on processes that try to get away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.family import WORKER_MARK, end, member, related, remains
from tests.helpers import ROOT, eventually

#: A worker: starts a "pool process" with a group of its own, which starts a process with a session of its own.
WORKER = """
import os, signal, subprocess, sys
if os.fork() == 0:
    os.setpgid(0, 0)
    job = subprocess.Popen(["sleep", "600"], start_new_session=True)
    open(sys.argv[1], "w").write(f"{os.getpid()} {job.pid}")
    signal.pause()
signal.pause()
"""


class Worker:
    """A worker with one job, and its guard."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, WORKER_MARK: f"test/{folder}"}
        note = folder / "pids"
        self.main = subprocess.Popen([sys.executable, "-c", WORKER, str(note)], env=environment)
        eventually(lambda: note.exists() and len(note.read_text().split()) == 2)
        self.pids = [int(pid) for pid in note.read_text().split()]
        command = [
            sys.executable,
            "-m",
            "coordinator.running.guard",
            "children",
            str(self.main.pid),
        ]
        self.guard = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=environment, cwd=ROOT, start_new_session=True
        )

    def tell(self, seconds: float) -> None:
        assert self.guard.stdin is not None
        self.guard.stdin.write(json.dumps({"until": time.monotonic() + seconds}).encode() + b"\n")
        self.guard.stdin.flush()

    def dead(self) -> bool:
        return all(member(pid) is None for pid in self.pids)

    def end(self) -> None:
        for process in (self.guard, self.main):
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        for pid in self.pids:
            end([member(pid) or remains(pid)])


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    started = Worker(tmp_path)
    yield started
    started.end()


def test_jobs_die_when_the_lease_is_over_and_the_worker_lives(worker: Worker) -> None:
    worker.tell(0.5)
    os.kill(worker.main.pid, signal.SIGSTOP)
    eventually(worker.dead, 5)
    assert worker.main.poll() is None
    os.kill(worker.main.pid, signal.SIGCONT)


def test_jobs_live_while_the_lease_does(worker: Worker) -> None:
    worker.tell(600)
    worker.tell(0.2)
    worker.tell(600)
    started = time.monotonic()
    eventually(lambda: time.monotonic() > started + 1)
    assert not worker.dead()


def test_jobs_die_with_the_worker_also_those_in_sessions_of_their_own(worker: Worker) -> None:
    worker.tell(600)
    # Its view of the family is taken before the death, so that it knows whom to look for.
    worker.main.kill()
    os.kill(worker.pids[0], signal.SIGKILL)
    worker.main.wait()
    assert worker.guard.stdin is not None
    worker.guard.stdin.close()
    eventually(worker.dead, 5)
    assert worker.guard.wait(5) == 0


def test_a_number_that_was_given_again_is_another_process() -> None:
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        found = member(other.pid)
        assert found is not None
        assert related([found]) == {other.pid}
        older = type(found)(found.pid, found.started - 1, found.parent, found.group)
        assert related([older]) == set()
    finally:
        other.kill()
        other.wait()
    assert member(other.pid) is None
