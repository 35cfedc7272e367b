"""Jobs as people see them: one, pages of them, their story."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.errors import InvalidValue, LedgerUnavailable
from coordinator.paging import Page, checked_limit, parse_cursor
from coordinator.recovery.catching_up import CatchingUp
from coordinator.states import ALIASES, FINAL, NOTED, State, Verb, status

logger = logging.getLogger("coordinator")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job: what was accepted, and where it stands now. Times are Unix seconds.

    Attributes:
        job_id, task, job_type: its id; its task under both names.
        queue, models, org, priority: what it needs.
        status, detail, state: the outside words, and the ledger's state.
        worker: of its present or last run.
        attempts: runs begun; retries and max_retries as Celery counts them; losses: runs lost with a worker.
        queued_at, due_at, started_at, finished_at, last_heartbeat: moments, None if not (yet).
        blocked_by_job_id, conflict_reason, queue_position: what stopped it when it was submitted; ask
            ``why`` for the present.
        args, kwargs, result, error: as text.
        progress: what the running job told last.
        timeout: seconds it may run, or None.
        cursor: where a listing goes on after it.
    """

    job_id: str
    task: str
    job_type: str
    queue: str
    models: tuple[str, ...]
    org: str | None
    priority: int
    status: str
    detail: str
    state: str
    worker: str | None
    attempts: int
    retries: int
    max_retries: int
    losses: int
    queued_at: float
    due_at: float | None
    started_at: float | None
    finished_at: float | None
    last_heartbeat: float | None
    blocked_by_job_id: str | None
    conflict_reason: str | None
    queue_position: int | None
    args: str
    kwargs: str
    result: str | None
    error: str | None
    timeout: float | None
    cursor: str
    progress: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the log: what happened, to what, when (Unix seconds), who did it and why."""

    at: float
    event: str
    job_id: str
    task: str | None
    queue: str | None
    who: str | None
    why: str | None
    resource: str | None
    before: str | None
    after: str | None
    data: dict[str, Any]
    cursor: str


class Listings(CatchingUp):
    """The reads about single jobs and pages of them."""

    def get_job(self, job_id: str) -> JobRecord:
        """Return a job; with Redis away as the store last knew it.

        Raises:
            UnknownJob: no such job, or it ended so long ago that it was pruned.
            StoreUnavailable: the database cannot be asked.
        """
        row = self.store.job(job_id)
        if row is None:
            raise self.unknown_job(job_id)
        return record_of(row, self._standing([job_id]).get(job_id))

    def get_jobs(
        self,
        *,
        status: str | None = None,
        queue: str | None = None,
        model: str | None = None,
        org: str | None = None,
        text: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
        oldest_first: bool = False,
    ) -> Page[JobRecord]:
        """Return a page of jobs, the newest first; with Redis away as the store last knew them.

        Args:
            status: PENDING, PROCESSING, COMPLETED, FAILED, UNPROCESSABLE or CANCELED, in any case.
            queue, model, org: only jobs of these.
            text: only jobs whose id, task, arguments or error contain it.
            limit: at most so many, from 1 to 10,000.
            cursor: that of the previous page.
            oldest_first: the other way round.

        Raises:
            InvalidValue: an unknown status, a wrong limit or cursor.
        """
        if status is not None:
            # It is the database that filters: a moment ago may not be in it yet.
            self.catch_up(1.0)
        rows = self.store.jobs(
            status=status,
            queue=queue,
            model=model,
            org=org,
            text=text,
            limit=checked_limit(limit),
            cursor=parse_cursor(cursor),
            oldest_first=oldest_first,
        )
        open_ids = [row["job_id"] for row in rows if row["finished_at"] is None]
        standing = self._standing(open_ids)
        found = [record_of(row, standing.get(row["job_id"])) for row in rows]
        # The store may be a moment behind: what has moved on meanwhile is not of this status any more.
        shown = [job for job in found if status is None or job.status == status.upper()]
        return Page(shown, found, limit)

    def _standing(self, job_ids: list[str]) -> dict[str, dict[str, str]]:
        try:
            return self.ledger.standing(job_ids)
        except LedgerUnavailable as error:
            # Whoever looks for what went wrong must not be kept from it by that.
            logger.warning("[COORDINATOR] jobs are shown as they were last recorded: %s", error)
            return {}

    def get_audit(
        self,
        *,
        event: str | None = None,
        job_id: str | None = None,
        resource: str | None = None,
        who: str | None = None,
        since_ms: int = 0,
        until_ms: int = 0,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[AuditEntry]:
        """Return a page of the log, the newest first.

        Args:
            event: a verb such as ``paused``, or one of WORK_QUEUED, WORK_CLAIMED, WORK_COMPLETED, WORK_TIMEOUT.
            job_id, resource, who: only entries of these.
            since_ms, until_ms: from and up to these moments (Unix milliseconds); 0 is open.
            limit: at most so many, from 1 to 10,000.
            cursor: that of the previous page.

        Raises:
            InvalidValue: an unknown event, a wrong limit or cursor.
        """
        rows = self.store.audit(
            event=None if event is None else checked_event(event),
            job_id=job_id,
            resource=resource,
            who=who,
            since_ms=since_ms,
            until_ms=until_ms,
            limit=checked_limit(limit),
            cursor=parse_cursor(cursor),
        )
        entries = [_entry(row) for row in rows]
        return Page(entries, entries, limit)

    def get_history(self, job_id: str) -> list[AuditEntry]:
        """Return all that happened to a job, the oldest first; empty when nothing is recorded (any more)."""
        return [_entry(row) for row in self.store.history(job_id)]


def record_of(row: Mapping[str, Any], now: Mapping[str, str] | None = None) -> JobRecord:
    """Return a row of the store as people see it.

    Args:
        row: the row.
        now: what the ledger says of the job, which counts more unless it has ended.
    """
    row = dict(row)
    # One that was resubmitted a moment ago has ended according to the store alone.
    if now is not None and (row["finished_at"] is None or State(now["state"]) not in FINAL):
        row["finished_at"] = None
        row["state"] = now["state"]
        row["retries"] = int(now.get("retries") or 0)
        row["attempts"] = int(now.get("attempts") or row["attempts"])
        row["due_at"] = int(now["due"]) if "due" in now else row["due_at"]
        row["worker"] = now.get("worker") or row["worker"]
        row["started_at"] = int(now["started"]) if "started" in now else row["started_at"]
        row["progress"] = json.loads(now["progress"]) if now.get("progress") else row["progress"]
    word, detail = status(State(row["state"]), row["retries"])
    return JobRecord(
        job_id=row["job_id"],
        task=row["task"],
        job_type=row["task"],
        queue=row["queue"],
        models=tuple(row["required_models"]),
        org=row["org"],
        priority=row["priority"],
        status=word,
        detail=detail,
        state=row["state"],
        worker=row["worker"],
        attempts=row["attempts"],
        retries=row["retries"],
        max_retries=row["max_retries"],
        losses=row["losses"],
        queued_at=row["queued_at"] / 1000,
        due_at=seconds(row["due_at"]),
        started_at=seconds(row["started_at"]),
        finished_at=seconds(row["finished_at"]),
        last_heartbeat=seconds(row["last_heartbeat"]),
        blocked_by_job_id=row["blocked_by_job_id"],
        conflict_reason=row["conflict_reason"],
        queue_position=row["queue_position"],
        args=row["args_repr"],
        kwargs=row["kwargs_repr"],
        result=row["result"],
        error=row["error"],
        timeout=row["timeout"],
        cursor=f"{row['sequence']}.{row['job_id']}",
        progress=row["progress"] if isinstance(row["progress"], dict) else {},
    )


def seconds(milliseconds: int | None) -> float | None:
    """Return Unix seconds."""
    return None if milliseconds is None else milliseconds / 1000


def checked_event(event: str) -> str:
    """Return the name that an event is asked for by.

    Raises:
        InvalidValue: neither a verb, nor noted in the log, nor an older name.
    """
    known = sorted({verb.value for verb in Verb} | NOTED | set(ALIASES))
    if event not in known:
        # Or a typing error looks like a log in which nothing of the kind has happened.
        raise InvalidValue("event", event, "a verb of the log, such as paused or failed", known)
    return event


def _entry(row: Mapping[str, Any]) -> AuditEntry:
    return AuditEntry(
        at=row["at"] / 1000,
        event=row["event_type"],
        job_id=row["job_id"],
        task=row["task"],
        queue=row["queue"],
        who=row["who"],
        why=row["why"],
        resource=row["resource"],
        before=row["before"],
        after=row["after"],
        data=dict(row["data"] or {}),
        cursor=f"{row['ordinal']}.{row['event_id']}",
    )
