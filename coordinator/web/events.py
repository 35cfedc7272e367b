"""The route of live updates, as server-sent events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from coordinator.web.bodies import Name
from coordinator.web.visits import COMMON, Guarded, Viewing

if TYPE_CHECKING:
    from coordinator.operations.listings import AuditEntry

router = APIRouter(route_class=Guarded, tags=["status"], responses=COMMON)


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "An entry of the log per message, as GET /audit has them; `event: gap` when there was too "
            "much to tell. It ends after a quarter of an hour; come again with the id of the last message.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def events(
    visit: Viewing,
    queue: Name | None = None,
    job_id: Name | None = None,
    last: Annotated[
        str | None, Header(alias="Last-Event-ID", pattern=r"^\d{1,19}\.\d{1,15}-\d{1,15}$")
    ] = None,
) -> StreamingResponse:
    """Follow the log as it grows, of one queue or one job or all."""

    def wanted(entry: AuditEntry) -> bool:
        return queue in (None, entry.queue) and job_id in (None, entry.job_id)

    lines = await visit.service.feed.listen(wanted, last)
    # Proxies that collect answers before they pass them on would make nothing of it.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines, media_type="text/event-stream", headers=headers)
