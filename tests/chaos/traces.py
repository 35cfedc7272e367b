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


class Trace:
    """The runs that a growing file of lines tells of; each line is read once.

    Args:
        path: the file; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = 0
        self._rest = ""
        self._runs: dict[tuple[str, int], Run] = {}

    def runs(self) -> list[Run]:
        """Return the runs so far, in the order of their start."""
        if self.path.exists():
            with self.path.open() as file:
                file.seek(self._position)
                text = self._rest + file.read()
                self._position = file.tell()
            *lines, self._rest = text.split("\n")
            for line in lines:
                self._take(line)
        return sorted(self._runs.values(), key=lambda run: run.start)

    def _take(self, line: str) -> None:
        at, kind, job, token, pid, needs, planned = line.split(" ")
        moment, models = float(at), tuple(needs.split(",")) if needs else ()
        key = job, int(token)
        run = self._runs.setdefault(key, Run(job, int(token), models, moment, moment))
        run.start, run.last = min(run.start, moment), max(run.last, moment)
        run.pids.add(int(pid))
        run.planned = max(run.planned, float(planned))
        if kind == "end":
            run.ended = moment


#: Seconds before a wipe in which an end may not have come to the store, and before and after a kill in which
#: a body's end may not have been told.
RECENT, UNTOLD = 1.0, 0.3


@dataclass(frozen=True)
class Blow:
    """Something that the drill did.

    Attributes:
        kind: ``kill`` (of processes that run jobs), or ``wipe`` (of what Redis knows, or of Redis itself). A
            wipe is the command alone: what ends afterwards, however long Redis is away, has to be told.
        start, end: CLOCK_MONOTONIC.
    """

    kind: str
    start: float
    end: float

    def excuses(self, ended: float) -> str | None:
        """Say why the end of a run at this moment may be unknown: ``recent``, ``untold``, or not at all."""
        if self.kind == "wipe":
            return "recent" if self.start - RECENT <= ended <= self.end else None
        return "untold" if self.start - UNTOLD <= ended <= self.end + UNTOLD else None


@dataclass(frozen=True)
class Counts:
    """What the traces say about the accepted jobs.

    Attributes:
        accepted: jobs whose producer got an answer.
        completed: of them, those of which a run reached its end.
        lost: those that neither completed nor ended otherwise.
        twice: runs of a job after one that had ended, for which no blow accounts.
        killed: runs that never reached their end.
        recent: runs after an end within the last second before a wipe.
        untold: runs after an end whose process was killed before it could tell it.
        overlaps: pairs of runs of one model at one time, each with the seconds.
        foreign: runs of jobs that no producer was told were accepted (it died first).
    """

    accepted: int
    completed: int
    lost: tuple[str, ...]
    twice: tuple[str, ...]
    killed: int
    recent: tuple[str, ...]
    untold: tuple[str, ...]
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
    excused: dict[str, list[str]] = {"recent": [], "untold": []}
    for job, mine in by_job.items():
        for before, after in pairwise(mine):
            if before.ended is None:
                continue
            told = (
                f"{job} ended at {before.ended:.3f} (token {before.token}),"
                f" started at {after.start:.3f} (token {after.token})"
            )
            reasons = [reason for blow in blows if (reason := blow.excuses(before.ended))]
            (excused[reasons[0]] if reasons else twice).append(told)
    return Counts(
        len(wanted),
        len(done & wanted),
        tuple(sorted(wanted - done - set(ended))),
        tuple(twice),
        sum(run.ended is None for run in runs),
        tuple(excused["recent"]),
        tuple(excused["untold"]),
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
