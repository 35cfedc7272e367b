"""Routes that look: what runs and waits, workers, locks, the log."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from coordinator.operations.attention import look
from coordinator.operations.overview import ActiveJob
from coordinator.recovery.roster import versions
from coordinator.web.bodies import (
    Active,
    Assignment,
    Audit,
    Live,
    Locks,
    Name,
    Queued,
    QueueStatus,
    Status,
    WorkAssignmentStatus,
    Workers,
    WorkQueueStatus,
)
from coordinator.web.jobs import Cursor
from coordinator.web.visits import COMMON, Guarded, Viewing, blocking

router = APIRouter(route_class=Guarded, tags=["status"], responses=COMMON)
public = APIRouter(tags=["status"])

Moment = Annotated[float | None, Query(ge=0, le=1e11, allow_inf_nan=False)]


@public.get("/live", response_model=Live)
async def live() -> Live:
    """Tell that the server answers. The one route that asks nobody who they are."""
    return Live(alive=True)


@router.get("/status", response_model=Status)
@blocking
def glance(visit: Viewing) -> Status:
    """Show queues, workers, what runs, what waits and why, and what needs attention."""
    found = look(visit.queue)
    peers = sorted({worker.node for worker in found["workers"]})
    version = versions().get("celery-coordinator", "unknown")
    return Status(version=version, alive_peers=peers, **found)


@router.get("/queue/status", response_model=QueueStatus)
@blocking
def queue_status(
    visit: Viewing, limit: Annotated[int, Query(ge=1, le=200, description="Of queued_jobs")] = 50
) -> QueueStatus:
    """Show the jobs that run, and those that wait first with what blocks them."""
    work_queue = visit.queue
    active = [_active(one) for one in work_queue.active()]
    queued = [
        Queued(
            job_id=one.id,
            job_type=one.task,
            model=one.models[0] if one.models else None,
            models=list(one.models),
            blocked_by_job_id=one.blocked_by_job_id,
            conflict_reason=one.conflict_reason,
            queue_position=one.queue_position,
            queued_at=one.queued_at,
        )
        for one in work_queue.blocked(limit)
    ]
    return QueueStatus(
        active_job=active[0] if active else None,
        active_jobs=active,
        queued_jobs=queued,
        queue_length=work_queue.get_pending_count(),
    )


@router.get("/work_queue_status", response_model=WorkQueueStatus)
@blocking
def work_queue_status(visit: Viewing, queue: Name | None = None) -> WorkQueueStatus:
    """Show numbers, of one queue or of all; ``stalled`` is of all."""
    work_queue = visit.queue
    if queue is not None:
        work_queue.check_queue(queue)
    workers = [one for one in work_queue.get_active_workers() if queue in (None, *one.queues)]
    return WorkQueueStatus(
        **work_queue.get_stats(queue),
        active_workers=len(workers),
        stalled=len(work_queue.get_stalled_jobs()),
    )


@router.get("/work_assignment_status", response_model=WorkAssignmentStatus)
@blocking
def work_assignment_status(visit: Viewing) -> WorkAssignmentStatus:
    """Show what each live worker was given since it registered, and what came of it."""
    return WorkAssignmentStatus(
        workers=[
            Assignment(
                worker=one.id,
                node=one.node,
                assigned=one.assigned,
                completed=one.completed,
                failed=one.failed,
                running=len(one.jobs),
            )
            for one in visit.queue.get_active_workers()
        ]
    )


@router.get("/workers", response_model=Workers)
@blocking
def workers(visit: Viewing, inactive: bool = True) -> Workers:
    """List the workers, those that are gone too unless ``inactive`` is false."""
    return Workers(workers=visit.queue.get_workers(inactive))


@router.get("/locks", response_model=Locks)
@blocking
def locks(
    visit: Viewing,
    kind: Annotated[
        list[Literal["model", "org", "queue", "integration", "serial"]] | None,
        Query(max_length=5, description="By default models"),
    ] = None,
) -> Locks:
    """List what is held, waited for or paused, with its holders."""
    return Locks(locks=visit.queue.get_locks(tuple(kind or ("model",))))


@router.get("/audit", response_model=Audit)
@blocking
def audit(
    visit: Viewing,
    event: Annotated[
        str | None, Query(max_length=100, description="A verb such as paused, or WORK_QUEUED ...")
    ] = None,
    job_id: Name | None = None,
    resource: Name | None = None,
    who: Name | None = None,
    since: Moment = None,
    until: Moment = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Cursor = None,
) -> Audit:
    """Read the log, the newest first: what happened, who did it and why. Moments are Unix seconds."""
    found = visit.records.get_audit(
        event=event,
        job_id=job_id,
        resource=resource,
        who=who,
        since_ms=int((since or 0) * 1000),
        until_ms=int((until or 0) * 1000),
        limit=limit,
        cursor=cursor,
    )
    return Audit(entries=found, next_cursor=found.cursor)


def _active(one: ActiveJob) -> Active:
    return Active(
        job_id=one.id,
        job_type=one.task,
        models=list(one.models),
        queue=one.queue,
        worker=one.worker,
        started_at=one.started_ms / 1000,
        state=one.state,
    )
