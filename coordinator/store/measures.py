"""Measures: how long things took, as totals of buckets that only grow. No I/O.

They are worked out from the events of a batch, and added to the totals in the transaction that records it: so no
process has counters of its own, a scrape reads some rows, and nothing falls when jobs and log are pruned.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from coordinator.resources import kind_of
from coordinator.states import HOLDING, State, Verb
from coordinator.store.transitions import Transition

#: What the names of these totals begin with.
PREFIX = "measure."

#: Upper bounds of the buckets in milliseconds: hand-offs take one, trainings a day.
BOUNDS_MS = (
    *(5, 10, 25, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 30_000, 60_000),
    *(300_000, 900_000, 3_600_000, 14_400_000, 86_400_000),
)

#: Labels of the buckets, and of the sum beside them.
BUCKETS = (*map(str, BOUNDS_MS), "inf")
SUM = "sum"

#: Durations: from submission (or its due time) to the first start; from blocked on a model to admitted; from admitted
#: to running; from admitted to given back, of jobs with models; from start to end.
WAIT, LOCK_WAIT, HANDOFF, LOCK_HOLD, RUN = "wait", "lock_wait", "handoff", "lock_hold", "run"

#: What workers count themselves: claims that were refused to them, and how often they lost their lease and fenced
#: themselves; by worker, so that each count begins at nothing once.
REFUSED_CLAIMS, FENCED = "refused_claims", "fenced"

#: Counts: jobs blocked at first, by kind of resource; of each org started, waited (ms), completed and failed.
BLOCKED = "blocked"
ORG_STARTED, ORG_WAITED, ORG_COMPLETED, ORG_FAILED = (
    "org_started",
    "org_waited",
    "org_completed",
    "org_failed",
)

Totals = defaultdict[tuple[str, str, str], int]

# Looked up for every event: plain texts, since members of an enumeration are found several times slower.
_HOLDING = frozenset(state.value for state in HOLDING)
_DISPATCHED, _COMPLETED = State.DISPATCHED.value, State.COMPLETED.value
_STARTED, _BLOCKED = Verb.STARTED.value, Verb.BLOCKED.value
_FAILED = frozenset(state.value for state in (State.FAILED, State.UNPROCESSABLE))

#: What these measures take from a job's row, or from an event of the batch that is newer.
_READ = ("sequence", "due_at", "dispatched_at", "conflict_reason", "model", "org")


class Measures:
    """Adds up what a batch of events says.

    Args:
        totals: what is added to.
        rows: the jobs' rows as they were before the batch.
    """

    def __init__(self, totals: Totals, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self.totals, self.rows = totals, rows
        self._known: dict[str, dict[str, Any]] = {}

    def add(self, steps: Iterable[tuple[Transition, str | None]]) -> None:
        """Add events with the state before each; those of one job are in their order."""
        rows, known = self.rows.get, self._known
        for item, before in steps:
            job_id = item.event.job_id
            row = rows(job_id)
            if row is None:
                continue
            job = known.get(job_id)
            if job is None:
                job = known[job_id] = {name: row[name] for name in _READ}
            self._add(item, before, row["queue"], job)
            for name in _READ:
                if name in item.changes:
                    job[name] = item.changes[name]
            if item.job is not None:
                # From here on it is another job under the same id: replaced, or resubmitted otherwise.
                models = item.job.models
                job["model"], job["org"] = models[0] if models else None, item.job.org

    def _add(
        self,
        item: Transition,
        before: str | None,
        queue: str,
        job: Mapping[str, Any],
    ) -> None:
        event, state = item.event, item.changes.get("state")
        if event.verb == _BLOCKED:
            kind = kind_of(str(event.data.get("resource") or ""))
            self.totals[PREFIX + BLOCKED, queue, kind] += 1
        elif state == _DISPATCHED:
            if job["dispatched_at"] is None and (job["conflict_reason"] or "").startswith("Model "):
                self._took(LOCK_WAIT, queue, event.at_ms - _ready(job))
        elif event.verb == _STARTED:
            self._started(item, queue, job)
        elif state is not None and before in _HOLDING and state not in _HOLDING:
            self._gave_back(item, state, queue, job)

    def _started(self, item: Transition, queue: str, job: Mapping[str, Any]) -> None:
        at = item.event.at_ms
        if job["dispatched_at"] is not None:
            self._took(HANDOFF, queue, at - job["dispatched_at"])
        if item.changes.get("attempts") != 1:
            # A run after the first waited for its retry, or for the end of a lease.
            return
        waited = self._took(WAIT, queue, at - _ready(job))
        if job["org"] is not None:
            self.totals[PREFIX + ORG_STARTED, queue, job["org"]] += 1
            self.totals[PREFIX + ORG_WAITED, queue, job["org"]] += waited

    def _gave_back(self, item: Transition, state: str, queue: str, job: Mapping[str, Any]) -> None:
        event = item.event
        if job["model"] is not None and job["dispatched_at"] is not None:
            self._took(LOCK_HOLD, queue, event.at_ms - job["dispatched_at"])
        if event.data.get("runtime_ms") is not None:
            self._took(RUN, queue, int(event.data["runtime_ms"]))
        if job["org"] is not None and (state == _COMPLETED or state in _FAILED):
            name = ORG_COMPLETED if state == _COMPLETED else ORG_FAILED
            self.totals[PREFIX + name, queue, job["org"]] += 1

    def _took(self, name: str, queue: str, duration_ms: int) -> int:
        # Two clocks of Redis, before and after a failover, could give less than nothing.
        took = max(0, duration_ms)
        self.totals[PREFIX + name, queue, BUCKETS[bisect_left(BOUNDS_MS, took)]] += 1
        self.totals[PREFIX + name, queue, SUM] += took
        return took


def _ready(job: Mapping[str, Any]) -> int:
    """Return from when on a job could have started: sequences are microseconds of Redis's clock."""
    return int(max(job["sequence"] // 1000, job["due_at"] or 0))
