"""The guard spares a process that only tells its end, for exactly as long as it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from coordinator import telling
from coordinator.family import Member, member, offspring
from coordinator.running.guard import Guard
from tests.helpers import eventually, kill_session

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's names of processes")

#: A worker with two job processes, each in a group of its own: one runs, the other tells until it gets a signal.
WORKER = """
import os, signal, time
from coordinator import telling
for tells in (False, True):
    if os.fork() == 0:
        os.setpgid(0, 0)
        signal.signal(signal.SIGUSR1, lambda *_: telling.show(False))
        telling.show(tells)
        while True:
            signal.pause()
while True:
    signal.pause()
"""


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", WORKER], start_new_session=True)
    yield process
    kill_session(process, grace=0)


def _jobs(worker: int) -> dict[bool, Member]:
    found = {one.name == telling.NAME: one for one in offspring(worker)}
    assert found.keys() == {False, True}
    assert all(one.group == one.pid for one in found.values())
    return found


def test_who_tells_is_spared_and_ended_when_it_has_told(worker: subprocess.Popen[bytes]) -> None:
    jobs = eventually(lambda: _jobs(worker.pid))
    guard = Guard("children", worker.pid)
    guard.strike()
    assert member(jobs[False].pid) is None
    assert member(jobs[True].pid) is not None
    guard.follow()
    assert member(jobs[True].pid) is not None, "it still tells"
    os.kill(jobs[True].pid, signal.SIGUSR1)
    eventually(lambda: (member(jobs[True].pid) or jobs[True]).name != telling.NAME)
    guard.follow()
    assert member(jobs[True].pid) is None, "it could begin another job, which nobody would end"
    assert member(worker.pid) is not None


def test_without_a_worker_nobody_is_spared(worker: subprocess.Popen[bytes]) -> None:
    jobs = eventually(lambda: _jobs(worker.pid))
    guard = Guard("children", worker.pid)
    guard.look()
    worker.kill()
    worker.wait()
    guard.strike()
    assert [member(one.pid) for one in jobs.values()] == [None, None]


def test_the_name_is_shown_and_taken_back() -> None:
    before = member(os.getpid())
    telling.show(True)
    shown = member(os.getpid())
    telling.show(False)
    after = member(os.getpid())
    assert before is not None
    assert shown is not None
    assert after is not None
    assert (shown.name, after.name) == (telling.NAME, before.name)
