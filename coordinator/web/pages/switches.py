"""What is switched from the pages: pauses, circuit breakers, the stop of everything."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import Response

from coordinator.errors import InvalidValue
from coordinator.resources import SERIAL_RESOURCE
from coordinator.web.pages.forms import Form, Paged, Sent
from coordinator.web.pages.frame import Told, back
from coordinator.web.pages.words import HOME
from coordinator.web.visits import Operating, Ruling, blocking

router = APIRouter(route_class=Paged)

#: What can be paused, as the forms name it.
_KINDS = ("queue", "model", "org", "integration")


@router.post("/pause")
@blocking
def pause(visit: Operating, form: Sent) -> Response:
    """Pause a queue, a model, an org or an integration; nothing of it starts after this was answered."""
    what, until = _what(form), visit.until_ms(form.seconds("for"))
    reason = form.text("reason") or ""
    visit.queue.pause(**what, reason=reason, by=visit.by, until_ms=until)
    name = " ".join(f"{kind} {name}" for kind, name in what.items())
    return back(form.text("back"), Told(f"Paused {name}.", f"{HOME}resume", what))


@router.post("/resume")
@blocking
def resume(visit: Operating, form: Sent) -> Response:
    """End a pause; what waits starts in its turn."""
    what = _what(form)
    was = visit.queue.resume(**what, reason=form.text("reason") or "", by=visit.by)
    name = " ".join(f"{kind} {name}" for kind, name in what.items())
    return back(form.text("back"), Told(f"Resumed {name}." if was else f"{name} was not paused."))


@router.post("/panic/open")
@blocking
def open_panic(visit: Ruling, form: Sent) -> Response:
    """Open a circuit breaker, or stop everything."""
    scope, reason = form.needed("scope"), form.text("reason") or ""
    if scope == SERIAL_RESOURCE:
        visit.queue.emergency_stop(release=False, reason=reason, by=visit.by)
        return back(form.text("back"), Told("Everything is stopped: nothing new starts."))
    until = visit.until_ms(form.seconds("for"))
    visit.queue.open_panic(scope, until_ms=until, reason=reason, by=visit.by)
    return back(form.text("back"), Told(f"The circuit breaker of {scope} is open."))


@router.post("/panic/close")
@blocking
def close_panic(visit: Ruling, form: Sent) -> Response:
    """Close a circuit breaker, one run at a time first if so wanted; or resume everything."""
    scope, reason = form.needed("scope"), form.text("reason") or ""
    if scope == SERIAL_RESOURCE:
        visit.queue.emergency_resume(reason=reason, by=visit.by)
        return back(form.text("back"), Told("Everything is resumed."))
    probe = form.text("probe") is not None
    visit.queue.close_panic(scope, probe=probe, reason=reason, by=visit.by)
    said = "probes, one run at a time" if probe else "is closed"
    return back(form.text("back"), Told(f"The circuit breaker of {scope} {said}."))


def _what(form: Form) -> dict[str, str]:
    # Nothing given would be everything: that is the emergency stop, and an admin's.
    given = {kind: said for kind in _KINDS if (said := form.text(kind)) is not None}
    if not given:
        raise InvalidValue("queue", "", "given, or a model, org or integration")
    return given
