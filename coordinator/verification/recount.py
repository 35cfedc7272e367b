"""What every part of a verification has: the jobs, and the list of what differs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from coordinator.states import State
from coordinator.verification.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference between what is recorded and what follows from the jobs.

    Attributes:
        subject: the key, without prefix, or the job.
        problem: what is wrong with it.
    """

    subject: str
    problem: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}"


class Recount:
    """Compares what is recorded with what follows from the jobs.

    Args:
        snapshot: of the ledger.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.at = snapshot
        # Of a settled job a trace is left for a while, without its class: it counts no more.
        jobs = {name: snapshot.hashes[key] for name, key in snapshot.names("job")}
        self.jobs = {
            name: job for name, job in jobs.items() if "class" in job or not job.get("state")
        }
        self.drifts: list[Drift] = []

    def note(self, subject: str, problem: str) -> None:
        """Report a difference."""
        self.drifts.append(Drift(subject, problem))

    def same(self, subject: str, found: Iterable[object], expected: Iterable[object]) -> None:
        """Report each thing that is in one of the two alone."""
        have, want = set(found), set(expected)
        # One by one, so that two readings of a ledger in use can be compared.
        for item in sorted(map(str, want - have)):
            self.note(subject, f"misses {item}")
        for item in sorted(map(str, have - want)):
            self.note(subject, f"has {item}, which does not belong there")

    def jobs_in(self, *states: State) -> dict[str, dict[str, str]]:
        """Return the jobs in these states, by id."""
        return {job_id: job for job_id, job in self.jobs.items() if job["state"] in states}

    def needs_recorded(self, jobs: dict[str, dict[str, str]]) -> None:
        """Report jobs that no longer know what they need."""
        for job_id, job in jobs.items():
            absent = [name for name in ("needs", "priority", "org") if name not in job]
            if absent:
                self.note(f"job:{job_id}", f"is {job['state']} without its {absent}")
