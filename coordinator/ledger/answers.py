"""What the ledger answers. Refusals are values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of a submitted job.

    Attributes:
        job_id: the job.
        state: ``dispatched``, ``waiting`` or ``delayed``; of a job known before, its present state.
        known: whether it had been submitted before, so that nothing changed.
        resource, code: what stops a waiting job, and why.
        holders: up to three owners of that resource.
        position: its place among those that wait for it, from 1.
    """

    job_id: str
    state: str
    known: bool = False
    resource: str | None = None
    code: str | None = None
    holders: tuple[str, ...] = ()
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a unit of a resource.

    Attributes:
        id: the job or workflow execution.
        task, worker, state: of its run, where it is a job.
        started_ms: when the run began (Unix milliseconds, Redis's clock), if it has.
        expected_ms: how long a run of this task takes on average.
    """

    id: str
    task: str | None = None
    worker: str | None = None
    state: str | None = None
    started_ms: int | None = None
    expected_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A resource that stops a job now.

    Attributes:
        resource: its name.
        code: ``full``, ``closed`` (its limit is 0), ``held``, ``no-worker``, ``no-slot``, ``reserved``
            (kept for a job of several models), ``wake`` (about to be handed on) or ``restoring``.
        limit: how many units there are, None when it is not limited.
        in_use: how many of them are held.
        holders: up to five who hold them.
        hold: who paused it, why and until when, if it is held.
    """

    resource: str
    code: str
    limit: int | None = None
    in_use: int = 0
    holders: tuple[Holder, ...] = ()
    hold: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """What stops a waiting job at one moment.

    Attributes:
        now_ms: the moment, Redis's clock in Unix milliseconds.
        needs: its resources.
        parked: the resource it waits for first.
        position: its place among those that wait for that, from 1.
        expected_ms: how long its own run takes on average.
        obstacles: all that stops it, in the order of its needs; none when only its turn has to come.
    """

    now_ms: int
    needs: tuple[str, ...]
    parked: str
    position: int
    expected_ms: float
    obstacles: tuple[Obstacle, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """The answer to a claim: ``granted``, ``stale``, ``held`` or ``no-worker``."""

    answer: str
    attempts: int = 0
    losses: int = 0
    held: tuple[str, ...] = ()

    @property
    def granted(self) -> bool:
        return self.answer == "granted"


@dataclass(frozen=True, slots=True)
class Finish:
    """The answer to a finish.

    Attributes:
        answer: ``done``, ``again`` (said before), ``stale`` (another run has the job) or ``gone``.
        state: where the job stands now.
        started: jobs that were dispatched in the same step.
    """

    answer: str
    state: str | None = None
    started: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Renewal:
    """The answer to a renewal.

    Attributes:
        answer: ``ok``, or ``expired``: the worker has lost all its jobs.
        stop: running jobs that must end, with ``cancel``, ``release`` or ``fail``.
        lost: jobs the worker reported that are not, or no longer, its own.
        lease_ms: length of the lease.
        silent: milliseconds without a sign of life, by job, from a second on.
        unfetched: messages in its queues that no worker has fetched.
        workers: how many there are.
    """

    answer: str
    stop: dict[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    lease_ms: int = 0
    silent: dict[str, int] = field(default_factory=dict)
    unfetched: int = 0
    workers: int = 1
