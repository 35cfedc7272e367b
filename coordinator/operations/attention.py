"""What an operator should look at first, each line with the command that goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from coordinator.durations import shown_duration
from coordinator.operations.failures import STUCK_SECONDS
from coordinator.operations.holds import Hold, no_worker_text, paused_text, way_out
from coordinator.operations.overview import QueueState
from coordinator.populator import Rounds

if TYPE_CHECKING:
    from coordinator.work_queue import WorkQueue

#: Running and waiting jobs that are listed.
SHOWN = 10

#: The recorder is a second behind at most, unless it is dead or the database is away.
UNRECORDED_SECONDS = 15.0


def look(work_queue: WorkQueue) -> dict[str, Any]:
    """Return everything at a glance: what ``status`` shows."""
    stats, at = work_queue.get_stats(), time.time()
    # What belongs together is read together: the database may take its time.
    queues, active = work_queue.queues(), work_queue.active()
    blocked, holds = work_queue.blocked(SHOWN), work_queue.get_holds()
    stats["pending"] = sum(queue.pending for queue in queues)
    stats["in_progress"] = sum(queue.running for queue in queues)
    return {
        "at": at,
        "stats": stats,
        "queues": queues,
        "holds": holds,
        "workers": work_queue.get_active_workers(),
        "active": active,
        "blocked": blocked,
        "attention": [
            *_recording(work_queue),
            *_populator(work_queue),
            *attention(queues, holds, stats, len(work_queue.get_stuck_jobs())),
        ],
    }


def _recording(work_queue: WorkQueue) -> list[str]:
    oldest = work_queue.ledger.oldest_event()
    if oldest is None:
        return []
    seconds = (work_queue.ledger.clock() - int(oldest.partition("-")[0])) / 1000
    if seconds < UNRECORDED_SECONDS:
        return []
    ago = shown_duration(seconds)
    return [
        f"what happened {ago} ago is not recorded; is a worker of queue maintenance live? coordinator workers"
    ]


def _populator(work_queue: WorkQueue) -> list[str]:
    if not work_queue.settings.populator:
        return []
    found = Rounds(work_queue.store).health()
    return [] if found["is_healthy"] else [f"the populator does not work: {found['message']}"]


def attention(
    queues: Sequence[QueueState], holds: Sequence[Hold], stats: Mapping[str, Any], stuck: int
) -> list[str]:
    """Return lines, the most urgent first; none when there is nothing to do.

    Args:
        queues, holds, stats: as the work queue tells them.
        stuck: number of jobs that run for long without progress.
    """
    lines = [f"{paused_text(hold)}; {way_out(hold.resource, hold.source)}" for hold in holds]
    lines += [
        f"queue {queue.queue} has {no_worker_text(queue.queue, queue.pending)}"
        for queue in queues
        if queue.pending and not queue.consumed
    ]
    if stuck:
        lines.append(
            f"{stuck} running without progress for more than {STUCK_SECONDS // 60:g} minutes; "
            "coordinator stuck"
        )
    if stats.get("failed_hour"):
        lines.append(
            f"{stats['failed_hour']} failed in the last hour; coordinator errors --since 1h"
        )
    return lines
