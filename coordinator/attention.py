"""What an operator should look at first, each line with the command that goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.holds import Hold, paused_text, way_out
from coordinator.overview import QueueState


def attention(
    queues: Sequence[QueueState], holds: Sequence[Hold], stats: Mapping[str, Any], stuck: int
) -> list[str]:
    """Return lines, the most urgent first; none when there is nothing to do.

    Args:
        queues, holds, stats: as the work queue tells them.
        stuck: number of jobs that run for long without progress.
    """
    lines = [f"{paused_text(hold)}; {way_out(hold.resource)}" for hold in holds]
    lines += [
        f"queue {queue.queue} has {queue.pending} jobs pending and no live worker; "
        f"coordinator up, or celery -A APP worker -Q {queue.queue}"
        for queue in queues
        if queue.pending and not queue.consumed
    ]
    if stuck:
        lines.append(
            f"{stuck} running without progress for more than 10 minutes; coordinator stuck"
        )
    if stats.get("failed_hour"):
        lines.append(
            f"{stats['failed_hour']} failed in the last hour; coordinator errors --since 1h"
        )
    return lines
