"""Who somebody is: which process of which machine a worker is and whether it lives, and who holds a term."""

from __future__ import annotations

import os
import socket
import threading
import zlib
from functools import cache
from pathlib import Path

from coordinator.family import WORKER_MARK, end, marked

_BOOT, _NUMBERS = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")


def holder() -> str:
    """Return who takes a singleton's term from this thread: another thread of this process is somebody else."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"


def worker_identity(node: str, pid: int | None = None) -> str:
    """Return the id of a worker: ``node/machine/pid/start``.

    It says which process of which machine it is, so that whoever finds it, in the ledger or in the store,
    can tell whether that process is gone.

    Args:
        node: Celery's node name.
        pid: the main process; by default this one.
    """
    # Here and below: a producer, which imports this file as well, looks at no process.
    import psutil

    process = psutil.Process(pid)
    return f"{node}/{machine()}/{process.pid}/{int(process.create_time())}"


@cache
def machine() -> str:
    """Return what tells this machine, its present life and this space of process numbers from all others.

    The name alone does not: containers on a host's network share its name and have process numbers of their
    own, and somebody who looks for another container's worker among his processes must not find it dead.
    """
    try:
        parts = _BOOT.read_text().strip(), str(_NUMBERS.readlink())
    except OSError:
        # Not Linux: there are no containers of the same kernel here.
        parts = "", ""
    return f"{socket.gethostname()}~{zlib.crc32(' '.join(parts).encode()):08x}"


def is_gone(worker: str) -> bool:
    """Whether a worker was a process of this machine that is no more, and all its jobs with it.

    While its guard lives, jobs may live. Should the guard have been killed too, what is left is ended here.
    """
    import psutil

    try:
        _, host, pid, start = worker.rsplit("/", 3)
        if host != machine() or _lives(int(pid), int(start)):
            return False
    except (psutil.AccessDenied, ValueError):
        return False
    mark = f"{WORKER_MARK}={worker}"
    return not any(map(_is_guard, marked(mark))) and end((), mark)


def _lives(pid: int, start: int) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        # A process of the same number that began later is another one.
        same = abs(process.create_time() - start) <= 2
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _is_guard(pid: int) -> bool:
    import psutil

    try:
        return "coordinator.running.guard" in psutil.Process(pid).cmdline()
    except psutil.NoSuchProcess:
        return False
