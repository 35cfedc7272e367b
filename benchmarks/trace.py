"""Traces: what the bodies of the jobs wrote down themselves, and what follows from them.

One line per run and file per process: number of the job, start and end on CLOCK_MONOTONIC (which all
processes of a machine share) in nanoseconds, process id. All lines have the same length, so that the size
of a file tells the number of runs without reading it.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

LINE = 64

RAN, REFUSED, BEGUN = "ran", "refused", "begun"

Model = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job; times in nanoseconds. A begun one ends when it begins."""

    number: int
    began: int
    ended: int
    pid: int


class Writer:
    """Writes lines from any process; a line is written in one piece, also by a process that is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[tuple[str, int], int] = {}

    def write(self, kind: str, number: int, began: int) -> None:
        """Write that a run of a job, begun at ``began``, ends now."""
        pid = os.getpid()
        file = self._files.get((kind, pid))
        if file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            file = self._files[kind, pid] = os.open(self.folder / f"{kind}-{pid}", flags, 0o600)
        line = b"%010d %020d %020d %010d\n" % (number, began, time.monotonic_ns(), pid)
        os.write(file, line)


class Trace:
    """The traces of one run of a benchmark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def count(self, kind: str = RAN) -> int:
        return sum(path.stat().st_size for path in self.folder.glob(f"{kind}-*")) // LINE

    def read(self, kind: str = RAN) -> list[Run]:
        """Return the runs by their start."""
        found = []
        for path in self.folder.glob(f"{kind}-*"):
            data = path.read_bytes()
            whole = data[: len(data) - len(data) % LINE]
            found += [Run(*map(int, line.split())) for line in whole.splitlines()]
        return sorted(found, key=lambda run: run.began)

    def clear(self) -> None:
        """Forget everything; writers go on at the beginning."""
        for path in self.folder.iterdir():
            os.truncate(path, 0)


@dataclass(frozen=True, slots=True)
class Disorder:
    """Jobs that started after a later one of their model, and by how many places at most."""

    jobs: int
    farthest: int


def _by_model(runs: Iterable[Run], model: Model) -> Iterable[list[Run]]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.began):
        groups[model(run.number)].append(run)
    return groups.values()


def overlaps(runs: Iterable[Run], model: Model) -> int:
    """Return the number of runs that began while another one of their model was not over."""
    found = 0
    for group in _by_model(runs, model):
        end = 0
        for run in group:
            found += run.began < end
            end = max(end, run.ended)
    return found


def disorder(runs: Iterable[Run], model: Model) -> Disorder:
    """Compare the order of the starts with the order of submission, which the numbers tell."""
    jobs = farthest = 0
    for group in _by_model(runs, model):
        rank = {number: place for place, number in enumerate(sorted({run.number for run in group}))}
        latest = -1
        for place, run in enumerate(group):
            jobs += run.number < latest
            latest = max(latest, run.number)
            farthest = max(farthest, place - rank[run.number])
    return Disorder(jobs, farthest)


def gaps(runs: Iterable[Run]) -> list[float]:
    """Return the milliseconds from the end of each run to the start of the next one."""
    ordered = sorted(runs, key=lambda run: run.began)
    return [(after.began - before.ended) / 1e6 for before, after in itertools.pairwise(ordered)]


def repeated(runs: Iterable[Run]) -> int:
    """Return the number of runs beyond the first of each job."""
    return sum(count - 1 for count in Counter(run.number for run in runs).values())


def missing(runs: Iterable[Run], numbers: Iterable[int]) -> int:
    """Return how many of the jobs never ran."""
    return len(set(numbers) - {run.number for run in runs})
