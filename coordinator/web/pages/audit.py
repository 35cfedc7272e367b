"""The page of the log: what happened, who did it, why."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from coordinator.moments import parse_moment
from coordinator.states import ALIASES, NOTED, Verb
from coordinator.web.pages.forms import Paged
from coordinator.web.pages.frame import show
from coordinator.web.visits import Viewing, blocking

router = APIRouter(route_class=Paged)

ROWS = 100

FILTERS = ("event", "job_id", "resource", "who", "since", "until")


@router.get("/audit")
@blocking
def audit(request: Request, visit: Viewing) -> Response:
    """List the log, the newest first, a page at a time."""
    asked = request.query_params
    given = {name: (asked.get(name) or "").strip() for name in FILTERS}
    cursor = asked.get("cursor") or None
    found = visit.records.get_audit(
        event=given["event"] or None,
        job_id=given["job_id"] or None,
        resource=given["resource"] or None,
        who=given["who"] or None,
        since_ms=parse_moment("since", given["since"]) if given["since"] else 0,
        until_ms=parse_moment("until", given["until"]) if given["until"] else 0,
        limit=ROWS,
        cursor=cursor,
    )
    return show(
        visit,
        request,
        "audit.html",
        entries=found,
        given=given,
        events=sorted({*(verb.value for verb in Verb), *NOTED}),
        aliases=tuple(ALIASES),
        first=cursor is None,
        cursor=found.cursor,
    )
