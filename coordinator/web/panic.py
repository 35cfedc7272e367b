"""Routes of panic mode and of health."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from coordinator.breaker import Breaker, PanicStep
from coordinator.errors import InvalidValue
from coordinator.operations.health import HealthReport
from coordinator.resources import SERIAL_RESOURCE
from coordinator.web.bodies import Breakers, Panic, Text
from coordinator.web.problems import responses
from coordinator.web.visits import COMMON, Guarded, Ruling, Viewing, blocking

router = APIRouter(route_class=Guarded, tags=["health"], responses=COMMON | responses(404))

Scope = Annotated[
    str,
    Path(
        min_length=1,
        max_length=200,
        description="queue:NAME, integration:NAME, or serial for everything",
        examples=["queue:training"],
    ),
]


@router.get("/panic", response_model=Breakers)
@blocking
def breakers(visit: Viewing) -> Breakers:
    """List the circuit breakers that are not closed, or whose jobs have ended of late."""
    return Breakers(breakers=visit.queue.get_panic())


@router.get("/panic/{scope}", response_model=Breaker)
@blocking
def breaker(scope: Scope, visit: Viewing) -> Breaker:
    """Show a circuit breaker, whatever its state."""
    return visit.queue.get_panic(scope)[0]


@router.put("/panic/{scope}", response_model=list[PanicStep], responses=responses(409))
@blocking
def open_panic(scope: Scope, visit: Ruling, body: Panic | None = None) -> tuple[PanicStep, ...]:
    """Open a circuit breaker: nothing that needs it starts after this was answered. ``serial`` stops everything."""
    said = body or Panic()
    until = visit.until_ms(said.seconds)
    if scope == SERIAL_RESOURCE and until is None:
        return visit.queue.emergency_stop(
            release=said.release, reason=said.reason, by=visit.by, dry_run=said.dry_run
        )
    if said.release:
        raise InvalidValue("release", True, "for serial, without seconds: the stop of everything")
    return visit.queue.open_panic(
        scope, until_ms=until, reason=said.reason, by=visit.by, dry_run=said.dry_run
    )


@router.delete("/panic/{scope}", response_model=list[PanicStep], responses=responses(409))
@blocking
def close_panic(
    scope: Scope, visit: Ruling, probe: bool = False, reason: Text = "", dry_run: bool = False
) -> tuple[PanicStep, ...]:
    """Close a circuit breaker; with ``probe`` one run at a time comes first. ``serial`` resumes everything."""
    if scope == SERIAL_RESOURCE and not probe:
        return visit.queue.emergency_resume(reason=reason, by=visit.by, dry_run=dry_run)
    return visit.queue.close_panic(scope, probe=probe, reason=reason, by=visit.by, dry_run=dry_run)


@router.get("/health", response_model=HealthReport)
@blocking
def health(visit: Viewing) -> HealthReport:
    """Tell how the installation and each queue do, with the reasons; ``is_healthy`` says it in a word.

    Answered with Redis away, too: that is one of the reasons.
    """
    return visit.records.health_check()
