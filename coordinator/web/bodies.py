"""What requests say and answers tell, where it is no record of the work queue itself."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from coordinator.breaker import Breaker
from coordinator.ledger import Lock
from coordinator.operations.holds import Hold
from coordinator.operations.listings import AuditEntry, JobRecord
from coordinator.operations.overview import ActiveJob, ActiveWorker, BlockedJob, QueueState
from coordinator.operations.shares import OrgShare
from coordinator.workers import WorkerRecord

#: Ten years: nobody means more, and sums with it still fit a date.
LONG = 10 * 366 * 86_400

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=2000)]
Seconds = Annotated[float, Field(gt=0, le=LONG, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]


class Body(BaseModel):
    """A body whose fields are all known: one that is misspelt is refused, not ignored."""

    model_config = ConfigDict(extra="forbid")


class JobRequest(BaseModel):
    """A job. Any other field is a keyword argument of the task."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {"task": "tasks.training.train", "model": "tic-tac-toe", "org": "acme", "epochs": 2}
            ]
        },
    )
    __pydantic_extra__: dict[str, JsonValue]

    task: Name | None = Field(default=None, description="The task's name, or else a job_type")
    job_type: Name | None = Field(default=None, description="One of coordinator_job_types")
    args: list[JsonValue] | None = None
    kwargs: dict[str, JsonValue] | None = None
    queue: Name | None = Field(default=None, description="By default as the app routes the task")
    model: Name | None = Field(
        default=None, description="The model it needs; also the task's argument of this name"
    )
    models: list[Name] | None = Field(default=None, max_length=100, description="Or several models")
    org: Name | None = None
    integration: Name | None = None
    priority: Annotated[int, Field(ge=0, le=9)] | None = Field(
        default=None, description="0 first; 5 by default"
    )
    max_retries: Annotated[int, Field(ge=0, le=1000)] | None = None
    timeout: Seconds | None = Field(default=None, description="Seconds it may run")
    countdown: Seconds | None = Field(
        default=None, description="Seconds before which it does not start"
    )


class JobAccepted(BaseModel):
    """A job that was accepted, and whether it starts at once or what stops it."""

    job_id: str
    status: str = Field(examples=["PENDING"])
    detail: str = Field(examples=["waiting"])
    state: str = Field(examples=["waiting"])
    blocked_by_job_id: str | None = Field(examples=["1f2c"])
    conflict_reason: str | None = Field(
        examples=["Model conflict: tic-tac-toe in use by normal job 1f2c"]
    )
    queue_position: int | None = Field(examples=[1])
    expected_start: float | None = Field(description="Unix seconds; null when it cannot be told")


class Reason(Body):
    """Why; kept in the log with who."""

    reason: Text = ""


class Changed(Reason):
    """Why, and the arguments the job has from now on."""

    args: list[JsonValue] | None = Field(default=None, description="Instead of those it had")
    kwargs: dict[str, JsonValue] | None = Field(
        default=None, description="Added to those it had, or replaced"
    )


class Pause(Reason):
    """Why, and for how long."""

    seconds: Seconds | None = Field(default=None, description="It ends by itself after so long")


class Drain(Reason):
    """Postpone what waits, or remove it."""

    delay_seconds: Seconds | None = Field(default=None, examples=[86400])
    remove: bool = False
    model: Name | None = None
    org: Name | None = None
    dry_run: bool = False


class Retry(Reason):
    """Which failed jobs are brought back."""

    error: Text | None = Field(
        default=None, description="Only those whose error contains this text"
    )
    model: Name | None = None
    org: Name | None = None
    dry_run: bool = False


class OrgLimit(Reason):
    """How many jobs an org may run at once."""

    limit: Count
    queue: Name | None = Field(
        default=None, description="On this queue; by default on each there is"
    )
    seconds: Seconds | None = Field(default=None, description="Only for so long")


class Panic(Reason):
    """Why, and after how long it probes whether it is over."""

    seconds: Seconds | None = None
    release: bool = Field(default=False, description="For serial: stop what runs, too")
    dry_run: bool = False


class Login(Body):
    """A user's name and password."""

    user: Name
    password: Annotated[str, Field(min_length=1, max_length=1000)]


class Who(BaseModel):
    """Who calls, and what the pages of a session send as X-CSRF-Token."""

    name: str
    kind: str = Field(examples=["user", "token"])
    scope: str = Field(examples=["operator"])
    csrf_token: str


class Live(BaseModel):
    """That the server answers."""

    alive: bool


class JobState(BaseModel):
    """What an action made of a job."""

    job_id: str
    state: str = Field(examples=["canceled", "stopping", "waiting"])


class Jobs(BaseModel):
    """A page of jobs."""

    jobs: list[JobRecord]
    next_cursor: str | None


class Events(BaseModel):
    """What happened to a job, the oldest first."""

    job_id: str
    events: list[AuditEntry]


class Audit(BaseModel):
    """A page of the log."""

    entries: list[AuditEntry]
    next_cursor: str | None


class Paused(BaseModel):
    """What is paused now."""

    paused: list[str] = Field(examples=[["queue:training"]])
    until: float | None


class Resumed(BaseModel):
    """Whether there was a pause."""

    resumed: bool


class Active(BaseModel):
    """A job that runs."""

    job_id: str
    job_type: str
    models: list[str]
    queue: str
    worker: str
    started_at: float
    state: str


class Queued(BaseModel):
    """A job that waits."""

    job_id: str
    job_type: str
    model: str | None
    models: list[str]
    blocked_by_job_id: str | None
    conflict_reason: str
    queue_position: int
    queued_at: float | None


class QueueStatus(BaseModel):
    """What runs and what waits."""

    active_job: Active | None = Field(description="The one that runs for longest")
    active_jobs: list[Active]
    queued_jobs: list[Queued] = Field(description="The first that wait")
    queue_length: int = Field(description="All jobs that are pending")


class WorkQueueStatus(BaseModel):
    """Numbers."""

    pending: int
    in_progress: int
    active_workers: int
    stalled: int = Field(
        description="Jobs that run on workers that were not heard of for 5 seconds"
    )
    completed_hour: int
    failed_hour: int
    oldest_item_age_seconds: float | None


class Assignment(BaseModel):
    """What a worker was given, and what came of it."""

    worker: str
    node: str
    assigned: int
    completed: int
    failed: int
    running: int


class WorkAssignmentStatus(BaseModel):
    """What each worker was given."""

    workers: list[Assignment]


class Stats(BaseModel):
    """Numbers of all queues."""

    pending: int
    in_progress: int
    completed_hour: int
    failed_hour: int
    oldest_item_age_seconds: float | None


class Status(BaseModel):
    """Everything at a glance."""

    at: float
    version: str
    alive_peers: list[str] = Field(description="Celery's names of the live workers")
    stats: Stats
    queues: list[QueueState]
    holds: list[Hold]
    workers: list[ActiveWorker]
    active: list[ActiveJob]
    blocked: list[BlockedJob]
    attention: list[str]


class Workers(BaseModel):
    """The workers by name."""

    workers: list[WorkerRecord]


class Locks(BaseModel):
    """What is held, waited for or paused."""

    locks: list[Lock]


class Orgs(BaseModel):
    """What each org uses of each queue."""

    orgs: list[OrgShare]


class Breakers(BaseModel):
    """The circuit breakers."""

    breakers: list[Breaker]


class Limits(BaseModel):
    """Limits that hold now."""

    limits: dict[str, int] = Field(examples=[{"org:training/acme": 3}])
    until: float | None


class Reset(BaseModel):
    """Limits that were taken back."""

    reset: list[str]
