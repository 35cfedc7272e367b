"""Pages of jobs: the list with its filters, and one job with its story."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from coordinator.errors import LedgerClosed, LedgerUnavailable, UnknownJob
from coordinator.operations.listings import JobRecord
from coordinator.operations.overview import ActiveWorker
from coordinator.operations.why import Why
from coordinator.web.pages.forms import Paged
from coordinator.web.pages.frame import show
from coordinator.web.visits import Viewing, Visit, blocking

router = APIRouter(route_class=Paged)

#: Jobs of a page.
ROWS = 50

#: The outside words in the order of a job's life.
STATUSES = ("PENDING", "PROCESSING", "COMPLETED", "FAILED", "UNPROCESSABLE", "CANCELED")

#: The filters, as they stand in the address.
FILTERS = ("status", "queue", "model", "org", "text")


@dataclass(frozen=True, slots=True)
class Line:
    """A job of the list, what stops it if it waits, and whether its worker is silent."""

    job: JobRecord
    why: Why | None
    stalled: bool


@router.get("/jobs")
@blocking
def listing(request: Request, visit: Viewing) -> Response:
    """List jobs, the newest first, a page at a time."""
    asked = request.query_params
    given = {name: (asked.get(name) or "").strip() or None for name in FILTERS}
    cursor = asked.get("cursor") or None
    found = visit.records.get_jobs(
        status=given["status"],
        queue=given["queue"],
        model=given["model"],
        org=given["org"],
        text=given["text"],
        limit=ROWS,
        cursor=cursor,
    )
    return show(
        visit,
        request,
        "jobs.html",
        lines=_lines(visit, found),
        given=given,
        statuses=STATUSES,
        queues=_queues(visit, given["queue"]),
        first=cursor is None,
        cursor=found.cursor,
    )


@router.get("/job")
@blocking
def single(
    request: Request, visit: Viewing, job_id: Annotated[str, Query(alias="id")] = ""
) -> Response:
    """Show a job: where it stands, why, and all that happened to it."""
    job = visit.records.get_job(job_id)
    workers, why, silent = _live(visit, job)
    worker = next((one for one in workers if one.id == job.worker), None)
    return show(
        visit,
        request,
        "job.html",
        job=job,
        why=why,
        worker=worker,
        stalled=silent,
        history=visit.records.get_history(job_id),
    )


def _live(visit: Visit, job: JobRecord) -> tuple[Sequence[ActiveWorker], Why | None, bool]:
    """Return what Redis knows more than the database, nothing when it is away."""
    queue = visit.records
    try:
        workers = queue.get_active_workers()
        why = queue.why(job.job_id) if job.finished_at is None else None
        silent = job.job_id in queue.get_stalled_jobs()
    except (LedgerUnavailable, LedgerClosed, UnknownJob):
        return (), None, False
    return workers, why, silent


def _lines(visit: Visit, jobs: Sequence[JobRecord]) -> list[Line]:
    queue = visit.records
    try:
        silent = set(queue.get_stalled_jobs())
        return [
            Line(
                job,
                queue.why(job.job_id) if job.state == "waiting" else None,
                job.job_id in silent,
            )
            for job in jobs
        ]
    except (LedgerUnavailable, LedgerClosed, UnknownJob):
        # Shown as they were last recorded; the list must not need Redis.
        return [Line(job, None, False) for job in jobs]


def _queues(visit: Visit, asked: str | None) -> list[str]:
    try:
        known = visit.records.known_queues()
    except LedgerUnavailable:
        known = set(visit.records.settings.queues)
    return sorted({*known, *([asked] if asked else ())})
