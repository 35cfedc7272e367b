"""Routes of jobs: submit, look, cancel, resubmit, release."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from coordinator.errors import (
    InvalidValue,
    LedgerClosed,
    LedgerUnavailable,
    StoreUnavailable,
    UnknownJob,
)
from coordinator.messages.calls import call_of, send
from coordinator.operations.listings import JobRecord
from coordinator.operations.why import Why
from coordinator.states import State, status
from coordinator.web.bodies import (
    Changed,
    Events,
    JobAccepted,
    JobRequest,
    Jobs,
    JobState,
    Name,
    Reason,
)
from coordinator.web.problems import responses
from coordinator.web.visits import COMMON, Guarded, Operating, Viewing, blocking, once

router = APIRouter(route_class=Guarded, tags=["jobs"], responses=COMMON)

JobId = Annotated[str, Path(min_length=1, max_length=200, description="A job's id")]
Cursor = Annotated[
    str | None, Query(max_length=300, description="next_cursor of the page before this one")
]


@router.post("/jobs", status_code=202, response_model=JobAccepted)
@blocking
@once(202)
def submit(body: JobRequest, visit: Operating) -> JobAccepted:
    """Submit a job. The answer tells whether it starts at once, or what stops it.

    Only tasks that are registered or have a rule; only commands and callables that the settings allow.
    """
    given = body.model_dump(exclude_unset=True, include=set(JobRequest.model_fields))
    fields = {name: value for name, value in given.items() if value is not None}
    more = body.model_extra or {}
    known = fields.get("kwargs", {})
    for name in more:
        if name in known:
            raise InvalidValue(name, more[name], "given once: it is in kwargs too")
    if more:
        fields["kwargs"] = {**known, **more}
    call = call_of(visit.service.celery, fields)
    job_id = send(visit.service.celery, call, visit.nonce)
    visit.records.note_request(job_id, visit.by)
    return _accepted(visit, job_id)


def _accepted(visit: Operating, job_id: str) -> JobAccepted:
    try:
        why = visit.records.why(job_id)
    except (LedgerUnavailable, LedgerClosed, StoreUnavailable, UnknownJob) as error:
        # It is accepted all the same: an error would have it sent again.
        word, detail = status(State.WAITING)
        reason = f"accepted; it is entered when the ledger is back: {error}"
        return JobAccepted(
            job_id=job_id,
            status=word,
            detail=detail,
            state="waiting",
            blocked_by_job_id=None,
            conflict_reason=reason,
            queue_position=None,
            expected_start=None,
        )
    word, detail = status(State(why.state))
    waits = why.state == "waiting"
    return JobAccepted(
        job_id=job_id,
        status=word,
        detail=detail,
        state=why.state,
        blocked_by_job_id=why.blocker,
        conflict_reason=why.reason if waits else None,
        queue_position=why.position,
        expected_start=None if why.expected_start_ms is None else why.expected_start_ms / 1000,
    )


@router.get("/jobs", response_model=Jobs)
@blocking
def jobs(
    visit: Viewing,
    status: Annotated[
        Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED", "UNPROCESSABLE", "CANCELED"] | None,
        Query(),
    ] = None,
    queue: Name | None = None,
    model: Name | None = None,
    org: Name | None = None,
    text: Annotated[
        str | None,
        Query(max_length=200, description="In the id, task, arguments or error"),
    ] = None,
    order: Literal["newest", "oldest"] = "newest",
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Cursor = None,
) -> Jobs:
    """List jobs, page by page: go on with ``next_cursor`` until it is null."""
    found = visit.records.get_jobs(
        status=status,
        queue=queue,
        model=model,
        org=org,
        text=text,
        limit=limit,
        cursor=cursor,
        oldest_first=order == "oldest",
    )
    return Jobs(jobs=found, next_cursor=found.cursor)


@router.get("/jobs/{job_id}", response_model=JobRecord, responses=responses(404))
@blocking
def job(job_id: JobId, visit: Viewing) -> JobRecord:
    """Show a job: what was accepted, and where it stands now."""
    return visit.records.get_job(job_id)


@router.get("/jobs/{job_id}/why", response_model=Why, responses=responses(404))
@blocking
def why(job_id: JobId, visit: Viewing) -> Why:
    """Say why a job does not run now: all that stops it, who holds that, its place, when it may start."""
    return visit.queue.why(job_id)


@router.get("/jobs/{job_id}/events", response_model=Events, responses=responses(404))
@blocking
def job_events(job_id: JobId, visit: Viewing) -> Events:
    """Show all that happened to a job, the oldest first."""
    visit.records.get_job(job_id)
    return Events(job_id=job_id, events=visit.records.get_history(job_id))


@router.post("/jobs/{job_id}/cancel", response_model=JobState, responses=responses(404, 409))
@blocking
@once()
def cancel(job_id: JobId, visit: Operating, body: Reason | None = None) -> JobState:
    """Cancel a job that waits, runs, failed or is unprocessable; a running one is stopped first."""
    state = visit.queue.cancel_job(job_id, body.reason if body else "", visit.by)
    return JobState(job_id=job_id, state=state)


@router.post("/jobs/{job_id}/resubmit", response_model=JobState, responses=responses(404, 409))
@blocking
@once()
def resubmit(job_id: JobId, visit: Operating, body: Changed | None = None) -> JobState:
    """Bring a failed, unprocessable or canceled job back to waiting; its retry count is kept."""
    said = body or Changed()
    state = visit.queue.resubmit_job(
        job_id, args=said.args, kwargs=said.kwargs, reason=said.reason, by=visit.by
    )
    return JobState(job_id=job_id, state=state)


@router.post("/jobs/{job_id}/release", response_model=JobState, responses=responses(404, 409))
@blocking
@once()
def release(job_id: JobId, visit: Operating, body: Reason | None = None) -> JobState:
    """Stop a running job and put it back to waiting, without counting the run against it."""
    state = visit.queue.release_job(job_id, body.reason if body else None, visit.by)
    return JobState(job_id=job_id, state=state)
