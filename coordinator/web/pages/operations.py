"""The page of what is going on: queues, what runs and waits, workers, locks, orgs, panic, the populator."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from coordinator.durations import shown_duration
from coordinator.ledger import Lock
from coordinator.maintenance import populator_of
from coordinator.operations.attention import attention
from coordinator.operations.health import QueueHealth
from coordinator.operations.holds import Hold, hold_of, paused_by
from coordinator.operations.overview import QueueState
from coordinator.populator import Population
from coordinator.resources import SERIAL_RESOURCE
from coordinator.web.pages.forms import Paged
from coordinator.web.pages.frame import recent, show
from coordinator.web.visits import Viewing, Visit, blocking

if TYPE_CHECKING:
    from coordinator.store import Store

router = APIRouter(route_class=Paged)

#: Jobs and locks that are listed; the list of jobs has them all.
SHOWN, LOCKS = 12, 30

#: Seconds for which pages share an answer: what changes with every job, and what is a judgement over an hour.
QUICKLY, SLOWLY = 1.5, 15.0

_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Flow:
    """A queue: its counts, how it does, and how its jobs of the last hour ended."""

    state: QueueState
    health: QueueHealth
    completed: int
    failed: int
    slots: int

    @property
    def hold(self) -> Hold | None:
        """The queue's own pause, which its button ends."""
        return next((one for one in self.state.holds if one.resource.startswith("queue:")), None)


@dataclass(frozen=True, slots=True)
class Matter:
    """Something to look at first.

    Attributes:
        level: ``warning`` or ``critical``.
        text: what it is.
        command: what goes on from it at a terminal, "" when there is nothing to type.
    """

    level: str
    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """A lock and its pause, if it has one."""

    lock: Lock
    hold: Hold | None


@router.get("/")
@blocking
def operations(request: Request, visit: Viewing) -> Response:
    """Show everything at this moment."""
    queue = visit.queue
    states, holds, workers = queue.queues(), queue.get_holds(), queue.get_workers(inactive=False)
    known = recent(request)
    health = {one.queue: one for one in known.get(SLOWLY, queue.get_queue_health, "health")}
    since = int(time.time() * 1000) - _HOUR_MS
    flows = [
        Flow(
            one,
            health[one.queue],
            *known.get(QUICKLY, partial(_ended, queue.store, since, one.queue), "ended", one.queue),
            sum(worker.slots for worker in workers if one.queue in worker.queues),
        )
        for one in states
        if one.queue in health
    ]
    completed, failed = known.get(QUICKLY, partial(_ended, queue.store, since, None), "ended")
    stats = {
        "pending": sum(one.pending for one in states),
        "in_progress": sum(one.running for one in states),
        "completed_hour": completed,
        "failed_hour": failed,
        "oldest": queue.store.oldest_pending_age(),
    }
    silent = set(queue.get_stalled_jobs())
    running = queue.active()
    return show(
        visit,
        request,
        "operations.html",
        stats=stats,
        flows=flows,
        matters=_matters(visit, states, holds, stats, len(silent)),
        holds=holds,
        paused_by=paused_by,
        running=running[:SHOWN],
        silent=silent,
        more_running=max(0, len(running) - SHOWN),
        blocked=queue.blocked(SHOWN),
        workers=workers,
        locks=_locks(
            (
                *known.get(QUICKLY, partial(queue.get_locks, ("model",)), "models"),
                # Each kind goes through all keys, and these change seldom; what is paused is told above anyway.
                *known.get(SLOWLY, partial(queue.get_locks, ("integration", "serial")), "others"),
            )
        ),
        shares=known.get(QUICKLY, queue.get_org_usage, "orgs"),
        breakers=known.get(QUICKLY, queue.get_panic, "panic"),
        serialized=queue.settings.serialized,
        population=_population(visit),
    )


def _ended(store: Store, since_ms: int, queue: str | None) -> tuple[int, int]:
    return store.completed_since(since_ms, queue), store.failed_since(since_ms, queue)


def _matters(
    visit: Visit,
    states: Sequence[QueueState],
    holds: Sequence[Hold],
    stats: Mapping[str, Any],
    stalled: int,
) -> list[Matter]:
    queue = visit.queue
    found = [
        Matter(one.level, *_parts(one.message))
        for one in queue.get_alerts()
        if one.level != "resolved"
    ]
    if stalled:
        lease = shown_duration(queue.settings.lease_seconds)
        found.append(
            Matter(
                "warning",
                f"{stalled} running on workers that are silent; they wait again within {lease}",
            )
        )
    lines = attention(states, holds, stats, len(queue.get_stuck_jobs()))
    return [*found, *(Matter("warning", *_parts(line)) for line in lines)]


def _parts(line: str) -> tuple[str, str]:
    """Return a line of what needs attention, and the command that it ends with."""
    text, _, command = line.rpartition("; ")
    return (text, command) if text and command.startswith("coordinator ") else (line, "")


def _locks(locks: Iterable[Lock]) -> list[Held]:
    # Where somebody waits comes first: that is what one looks for.
    # "Everything" is a lock only where it is limited, paused or waited for.
    locks = [
        lock
        for lock in locks
        if lock.resource != SERIAL_RESOURCE or lock.waiting or lock.hold or lock.limit
    ]
    chosen = sorted(locks, key=lambda lock: (-lock.waiting, lock.resource))[:LOCKS]
    return [Held(one, hold_of(one.resource, one.hold) if one.hold else None) for one in chosen]


def _population(visit: Visit) -> Population | None:
    populator = populator_of(visit.service.celery)
    return None if populator is None else populator.last
