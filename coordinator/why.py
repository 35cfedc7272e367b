"""Why a job does not run now: what stops it, who holds that, and its place in line.

Computed when asked, for blockers change.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.ledger import Ledger
from coordinator.resources import models_of, reason_text


@dataclass(frozen=True, slots=True)
class Why:
    """The answer.

    Attributes:
        job_id, state: the job and where it stands.
        code: ``full``, ``held``, ``no-worker``, ``no-slot``, ``wake``, ``turn``, ``restoring``,
            ``delayed``, ``running`` and so on.
        resource: what stops it first.
        holders: who holds that.
        position: its place among those that wait for it, from 1.
        reason: all of it in words.
        task, models: of the job.
    """

    job_id: str
    state: str
    code: str
    resource: str | None = None
    holders: tuple[str, ...] = ()
    position: int | None = None
    reason: str = ""
    task: str = ""
    models: tuple[str, ...] = ()


def explain(ledger: Ledger, job_id: str) -> Why | None:
    """Say why a job does not run; None when the ledger does not know it."""
    job = ledger.job(job_id)
    if job is None:
        return None
    state, task = job["state"], job.get("task", "")
    if state != "waiting":
        models = models_of((job.get("needs") or job.get("held") or "").split())
        return Why(job_id, state, state, task=task, models=models, reason=f"the job is {state}")
    parked = ledger.parked(job_id)
    if parked is None:
        # It was admitted between the two reads.
        return Why(job_id, "dispatched", "dispatched", task=task, reason="the job is dispatched")
    return Why(
        job_id,
        state,
        parked.code,
        parked.resource,
        parked.holders,
        parked.position,
        reason_text(parked.resource, parked.code, parked.holders),
        task,
        models_of(parked.needs),
    )
