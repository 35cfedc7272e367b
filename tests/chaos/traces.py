"""Reads the traces: which runs there were, what of them overlapped, what is lost and what ran twice."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path


@dataclass
class Run:
    """One run of a job: from its first line to its last sign of life."""

    job: str
    token: int
    models: tuple[str, ...]
    start: float
    last: float
    ended: float | None = None
    pids: set[int] = field(default_factory=set)
    planned: float = 0.0


def read(path: Path) -> list[Run]:
    """Return the runs of a trace, in the order of their start."""
    runs: dict[tuple[str, int], Run] = {}
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        at, kind, job, token, pid, needs, planned = line.split(" ")
        moment, models = float(at), tuple(needs.split(",")) if needs else ()
        run = runs.setdefault((job, int(token)), Run(job, int(token), models, moment, moment))
        run.start, run.last = min(run.start, moment), max(run.last, moment)
        run.pids.add(int(pid))
        run.planned = max(run.planned, float(planned))
        if kind == "end":
            run.ended = moment
    return sorted(runs.values(), key=lambda run: run.start)


@dataclass(frozen=True)
class Blow:
    """Something that the drill did: a span of time in which an end may not have been told.

    Attributes:
        kind: ``kill`` (a run that ended within it may run again), ``outage`` or ``wipe``.
        start, end: CLOCK_MONOTONIC.
    """

    kind: str
    start: float
    end: float


@dataclass(frozen=True)
class Counts:
    """What the traces say about the accepted jobs.

    Attributes:
        accepted: jobs whose producer got an answer.
        completed: of them, those of which a run reached its end.
        lost: those that neither completed nor ended otherwise.
        twice: runs of a job after one that had ended, for which no blow accounts.
        killed: runs that never reached their end.
        again: runs after an end that a blow kept from being told or remembered.
        overlaps: pairs of runs of one model at one time, each with the seconds.
        foreign: runs of jobs that no producer was told were accepted (it died first).
    """

    accepted: int
    completed: int
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    killed: int
    again: tuple[str, ...]
    overlaps: tuple[str, ...]
    foreign: int

    @property
    def good(self) -> bool:
        return not (self.lost or self.twice or self.overlaps)


def count(
    runs: Sequence[Run],
    accepted: Iterable[str],
    blows: Sequence[Blow] = (),
    ended: Iterable[str] = (),
) -> Counts:
    """Count.

    Args:
        runs: the trace.
        accepted: ids of accepted jobs.
        blows: what the drill did.
        ended: jobs that ended otherwise than by completing, as they should.
    """
    wanted, by_job = set(accepted), defaultdict(list)
    for run in runs:
        by_job[run.job].append(run)
    done = {job for job, mine in by_job.items() if any(run.ended is not None for run in mine)}
    twice: list[str] = []
    again: list[str] = []
    for job, mine in by_job.items():
        for before, after in pairwise(mine):
            if before.ended is None:
                continue
            told = (
                f"{job} ended at {before.ended:.3f} (token {before.token}),"
                f" started at {after.start:.3f} (token {after.token})"
            )
            excused = any(blow.start <= before.ended <= blow.end for blow in blows)
            (again if excused else twice).append(told)
    return Counts(
        len(wanted),
        len(done & wanted),
        tuple(sorted(wanted - done - set(ended))),
        tuple(twice),
        sum(run.ended is None for run in runs),
        tuple(again),
        tuple(_overlaps(runs)),
        len(by_job.keys() - wanted),
    )


def _overlaps(runs: Sequence[Run]) -> Iterable[str]:
    holder: dict[str, Run] = {}
    for run in runs:
        for model in run.models:
            last = holder.get(model)
            if last is not None and run.start <= last.last and run is not last:
                yield (
                    f"{model}: {last.job} (token {last.token}) lived until {last.last:.3f},"
                    f" {run.job} (token {run.token}) started at {run.start:.3f}"
                )
            if last is None or run.last > last.last:
                holder[model] = run
