"""Families of processes by /proc: what a process started, directly or not, and ending all of it.

A child is found by its parent, by its process group, and by a variable in its environment, since a process
whose parent has died, and that made a group or session of its own, has nothing else left to tell it by.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

#: The worker's id: in the environment of everything that it and its jobs start.
WORKER_MARK = "COORDINATOR_WORKER_ID"

#: The job process, as "<worker's id>/<pid>": in the environment of everything that its jobs start.
PROCESS_MARK = "COORDINATOR_JOB_PROCESS"

#: Seconds after which killing gives up: a process in an uninterruptible system call.
GIVE_UP = 2.0


@dataclass(frozen=True, slots=True)
class Member:
    """A living process. Number and start together are never given again."""

    pid: int
    started: int
    parent: int
    group: int
    name: str = field(default="", compare=False)


def _pids() -> list[int]:
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit()]


def _content(path: str) -> bytes:
    # The guard and each worker look several times a second: a file object costs more than the file.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # The kernel may give long ones a page at a time.
        found = piece = os.read(descriptor, 65536)
        while len(piece) >= 2048:
            piece = os.read(descriptor, 65536)
            found += piece
    finally:
        os.close(descriptor)
    return found


def member(pid: int) -> Member | None:
    """Return a process, or None if it is dead or waits to be reaped."""
    try:
        # A name may hold anything, also what is no text.
        start, _, rest = _content(f"/proc/{pid}/stat").rpartition(b")")
        fields = rest.split(None, 20)
        if fields[0] in b"ZX":
            return None
        name = start.partition(b"(")[2].decode(errors="replace")
        return Member(pid, int(fields[19]), int(fields[1]), int(fields[2]), name)
    except (OSError, IndexError, ValueError):
        return None


def remains(pid: int) -> Member:
    """Return a dead process, to end what it left behind: its group is its number."""
    return Member(pid, 0, 0, pid)


def everybody() -> list[Member]:
    """Return all living processes."""
    return [found for pid in _pids() if (found := member(pid))]


def children(pid: int) -> list[Member]:
    """Return the children of a process, cheaply where the kernel keeps a list of them."""
    pids: list[int] = []
    try:
        with os.scandir(f"/proc/{pid}/task") as tasks:
            for task in tasks:
                pids += map(int, _content(f"{task.path}/children").split())
    except FileNotFoundError:
        if member(pid) is None:
            return []
        return [found for found in everybody() if found.parent == pid]
    except OSError:
        return []
    return [found for child in pids if (found := member(child))]


def offspring(pid: int) -> list[Member]:
    """Return the children of a process, their children, and so on."""
    found, new = [], children(pid)
    while new:
        found += new
        new = [grandchild for child in new for grandchild in children(child.pid)]
    return found


def marked(marker: str) -> set[int]:
    """Return the processes that were started with ``marker`` (``NAME=value``) in their environment."""
    wanted, found = marker.encode(), set()
    for pid in _pids():
        with contextlib.suppress(OSError):
            if wanted in _content(f"/proc/{pid}/environ").split(b"\0"):
                found.add(pid)
    return found


def related(known: Iterable[Member], marker: str = "") -> set[int]:
    """Return the living among ``known``, the members of their groups, what descends from them, and who
    carries the marker; never this process."""
    present = {process.pid: process for process in everybody()}
    roots = {item.pid: item.started for item in known}
    found = {
        pid for pid, started in roots.items() if pid in present and present[pid].started == started
    }
    # The group of a dead leader keeps its number until the last member is gone.
    groups = {pid for pid in roots if pid in found or pid not in present}
    found |= {process.pid for process in present.values() if process.group in groups}
    if marker:
        found |= marked(marker) & present.keys()
    while more := {p.pid for p in present.values() if p.parent in found} - found:
        found |= more
    return found - {os.getpid()}


def end(known: Iterable[Member], marker: str = "", spare: Iterable[int] = ()) -> bool:
    """Kill processes and everything they started; return whether all are dead.

    Args:
        known: processes, also such that are dead by now.
        marker: ``NAME=value`` in the environment of what belongs to them as well.
        spare: processes that live on.
    """
    known, spared = list(known), set(spare)
    deadline = time.monotonic() + GIVE_UP
    while found := related(known, marker) - spared:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        # A process that was just killed may have forked a moment before: look again.
        select.select([], [], [], 0.01)
    return True
