"""Verbs about all jobs that fit: shown first, done when they are sent again from what was shown."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import Response

from coordinator.errors import InvalidValue
from coordinator.operations.bulk import Bulk
from coordinator.selection import Selection
from coordinator.web.pages.forms import Form, Paged, Sent
from coordinator.web.pages.frame import show
from coordinator.web.visits import Operating, Viewing, Visit, blocking

router = APIRouter(route_class=Paged)

#: The verbs, and what each means.
VERBS: Mapping[str, str] = {
    "retry": "Resubmit failed and unprocessable jobs, the oldest first.",
    "cancel": "Cancel everything that has not ended; what runs is stopped.",
    "postpone": "Let nothing that waits start for a while; what runs goes on.",
    "remove": "Cancel everything that waits; what runs goes on.",
}

_FIELDS = ("queue", "model", "org", "error")


@router.get("/bulk")
@blocking
def asking(request: Request, visit: Viewing) -> Response:
    """Show the form: which verb, which jobs."""
    asked = request.query_params
    given = {name: asked.get(name) or "" for name in ("verb", *_FIELDS, "delay")}
    queues = sorted(visit.records.known_queues())
    return show(
        visit, request, "bulk.html", verbs=VERBS, given=given, queues=queues, done=None, refresh=0
    )


@router.post("/bulk")
@blocking
def doing(request: Request, visit: Operating, form: Sent) -> Response:
    """Show what it would be; do it when this was what the form came from."""
    given = {name: form.text(name) or "" for name in ("verb", *_FIELDS, "delay", "reason")}
    told = _carry_out(visit, form, dry_run=form.text("sure") is None)
    queues = sorted(visit.records.known_queues())
    return show(
        visit, request, "bulk.html", verbs=VERBS, given=given, queues=queues, done=told, refresh=0
    )


def _carry_out(visit: Visit, form: Form, *, dry_run: bool) -> Bulk:
    queue, model, org, error = (form.text(name) for name in _FIELDS)
    verb, reason, by, work_queue = (
        form.needed("verb"),
        form.text("reason") or "",
        visit.by,
        visit.queue,
    )
    if queue is not None:
        work_queue.check_queue(queue)
    if error is not None and verb != "retry":
        raise InvalidValue("error", error, "empty: only what has failed has an error")
    match verb:
        case "retry":
            return work_queue.retry_failed(
                error=error,
                queue=queue,
                model=model,
                org=org,
                reason=reason,
                by=by,
                dry_run=dry_run,
            )
        case "cancel":
            chosen = Selection(queue, model, org)
            return work_queue.cancel_jobs(chosen, reason=reason, by=by, dry_run=dry_run)
        case "postpone" | "remove":
            removes = verb == "remove"
            return work_queue.drain(
                queue,
                delay_seconds=None if removes else form.seconds("delay") or 86_400,
                remove=removes,
                model=model,
                org=org,
                reason=reason,
                by=by,
                dry_run=dry_run,
            )
    raise InvalidValue("verb", verb, "one of " + ", ".join(VERBS), VERBS)
