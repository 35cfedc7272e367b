"""The prefork pool's children: every exit is seen, and none is ended that has a job."""

from __future__ import annotations

import select
from typing import Any


def follow_exits(pool: Any) -> None:
    """Make a prefork pool see the exit of each of its children.

    Celery's event loop takes up the exits of several children one by one, and the first replaces them all. A
    new child may get the file descriptor of an old one whose exit is still to be taken up, and is then taken
    for dead. Nobody would see its own exit, so its job would keep its models for seconds; and at the next lost
    connection the worker would end with "file descriptor is None". Jobs that are ended together, since their
    lease is over, are children that exit together.

    Args:
        pool: Celery's pool as a worker has it; any other than prefork is left alone.
    """
    processes: Any = getattr(pool, "_pool", None)
    if not hasattr(processes, "_event_process_exit"):
        return
    take_up, track = processes._event_process_exit, processes._track_child_process

    def event_process_exit(hub: Any, process: Any) -> None:
        descriptor = getattr(process, "_sentinel_poll", None)
        if descriptor is not None and _closed(descriptor):
            take_up(hub, process)

    def track_child_process(process: Any, hub: Any) -> None:
        if getattr(process, "_sentinel_poll", 0) is None:
            # Its files were closed when it was not quite gone.
            del process._sentinel_poll
        track(process, hub)

    processes._event_process_exit = event_process_exit
    processes._track_child_process = track_child_process


def spare_assigned(pool: Any) -> None:
    """Make a prefork pool that shrinks spare the children that have been sent a job, and end none twice.

    Celery takes for idle whoever has not yet said that it began: a job that was on its way, or had just begun,
    was killed, which counts as an attempt. And whoever it has just ended, so that a pool that shrinks twice in a
    row counted one child as two.

    Args:
        pool: Celery's pool as a worker has it; any other than prefork is left alone.
    """
    processes: Any = getattr(pool, "_pool", None)
    if not hasattr(processes, "_worker_active"):
        return
    active = processes._worker_active

    def worker_active(process: Any) -> bool:
        return (
            process._controlled_termination
            or active(process)
            or any(
                process in (job._write_to, job._scheduled_for)
                for job in list(processes._cache.values())
                if hasattr(job, "_write_to")
            )
        )

    processes._worker_active = worker_active


def _closed(descriptor: int) -> bool:
    """Return whether the other end of a pipe, which a child keeps open as long as it lives, is closed."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(0))
