"""The page of models: how strong each is, what is done with it now, and what waits for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, Request
from fastapi.responses import Response

from coordinator.ledger import Lock
from coordinator.machine.snapshot import ModelLine, model_lines, summary_of
from coordinator.operations.holds import Hold, hold_of, paused_by
from coordinator.operations.overview import ActiveJob
from coordinator.web.pages.charts import Chart, Series, lines
from coordinator.web.pages.forms import Paged
from coordinator.web.pages.frame import recent, show
from coordinator.web.pages.operations import QUICKLY
from coordinator.web.visits import Viewing, blocking

router = APIRouter(route_class=Paged)

#: Models that are shown, those that the app tells of first.
SHOWN = 60


@dataclass(frozen=True, slots=True)
class Card:
    """A model.

    Attributes:
        name: of the model.
        line: how far it has come, None when the app does not tell.
        elo: its strength by generation as a drawing, None when there is less than two to draw.
        running: the jobs that have it now.
        waiting: jobs that wait for it before anything else.
        hold: its pause, if it has one.
    """

    name: str
    line: ModelLine | None
    elo: Chart | None
    running: tuple[ActiveJob, ...]
    waiting: int
    hold: Hold | None


@router.get("/models")
@blocking
def models(request: Request, visit: Viewing) -> Response:
    """Show every model that is trained, used, waited for or paused."""
    queue = visit.queue
    summary = summary_of(visit.service.celery)
    told, wrong = model_lines(summary)
    held = {
        one.resource.partition(":")[2]: one
        for one in recent(request).get(QUICKLY, partial(queue.get_locks, ("model",)), "models")
    }
    known = {one.model: one for one in told}
    running = queue.active()
    busy = sorted(held, key=lambda name: (-held[name].waiting, name))
    names = [*known, *(name for name in busy if name not in known)]
    return show(
        visit,
        request,
        "models.html",
        cards=[_card(name, known.get(name), held.get(name), running) for name in names[:SHOWN]],
        paused_by=paused_by,
        more=max(0, len(names) - SHOWN),
        wrong=wrong,
        tells=summary is not None,
    )


def _card(
    name: str, line: ModelLine | None, lock: Lock | None, running: Sequence[ActiveJob]
) -> Card:
    hold = hold_of(lock.resource, lock.hold) if lock and lock.hold else None
    using = tuple(job for job in running if name in job.models)
    return Card(name, line, _elo(line) if line else None, using, lock.waiting if lock else 0, hold)


def _elo(line: ModelLine) -> Chart | None:
    if len(line.elo_history) < 2:
        return None
    # The app tells the strengths of the last generations, the present one among them.
    first = line.generation - len(line.elo_history) + 1
    titles = [
        f"generation {first + place}: Elo {elo:+.0f}" for place, elo in enumerate(line.elo_history)
    ]
    return lines([Series("elo", line.elo_history, titles)], from_zero=False)
