"""Which jobs a bulk verb is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Selection:
    """A filter; everything that is given must fit, nothing given fits all.

    Attributes:
        queue, model, org, task: of the job; each of a job's models counts.
        error: part of the error's text, upper and lower case being different.
        job_id: one job.
    """

    queue: str | None = None
    model: str | None = None
    org: str | None = None
    task: str | None = None
    error: str | None = None
    job_id: str | None = None

    def __str__(self) -> str:
        given = [
            f"{name} {value}"
            for name in ("queue", "model", "org", "task", "error", "job_id")
            if (value := getattr(self, name)) is not None
        ]
        return ", ".join(given) or "all"
