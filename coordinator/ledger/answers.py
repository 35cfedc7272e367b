"""What the ledger answers. Refusals are values."""

from __future__ import annotations

from dataclasses import dataclass, field


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
class Parked:
    """What stops a waiting job now; see ``Admission`` for the fields."""

    resource: str
    code: str
    holders: tuple[str, ...]
    position: int
    needs: tuple[str, ...]


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
        stop: running jobs that must end, with ``cancel`` or ``release``.
        lost: jobs the worker reported that are not, or no longer, its own.
        lease_ms: length of the lease.
    """

    answer: str
    stop: dict[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    lease_ms: int = 0
