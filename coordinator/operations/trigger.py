"""Working a queue off while somebody watches: its workers do the work, this makes sure that they can."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.errors import NoWorker, Refused
from coordinator.operations.holds import PANIC, Hold, no_worker_text, paused_text, way_out
from coordinator.resources import queue_resource

if TYPE_CHECKING:
    from coordinator.work_queue import WorkQueue

#: Seconds between two looks, and without a worker until it is given up.
LOOK, GRACE = 0.25, 10.0


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What a trigger looks at.

    Attributes:
        queue: its name.
        total, pending, running: its unfinished jobs, those that wait and those that run.
        delayed: of the pending ones those that are due later.
        queue_running: whether its jobs can start: it is not paused, and has a live worker.
        completed, failed: jobs that ended since the trigger began.
    """

    queue: str
    total: int
    pending: int
    running: int
    delayed: int
    queue_running: bool
    completed: int = 0
    failed: int = 0


class Paused(Refused):
    """A queue whose jobs cannot start.

    Args:
        hold: what holds it.
    """

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        super().__init__(f"{paused_text(hold)}; {way_out(hold.resource, hold.source)}")


class Trigger:
    """Follows one queue.

    Args:
        work_queue: where it is.
        queue: its name.
    """

    def __init__(self, work_queue: WorkQueue, queue: str) -> None:
        self.work_queue, self.queue = work_queue, work_queue.check_queue(queue)
        self.since_ms = time.time_ns() // 1_000_000

    def status(self) -> QueueStatus:
        """Return where the queue stands."""
        state = next(one for one in self.work_queue.queues() if one.queue == self.queue)
        store = self.work_queue.store
        return QueueStatus(
            self.queue,
            state.pending + state.running,
            state.pending,
            state.running,
            state.delayed,
            state.paused is None and state.consumed,
            store.completed_since(self.since_ms, self.queue),
            store.failed_since(self.since_ms, self.queue),
        )

    def check(self) -> None:
        """Make sure that jobs of the queue can start.

        Raises:
            Paused: it, or everything, is; the message says the way out.
            NoWorker: no live worker consumes it; the message says the way out.
        """
        state = next(one for one in self.work_queue.queues() if one.queue == self.queue)
        for hold in state.holds:
            raise Paused(hold)
        if not state.consumed:
            raise NoWorker(f"queue {self.queue} has {no_worker_text(self.queue)}")

    def resume(self, by: str | None = None) -> bool:
        """End what pauses the queue, but not a pause of everything; return whether something did."""
        return self.work_queue.resume(self.queue, reason="trigger", by=by)

    def resumable(self, hold: Hold) -> bool:
        """Return whether ``resume`` is the way out of a hold: of the queue itself, not by its breaker."""
        return hold.resource == queue_resource(self.queue) and hold.source != PANIC

    def run(
        self,
        until_empty: bool,
        tell: Callable[[QueueStatus], None],
        timeout: float | None = None,
    ) -> QueueStatus:
        """Watch until one more job has ended, or until none is left that could start.

        Jobs that are delayed for more than a minute are not waited for; those between two retries are.

        Args:
            until_empty: whether to go on after the first.
            tell: called with the status after each look.
            timeout: seconds to watch at most.

        Raises:
            Refused: it was paused, its workers went, or the time is over; what runs goes on.
        """
        began, alone, pause = time.monotonic(), 0.0, threading.Event()
        while True:
            self.work_queue.ledger.tick()
            now = self.status()
            tell(now)
            ended = now.completed + now.failed
            if (ended and not until_empty) or not self._left(now):
                return now
            alone = alone + LOOK if not now.queue_running else 0.0
            if not now.queue_running:
                self._check_patiently(alone)
            if timeout is not None and time.monotonic() - began > timeout:
                raise Refused(
                    f"not done after {timeout:g} s: {now.pending} pending, {now.running} running; "
                    f"the jobs go on, look with: coordinator trigger -Q {self.queue} --status-only"
                )
            pause.wait(LOOK)

    def _left(self, now: QueueStatus) -> bool:
        if now.total > now.delayed:
            return True
        due = self.work_queue.ledger.next_due(self.queue) if now.delayed else None
        return due is not None and due <= self.work_queue.ledger.clock() + 60_000

    def _check_patiently(self, alone: float) -> None:
        try:
            self.check()
        except NoWorker:
            # A worker that is restarted is back in a few seconds; a pause is somebody's will.
            if alone > GRACE:
                raise
