"""The route that Prometheus scrapes."""

from __future__ import annotations

from fastapi import APIRouter, Response

from coordinator.metrics import CONTENT_TYPE, scrape
from coordinator.web.visits import COMMON, Guarded, Viewing, blocking

router = APIRouter(route_class=Guarded, tags=["status"], responses=COMMON)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
@blocking
def metrics(visit: Viewing) -> Response:
    """Show all metrics in Prometheus's text format; give it a viewer's token (`credentials_file`)."""
    # Not `visit.queue`: it waits for a restore, and what is wrong is to be seen just then.
    return Response(scrape(visit.records), media_type=CONTENT_TYPE)
