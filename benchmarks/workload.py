"""What a workload is: cases that are measured in turn, metrics, and the bars they are held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Bar, Metric, Row
from benchmarks.installation import LONG_LEASE, Installation
from benchmarks.peers import PEERS
from benchmarks.systems import SYSTEMS, System
from benchmarks.trace import Model, Run, disorder, missing, overlaps, repeated

#: Numbers that make a workload large or small, by name.
Sizes = Mapping[str, Any]


@dataclass(frozen=True)
class Case:
    """One thing that is started and measured; most give one row of the table.

    Attributes:
        name: the row, or the first part of its rows' names.
        system: the system's name, or None where none is started.
        values: what distinguishes it from the other cases of its system.
    """

    name: str
    system: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Context:
    """One repetition of one case.

    Attributes:
        case: what to measure.
        sizes: the sizes of this run.
        folder: an empty folder for this repetition.
        profile: folder for profiles, or None.
    """

    case: Case
    sizes: Sizes
    folder: Path
    profile: Path | None = None

    @property
    def system(self) -> System:
        assert self.case.system is not None
        return {**SYSTEMS, **PEERS}[self.case.system]

    def install(self, *slots: int, lease: float = LONG_LEASE, begin: bool = False) -> Installation:
        """Return the case's system with one worker for each number of slots, not yet started."""
        profile = None
        if self.profile:
            profile = self.profile / self.case.name.replace(" ", "-")
        return Installation(self.system, self.folder, slots, lease, begin, profile)

    def verify(
        self, row: Row, runs: Sequence[Run], numbers: range, model: Model | None = None
    ) -> None:
        """Note as violations what the traces show and the system promises not to do.

        Args:
            row: takes the violations, and the figures where a model is given.
            runs: the runs of the jobs, by the traces.
            numbers: the jobs that had to run, each once.
            model: model of each job; then exclusion and order are verified too.
        """
        lost, twice = missing(runs, numbers), repeated(runs)
        if lost:
            row.violations.append(f"{lost} of {len(numbers)} jobs did not run")
        if twice:
            row.violations.append(f"{twice} runs too many")
        if model is None:
            return
        crossed, late = overlaps(runs, model), disorder(runs, model)
        row.figures |= {"overlaps": crossed, "disorder": late.jobs, "farthest": late.farthest}
        if crossed and self.system.locked:
            row.violations.append(f"{crossed} jobs overlapped with another one of their model")
        if late.jobs and self.system.ordered:
            row.violations.append(f"{late.jobs} jobs started after a later one of their model")


@dataclass(frozen=True)
class Workload:
    """One workload.

    Attributes:
        name, title, text: what it is called, what it is, and how to read its table.
        cases: measured in turn in each repetition; so that a machine that slows down slows all of them.
        metrics: the columns.
        measure: runs a case once.
        sizes, quick: sizes of a real run and of one that only shows that it works.
        runs: repetitions of a real run.
        together: whether all cases are measured at once, since they mostly wait.
        references: row to the row its ratios are taken from.
        bars: what is demanded.
    """

    name: str
    title: str
    text: str
    cases: Callable[[Sizes], Sequence[Case]]
    metrics: Sequence[Metric]
    measure: Callable[[Context], list[Row]]
    sizes: Sizes
    quick: Sizes
    runs: int = 5
    together: bool = False
    references: Callable[[str], str | None] = lambda _: "celery"
    bars: Callable[[Sizes], Sequence[Bar]] = lambda _: ()
