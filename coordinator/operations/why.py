"""Why a job does not run now: all that stops it, who holds that, its place in line, when it may start.

Computed when asked, for blockers change.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.ledger import Ledger, Obstacle, Waiting
from coordinator.operations.holds import hold_of, paused_text, start_worker, way_out
from coordinator.resources import kind_of, models_of, reason_text


@dataclass(frozen=True, slots=True)
class Why:
    """The answer.

    Attributes:
        job_id, state: the job and where it stands.
        code: what stops it first (see ``Obstacle.code``), ``turn`` when only its turn has to come, or
            its state when it does not wait.
        resource: what stops it first.
        obstacles: everything that stops it now.
        position: its place among those that wait for the first, from 1.
        expected_start_ms: when it may start by average run times (Unix milliseconds), None if unknown.
        reason: the first obstacle in words.
        remedy: what would let it go on.
        task, models: of the job.
        queued_ms: since when it is known (Unix milliseconds); None when the ledger has forgotten it.
    """

    job_id: str
    state: str
    code: str
    resource: str | None = None
    obstacles: tuple[Obstacle, ...] = ()
    position: int | None = None
    expected_start_ms: int | None = None
    reason: str = ""
    remedy: str = ""
    task: str = ""
    models: tuple[str, ...] = ()
    queued_ms: int | None = None

    @property
    def blocker(self) -> str | None:
        """The first of those that hold what stops it first, if any does."""
        holders = self.obstacles[0].holders if self.obstacles else ()
        return holders[0].id if holders else None


def explain(ledger: Ledger, job_id: str) -> Why | None:
    """Say why a job does not run; None when the ledger does not know it."""
    job = ledger.job(job_id)
    if job is None:
        return None
    state, task = job["state"], job.get("task", "")
    # Sequences are microseconds of Redis's clock, and a job keeps its own.
    queued = int(job["sequence"]) // 1000 if job.get("sequence") else None
    waits = ledger.waits(job_id) if state == "waiting" else None
    if waits is None:
        # Of a waiting job: it was admitted between the two reads.
        state = "dispatched" if state == "waiting" else state
        due = int(job["due"]) if state == "delayed" and "due" in job else None
        models = models_of((job.get("needs") or job.get("held") or "").split())
        return Why(
            job_id,
            state,
            state,
            expected_start_ms=due,
            reason=f"the job is {state}",
            task=task,
            models=models,
            queued_ms=queued,
        )
    first = waits.obstacles[0] if waits.obstacles else None
    code, resource = (first.code, first.resource) if first else ("turn", waits.parked)
    holders = [holder.id for holder in first.holders] if first else []
    return Why(
        job_id,
        state,
        code,
        resource,
        waits.obstacles,
        waits.position,
        _expected_start(waits),
        _reason(first, holders) if first else reason_text(resource, code, holders),
        remedy(first) if first else "nothing: it is about to start",
        task,
        models_of(waits.needs),
        queued,
    )


def _reason(obstacle: Obstacle, holders: list[str]) -> str:
    if obstacle.code == "held":
        return paused_text(hold_of(obstacle.resource, obstacle.hold or {}))
    return reason_text(obstacle.resource, obstacle.code, holders)


def _expected_start(waits: Waiting) -> int | None:
    """When all that is full is expected to be free for this job, by average run times."""
    start = waits.now_ms
    for obstacle in waits.obstacles:
        if obstacle.code in ("held", "closed", "no-worker", "restoring"):
            return None
        ends = sorted(
            waits.now_ms + max(0.0, holder.expected_ms - (waits.now_ms - holder.started_ms))
            if holder.started_ms is not None and holder.expected_ms is not None
            else waits.now_ms + waits.expected_ms
            for holder in obstacle.holders
        )
        if ends:
            ahead = waits.position - 1 if obstacle.resource == waits.parked else 0
            rounds, place = divmod(ahead, len(ends))
            start = max(start, int(ends[place] + rounds * waits.expected_ms))
    return start


def remedy(obstacle: Obstacle) -> str:
    """Say what would let a job go on that this stops."""
    kind, name = kind_of(obstacle.resource), obstacle.resource.partition(":")[2]
    if obstacle.code == "held":
        return way_out(obstacle.resource, hold_of(obstacle.resource, obstacle.hold or {}).source)
    if obstacle.code == "no-worker":
        return start_worker(name)
    if obstacle.code == "no-slot":
        return f"wait for a slot, or add workers to queue {name}"
    if obstacle.code == "closed":
        return f"raise the limit of {obstacle.resource} above 0"
    if obstacle.code == "reserved":
        return f"wait until job {obstacle.holders[0].id}, which has waited longest, has its models"
    if obstacle.code == "full" and obstacle.holders:
        holders = ", ".join(holder.id for holder in obstacle.holders)
        more = "" if kind == "model" else f", or raise the limit ({obstacle.limit})"
        return f"wait for the end of {holders}{more}"
    return "wait: it is about to be handed on"
