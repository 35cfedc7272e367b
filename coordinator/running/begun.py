"""Which jobs that stood by have begun: known to a worker's main process the moment they do.

Memory that the processes of a pool share with the main process. A message would not do: when Redis is wiped, the
ledger learns from workers what runs, and must not take a job that stands by for one that has its models.
"""

from __future__ import annotations

import hashlib
import mmap

import billiard
from billiard import current_process

#: Processes of a pool that can stand by, and bytes for each.
PROCESSES, WIDTH = 1024, 16

_memory: mmap.mmap | None = None


def share() -> None:
    """Set the memory up, in the main process before its pool is forked."""
    global _memory
    _memory = mmap.mmap(-1, PROCESSES * WIDTH)


def _mark(job_id: str, token: int | None) -> bytes:
    delivery = f"{job_id}/{token}".encode("utf-8", "replace")
    return hashlib.blake2b(delivery, digest_size=WIDTH).digest()


def _place() -> int | None:
    # The main process and a spawned child have none.
    index = getattr(current_process(), "index", None)
    return (
        index * WIDTH if _memory is not None and index is not None and index < PROCESSES else None
    )


def shares_with(processes: int) -> bool:
    """Whether all processes of a pool of so many, at most, can note what they begin."""
    # A spawned one has a memory of its own.
    return processes <= PROCESSES and billiard.get_start_method() == "fork"


def can_stand_by() -> bool:
    """Whether this is a process that can wait for its job and that its main process can ask."""
    return _place() is not None


def begin(job_id: str, token: int) -> None:
    """Note in a process of the pool that a job which stood by has begun there."""
    place = _place()
    if _memory is not None and place is not None:
        _memory[place : place + WIDTH] = _mark(job_id, token)


def end() -> None:
    """Note that what began is over."""
    place = _place()
    if _memory is not None and place is not None:
        _memory[place : place + WIDTH] = bytes(WIDTH)


def has_begun(job_id: str, token: int | None) -> bool:
    """Return, in the main process, whether a job that stood by has begun in one of its processes."""
    if _memory is None:
        return False
    mark, found = _mark(job_id, token), -1
    while (found := _memory.find(mark, found + 1)) >= 0:
        if found % WIDTH == 0:
            return True
    return False
