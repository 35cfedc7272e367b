"""Routes of fair shares: what each org uses, and its limits."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from coordinator.web.bodies import Limits, Name, OrgLimit, Orgs, Reset, Text
from coordinator.web.problems import responses
from coordinator.web.visits import COMMON, Guarded, Ruling, Viewing, blocking

router = APIRouter(route_class=Guarded, tags=["orgs"], responses=COMMON | responses(404))

Org = Annotated[str, Path(min_length=1, max_length=200, description="An org's name")]


@router.get("/orgs", response_model=Orgs)
@blocking
def orgs(visit: Viewing, org: Name | None = None, queue: Name | None = None) -> Orgs:
    """Show what each org uses of each queue, its limit there, and where that comes from."""
    return Orgs(orgs=visit.queue.get_org_usage(org, queue))


@router.put("/orgs/{org}/limit", response_model=Limits)
@blocking
def limit(org: Org, body: OrgLimit, visit: Ruling) -> Limits:
    """Set how many jobs an org may run at once, for good or for a while; running ones go on."""
    until = visit.until_ms(body.seconds) or 0
    names = visit.queue.limit_org(
        org, body.limit, body.queue, until_ms=until, reason=body.reason, by=visit.by
    )
    return Limits(limits=dict.fromkeys(names, body.limit), until=until / 1000 if until else None)


@router.delete("/orgs/{org}/limit", response_model=Reset)
@blocking
def reset_limit(org: Org, visit: Ruling, queue: Name | None = None, reason: Text = "") -> Reset:
    """Take back an org's limits, temporary ones too: the configured ones hold again."""
    told = visit.queue.reset_limits(org, queue, reason=reason, by=visit.by)
    return Reset(reset=list(told.resources))
