"""Routes of queues: pause, resume, drain, retry."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from coordinator.operations.bulk import Bulk
from coordinator.web.bodies import Drain, Pause, Paused, Reason, Resumed, Retry
from coordinator.web.problems import responses
from coordinator.web.visits import COMMON, Guarded, Operating, blocking, once

router = APIRouter(route_class=Guarded, tags=["queues"], responses=COMMON | responses(404))

Queue = Annotated[str, Path(min_length=1, max_length=200, description="A queue's name")]


@router.post("/queues/{queue}/pause", response_model=Paused)
@blocking
@once()
def pause(queue: Queue, visit: Operating, body: Pause | None = None) -> Paused:
    """Pause a queue: nothing of it starts after this was answered; what runs goes on. It outlives restarts."""
    said = body or Pause()
    until = visit.until_ms(said.seconds)
    held = visit.queue.pause(queue, reason=said.reason, by=visit.by, until_ms=until)
    return Paused(paused=list(held), until=None if until is None else until / 1000)


@router.post("/queues/{queue}/resume", response_model=Resumed)
@blocking
@once()
def resume(queue: Queue, visit: Operating, body: Reason | None = None) -> Resumed:
    """End a queue's pause; what waits starts in its turn."""
    reason = body.reason if body else ""
    return Resumed(resumed=visit.queue.resume(queue, reason=reason, by=visit.by))


@router.post("/queues/{queue}/drain", response_model=Bulk)
@blocking
@once()
def drain(queue: Queue, visit: Operating, body: Drain) -> Bulk:
    """Postpone all that waits on a queue, or remove it; what runs goes on. ``dry_run`` tells what it would be."""
    return visit.queue.drain(
        visit.queue.check_queue(queue),
        delay_seconds=body.delay_seconds,
        remove=body.remove,
        model=body.model,
        org=body.org,
        reason=body.reason,
        by=visit.by,
        dry_run=body.dry_run,
    )


@router.post("/queues/{queue}/retry", response_model=Bulk)
@blocking
@once()
def retry(queue: Queue, visit: Operating, body: Retry | None = None) -> Bulk:
    """Resubmit the failed and unprocessable jobs of a queue. ``dry_run`` tells which."""
    said = body or Retry()
    return visit.queue.retry_failed(
        error=said.error,
        queue=visit.queue.check_queue(queue),
        model=said.model,
        org=said.org,
        reason=said.reason,
        by=visit.by,
        dry_run=said.dry_run,
    )
