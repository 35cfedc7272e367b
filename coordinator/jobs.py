"""What a job is when it is handed over: the values that ledger and store share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordinator.resources import class_of, models_of


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it is submitted.

    Attributes:
        job_id: the Celery task id.
        task: the task's name.
        queue: the queue it runs on.
        needs: its resources, in the order in which they are tried (see ``resources.needs_of``).
        message: the serialized Celery message without its last two closing braces, so that the ledger
            can append the token to the headers.
        org: the organisation it runs for.
        priority: 0 first to 9 last.
        max_retries: retries and lost runs after which it is given up; -1 is unlimited retries.
        due_ms: not before this moment (Unix milliseconds); 0 is now.
        expires_ms: not after this moment (Unix milliseconds); 0 is never.
        timeout: seconds it may run, or None.
        heartbeat_timeout: seconds it may go without reporting progress, or None.
        retries: retries already made (Celery's count).
        args_repr, kwargs_repr: its arguments as text, for people.
        root_id, parent_id: its place in a Celery canvas.
        submitted_ms: when it was submitted (Unix milliseconds, the producer's clock).
        owner: the workflow execution that holds resources on its behalf, or "".
    """

    job_id: str
    task: str
    queue: str
    needs: tuple[str, ...]
    message: str
    org: str | None = None
    priority: int = 5
    max_retries: int = 3
    due_ms: int = 0
    expires_ms: int = 0
    timeout: float | None = None
    heartbeat_timeout: float | None = None
    retries: int = 0
    args_repr: str = ""
    kwargs_repr: str = ""
    root_id: str | None = None
    parent_id: str | None = None
    submitted_ms: int = 0
    owner: str = ""

    @property
    def class_id(self) -> str:
        return class_of(self.needs, self.priority, self.owner)

    @property
    def models(self) -> tuple[str, ...]:
        return models_of(self.needs)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a run as Celery keeps it on Redis.

    Attributes:
        key: where it is kept, and the channel on which it is published.
        seconds: how long it is kept; 0 is for ever.
        value: as it was encoded.
    """

    key: str
    seconds: int
    value: str | bytes


def event_order(event_id: str) -> tuple[int, int]:
    """Return what sorts the ids of a stream's events as they were written; "" is before all of them."""
    milliseconds, _, part = event_id.partition("-")
    return int(milliseconds or 0), int(part or 0)


# Not frozen, which would triple the cost of making one; nobody changes it all the same.
@dataclass(slots=True)
class Event:
    """One transition, as the ledger wrote it to its stream in the same step.

    Attributes:
        epoch: the ledger's epoch.
        event_id: the stream's id; (epoch, event_id) is unique for ever.
        verb: what happened (``states.Verb`` for jobs, else an operator's verb such as ``paused``).
        job_id: the job, or "" for what concerns no single job.
        version: grows with each change of this job within an epoch.
        at_ms: Redis's clock, Unix milliseconds.
        data: the rest; ``state`` is present whenever the job's state changed.
    """

    epoch: int
    event_id: str
    verb: str
    job_id: str
    version: int
    at_ms: int
    data: dict[str, Any]
