"""How fast it goes: throughput over time, and the slowest jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.errors import InvalidValue
from coordinator.operations.listings import Listings
from coordinator.paging import checked_limit

#: Rows of one answer.
MOST_BUCKETS = 1000


@dataclass(frozen=True, slots=True)
class Bucket:
    """What happened in one stretch of time, which begins at ``at`` (Unix seconds).

    ``wait_seconds`` and ``run_seconds`` are averages of the jobs that ended in it, None when none did.
    """

    at: float
    submitted: int
    completed: int
    failed: int
    retried: int
    blocked: int = 0
    wait_seconds: float | None = None
    run_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Throughput:
    """What happened over a while.

    Attributes:
        seconds, bucket_seconds: the while, and the stretches it is cut into.
        submitted, completed, failed, retried: their sums; failed counts unprocessable too.
        blocked: jobs that could not start when they were submitted.
        per_minute: completed jobs.
        wait_seconds, run_seconds: averages of the jobs that ended, None when none did.
        longest_wait_seconds: of these jobs.
        buckets: the stretches, the oldest first; those in which nothing happened too.
    """

    seconds: float
    bucket_seconds: float
    submitted: int
    completed: int
    failed: int
    retried: int
    per_minute: float
    wait_seconds: float | None
    run_seconds: float | None
    buckets: tuple[Bucket, ...]
    blocked: int = 0
    longest_wait_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class SlowJob:
    """A job and how long it took: in its last run, or in the present one."""

    id: str
    task: str
    queue: str
    models: tuple[str, ...]
    worker: str | None
    state: str
    run_seconds: float
    wait_seconds: float
    attempts: int


class Rates(Listings):
    """The reads about speed."""

    def get_throughput(
        self, seconds: float = 3600, bucket_seconds: float = 300, queue: str | None = None
    ) -> Throughput:
        """Return how many jobs were submitted, completed, failed and retried of late.

        Args:
            seconds: how far to look back; at most as far as the log goes (7 days by default).
            bucket_seconds: length of one stretch.
            queue: only of this queue.

        Raises:
            InvalidValue: a span that is not positive, or more than 1,000 stretches.
        """
        for name, value in (("seconds", seconds), ("bucket_seconds", bucket_seconds)):
            if not value > 0:
                raise InvalidValue(name, value, "a positive number of seconds")
        if seconds / bucket_seconds > MOST_BUCKETS:
            allowed = f"at least {seconds / MOST_BUCKETS:g}: {MOST_BUCKETS} stretches at most"
            raise InvalidValue("bucket_seconds", bucket_seconds, allowed)
        bucket_ms, now_ms = int(bucket_seconds * 1000), time.time_ns() // 1_000_000
        since_ms = now_ms - int(seconds * 1000)
        counted = self.store.throughput(since_ms, bucket_ms, queue)
        timed = self.store.timings(since_ms, bucket_ms, queue)
        buckets = []
        for at in range(since_ms // bucket_ms * bucket_ms, now_ms + 1, bucket_ms):
            verbs = counted.get(at, {})
            failed = verbs.get("failed", 0) + verbs.get("unprocessable", 0)
            parts = verbs.get("submitted", 0), verbs.get("completed", 0), failed
            others = verbs.get("retried", 0), verbs.get("blocked", 0)
            buckets.append(Bucket(at / 1000, *parts, *others, *_averages(timed.get(at))))
        sums = [sum(column) for column in zip(*timed.values(), strict=True)]
        waited, ran = _averages(sums)
        longest = max((one[2] for one in timed.values()), default=None)
        completed = sum(bucket.completed for bucket in buckets)
        return Throughput(
            seconds,
            bucket_seconds,
            sum(bucket.submitted for bucket in buckets),
            completed,
            sum(bucket.failed for bucket in buckets),
            sum(bucket.retried for bucket in buckets),
            completed / seconds * 60,
            waited,
            ran,
            tuple(buckets),
            sum(bucket.blocked for bucket in buckets),
            None if longest is None else longest / 1000,
        )

    def get_slow_jobs(
        self, limit: int = 20, seconds: float = 86_400, queue: str | None = None
    ) -> list[SlowJob]:
        """Return the jobs whose run takes or took longest, running ones among them.

        Args:
            limit: at most so many, from 1 to 10,000.
            seconds: how far to look back for those that have ended.
            queue: only of this queue.
        """
        checked_limit(limit)
        if not seconds > 0:
            raise InvalidValue("seconds", seconds, "a positive number of seconds")
        now_ms = self.ledger.clock()
        found = [
            SlowJob(
                row["job_id"],
                row["task"],
                row["queue"],
                tuple(row["required_models"]),
                row["worker"],
                row["state"],
                (row["finished_at"] - row["started_at"]) / 1000,
                max(0, row["started_at"] - row["queued_at"]) / 1000,
                row["attempts"],
            )
            for row in self.store.slowest(now_ms - int(seconds * 1000), limit, queue)
        ]
        running = {job["id"]: job for job in self.ledger.running()}
        for job_id, row in self.store.stored(sorted(running)).items():
            job = running[job_id]
            started = int(job.get("started") or now_ms)
            if queue is None or job["queue"] == queue:
                found.append(
                    SlowJob(
                        job_id,
                        job["task"],
                        job["queue"],
                        row.job.models,
                        job.get("worker"),
                        job["state"],
                        max(0, now_ms - started) / 1000,
                        max(0, started - row.queued_ms) / 1000,
                        int(job.get("attempts") or 1),
                    )
                )
        return sorted(found, key=lambda job: (-job.run_seconds, job.id))[:limit]


def _averages(timing: Sequence[int] | None) -> tuple[float | None, float | None]:
    """Return seconds that jobs had waited and run on average, None where none had ended."""
    if not timing:
        return None, None
    ended, waited, _, ran = timing
    return waited / ended / 1000, ran / ended / 1000
