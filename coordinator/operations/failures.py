"""Failures and stuck jobs: what went wrong, and what hangs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from coordinator.errors import InvalidValue
from coordinator.operations.listings import Listings
from coordinator.paging import checked_limit
from coordinator.resources import models_of

STUCK_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that failed or became unprocessable; ``failed_at`` is Unix seconds."""

    id: str
    error: str
    task: str
    queue: str
    models: tuple[str, ...]
    org: str | None
    status: str
    worker: str | None
    attempts: int
    retries: int
    failed_at: float


@dataclass(frozen=True, slots=True)
class ErrorPattern:
    """Errors that differ in numbers, ids, paths and quoted words only.

    Attributes:
        pattern: the message with these replaced by ``<n>``, ``<id>``, ``<path>`` and ``<text>``.
        count: jobs.
        first_seen, last_seen: Unix seconds.
        example, example_id: the message of one of them, and its job.
    """

    pattern: str
    count: int
    first_seen: float
    last_seen: float
    example: str
    example_id: str


@dataclass(frozen=True, slots=True)
class StuckJob:
    """A job that runs for long without telling of progress. Moments are Unix seconds.

    Attributes:
        id, task, queue, models, worker, attempt: the run.
        claimed_at, age_seconds: when it began, and how long ago that is.
        silent_seconds: since it last told of progress, or since it began.
        progress: what it told last.
        state: ``running``, or ``stopping`` when it was told to end.
    """

    id: str
    task: str
    queue: str
    models: tuple[str, ...]
    worker: str
    attempt: int
    claimed_at: float
    age_seconds: float
    silent_seconds: float
    progress: dict[str, Any]
    state: str


class Failures(Listings):
    """The reads about what went wrong."""

    def get_recent_failures(
        self,
        limit: int = 50,
        *,
        since_ms: int = 0,
        queue: str | None = None,
        text: str | None = None,
    ) -> list[Failure]:
        """Return failed and unprocessable jobs, the latest first.

        Args:
            limit: at most so many, from 1 to 10,000.
            since_ms: only those that ended since (Unix milliseconds).
            queue: only of this queue.
            text: only those whose error contains it.

        Raises:
            InvalidValue: a wrong limit.
            StoreUnavailable: the database cannot be asked.
        """
        rows = self.store.failures(checked_limit(limit), since_ms=since_ms, queue=queue, text=text)
        return [
            Failure(
                row["job_id"],
                row["error"] or "",
                row["task"],
                row["queue"],
                tuple(row["required_models"]),
                row["org"],
                row["status"],
                row["worker"],
                row["attempts"],
                row["retries"],
                row["finished_at"] / 1000,
            )
            for row in rows
        ]

    def get_error_patterns(
        self, limit: int = 20, *, since_ms: int = 0, queue: str | None = None
    ) -> list[ErrorPattern]:
        """Return what failed jobs failed with, alike messages together, the most frequent first.

        Args:
            limit: patterns at most.
            since_ms: only of jobs that ended since (Unix milliseconds).
            queue: only of this queue.
        """
        checked_limit(limit)
        found: dict[str, ErrorPattern] = {}
        for row in self.store.errors(since_ms, queue):
            pattern = pattern_of(row["error"])
            first, last = row["first_at"] / 1000, row["last_at"] / 1000
            known = found.get(pattern)
            example = (row["error"], row["job_id"])
            if known is not None:
                if known.last_seen > last:
                    example = (known.example, known.example_id)
                first, last = min(first, known.first_seen), max(last, known.last_seen)
            count = int(row["jobs"]) + (known.count if known else 0)
            found[pattern] = ErrorPattern(pattern, count, first, last, *example)
        return sorted(found.values(), key=lambda item: (-item.count, item.pattern))[:limit]

    def get_stuck_jobs(
        self, threshold_seconds: float = STUCK_SECONDS, queue: str | None = None
    ) -> list[StuckJob]:
        """Return jobs that run for longer than a threshold without telling of progress, the longest first.

        Being listed is no verdict: a job that does not call ``progress()`` is listed however well it does.

        Args:
            threshold_seconds: 0 lists everything that runs.
            queue: only of this queue.

        Raises:
            InvalidValue: a negative threshold.
            LedgerUnavailable: Redis was not reached.
        """
        if not threshold_seconds >= 0:
            raise InvalidValue("threshold_seconds", threshold_seconds, "a number from 0 up")
        now = self.ledger.clock()
        found = []
        for job in self.ledger.running():
            started = int(job.get("started") or now)
            told = max(started, int(job.get("progressed") or 0))
            silent = max(0, now - told) / 1000
            if silent < threshold_seconds or (queue is not None and job["queue"] != queue):
                continue
            found.append(
                StuckJob(
                    job["id"],
                    job["task"],
                    job["queue"],
                    models_of((job.get("held") or job.get("needs") or "").split()),
                    job.get("worker", ""),
                    int(job.get("attempts") or 1),
                    started / 1000,
                    max(0, now - started) / 1000,
                    silent,
                    json.loads(job.get("progress") or "{}"),
                    job["state"],
                )
            )
        return sorted(found, key=lambda job: (-job.silent_seconds, job.id))


_HEX = r"(?=[0-9a-f]*\d)[0-9a-f]"
_REPLACED = (
    (re.compile(rf"\b{_HEX}{{8}}(?:-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}\b", re.I), "<id>"),
    (re.compile(r"'[^']*'|\"[^\"]*\""), "<text>"),
    (re.compile(r"(?<![\w/])/[^\s:,;)\]]+"), "<path>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.I), "<n>"),
    (re.compile(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", re.I), "<id>"),
    (re.compile(r"(?<![A-Za-z_])[-+]?\d+(?:\.\d+)*"), "<n>"),
)

#: Characters of a message that make its pattern: what follows is detail.
PATTERN_LENGTH = 200


def pattern_of(error: str) -> str:
    """Return a message without what differs from one failure to the next."""
    text = error.strip().splitlines()[0] if error.strip() else "(no message)"
    text = text[: 4 * PATTERN_LENGTH]
    for rule, word in _REPLACED:
        text = rule.sub(word, text)
    return " ".join(text.split())[:PATTERN_LENGTH]
