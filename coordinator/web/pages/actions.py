"""What operators do to jobs that they name: one, or those that are ticked in the list, after a preview."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import Response

from coordinator.errors import InvalidValue, Refused, UnknownJob
from coordinator.operations.listings import JobRecord
from coordinator.states import TRANSITIONS, Verb
from coordinator.web.pages.forms import Form, Paged, Sent
from coordinator.web.pages.frame import Told, back, show
from coordinator.web.pages.words import HOME
from coordinator.web.visits import Operating, Visit, blocking

router = APIRouter(route_class=Paged)

#: Jobs of one form: as many as a page has, and those of some pages before it.
MOST = 500


@dataclass(frozen=True, slots=True)
class Act:
    """Something that is done to a job.

    Attributes:
        name: the verb, as the work queue, the log and the button have it.
        did: what was done, in a sentence about a job.
        verb: of the state machine.
        undo: the verb that takes it back, "" when none does.
        effect: what it means, for who is about to do it.
    """

    name: str
    did: str
    verb: Verb
    undo: str
    effect: str

    @property
    def states(self) -> frozenset[str]:
        """The states in which it can be done."""
        return frozenset(
            before.value for before, verb, _ in TRANSITIONS if verb is self.verb and before
        )


ACTS: Mapping[str, Act] = {
    act.name: act
    for act in (
        Act(
            "cancel",
            "canceled",
            Verb.CANCELED,
            "resubmit",
            "What waits leaves its queue; what runs is stopped first.",
        ),
        Act(
            "resubmit",
            "resubmitted",
            Verb.RESUBMITTED,
            "cancel",
            "The job waits again behind the others, its retry count is kept.",
        ),
        Act(
            "release",
            "released",
            Verb.RELEASED,
            "",
            "The run is stopped and not counted; the job waits again at its old place.",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """A job and what became of it, or would.

    Attributes:
        job_id: the job.
        job: as it was found, None when it is not known.
        done: whether it was done, or would be.
        text: what is so now, or why not.
    """

    job_id: str
    job: JobRecord | None
    done: bool
    text: str


@router.post("/jobs/preview")
@blocking
def preview(request: Request, visit: Operating, form: Sent) -> Response:
    """Show what would become of the jobs that are ticked."""
    act, ids = _asked(form)
    found = [_foreseen(visit, act, job_id) for job_id in ids]
    return show(
        visit,
        request,
        "preview.html",
        act=act,
        outcomes=found,
        number=sum(one.done for one in found),
        to=form.text("back"),
        refresh=0,
    )


@router.post("/jobs/act")
@blocking
def act_on(request: Request, visit: Operating, form: Sent) -> Response:
    """Do it, and tell what became of each."""
    act, ids = _asked(form)
    reason = form.text("reason") or ""
    do = _doing(visit, act, reason)
    if len(ids) == 1:
        state = do(ids[0])
        told = Told(f"Job {ids[0]} is {state}.")
        if act.undo:
            told = Told(told.text, f"{HOME}jobs/act", {"verb": act.undo, "id": ids[0]})
        return back(form.text("back"), told)
    outcomes = [_tried(do, job_id) for job_id in ids]
    return show(
        visit,
        request,
        "outcome.html",
        act=act,
        outcomes=outcomes,
        number=sum(one.done for one in outcomes),
        to=form.text("back"),
        refresh=0,
    )


def _asked(form: Form) -> tuple[Act, tuple[str, ...]]:
    name, ids = form.needed("verb"), tuple(dict.fromkeys(form.all("id")))
    if name not in ACTS:
        raise InvalidValue("verb", name, "one of " + ", ".join(ACTS), ACTS)
    if not 1 <= len(ids) <= MOST:
        raise InvalidValue("id", f"{len(ids)} jobs", f"1 to {MOST} jobs: tick some in the list")
    return ACTS[name], ids


def _doing(visit: Visit, act: Act, reason: str) -> Callable[[str], str]:
    queue, by = visit.queue, visit.by
    match act.name:
        case "cancel":
            return lambda job_id: queue.cancel_job(job_id, reason, by)
        case "resubmit":
            return lambda job_id: queue.resubmit_job(job_id, reason=reason, by=by)
        case _:
            return lambda job_id: queue.release_job(job_id, reason, by)


def _foreseen(visit: Visit, act: Act, job_id: str) -> Outcome:
    try:
        job = visit.records.get_job(job_id)
    except UnknownJob:
        return Outcome(job_id, None, False, "not known (any more)")
    if job.state in act.states:
        return Outcome(job_id, job, True, f"would be {act.did}")
    return Outcome(job_id, job, False, f"left alone: it is {job.state}")


def _tried(do: Callable[[str], str], job_id: str) -> Outcome:
    try:
        return Outcome(job_id, None, True, do(job_id))
    except (Refused, UnknownJob) as error:
        return Outcome(job_id, None, False, str(error))
