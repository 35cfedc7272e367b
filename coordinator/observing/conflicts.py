"""What observe-only mode has found: counts per task, per pair of tasks on a model, and examples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskConflicts:
    """The runs of one task.

    Attributes:
        task: its name.
        runs: how many began that name a model.
        waited: how many of them would have waited for a model.
        worst_model: the model that most of these would have waited for; None when none would.
    """

    task: str
    runs: int
    waited: int
    worst_model: str | None

    def __str__(self) -> str:
        worst = f"; worst model {self.worst_model}" if self.worst_model else ""
        what = "run" if self.runs == 1 else "runs"
        return (
            f"{self.waited:,} of {self.runs:,} {what} of {self.task} would have waited for a model"
            + worst
        )


@dataclass(frozen=True)
class ConflictPair:
    """Runs of ``task`` that began while ``other_task`` used ``model``; ``other_task`` is the one that ran longest."""

    model: str
    task: str
    other_task: str
    number: int


@dataclass(frozen=True)
class ConflictExample:
    """One run that would have waited: ``job_id`` began at ``at`` while ``other_job_id`` ran since ``other_at``.

    Moments are Unix seconds.
    """

    model: str
    at: float
    job_id: str
    task: str
    worker: str
    other_job_id: str | None
    other_task: str | None
    other_worker: str | None
    other_at: float | None


@dataclass(frozen=True)
class RefusedTask:
    """Runs whose needs are not valid: in enforcing mode ``delay()`` would have raised ``error``."""

    task: str
    number: int
    error: str


@dataclass(frozen=True)
class Conflicts:
    """What was observed.

    Attributes:
        since: when it began (Unix seconds); None when no run was seen.
        tasks: those with most conflicts first.
        pairs: the most frequent first.
        examples: the latest first, a hundred at most.
        refused: tasks whose needs are not valid.
    """

    since: float | None
    tasks: tuple[TaskConflicts, ...]
    pairs: tuple[ConflictPair, ...]
    examples: tuple[ConflictExample, ...]
    refused: tuple[RefusedTask, ...]

    @property
    def runs(self) -> int:
        """How many runs were seen that name a model."""
        return sum(task.runs for task in self.tasks)

    @property
    def waited(self) -> int:
        """How many of them would have waited."""
        return sum(task.waited for task in self.tasks)


def told(
    since: str | None,
    runs: Mapping[str, str],
    waited: Mapping[str, str],
    pairs: Mapping[str, str],
    examples: Sequence[str],
    refused: Mapping[str, str],
    errors: Mapping[str, str],
) -> Conflicts:
    """Return what was observed from what lies on Redis, as ``begin.lua`` writes it."""
    found = sorted(
        (_pair(json.loads(names), int(number)) for names, number in pairs.items()),
        key=lambda pair: (-pair.number, pair.model, pair.task, pair.other_task),
    )
    tasks = [
        TaskConflicts(task, int(number), int(waited.get(task, 0)), _worst(found, task))
        for task, number in runs.items()
    ]
    return Conflicts(
        since=int(since) / 1000 if since else None,
        tasks=tuple(sorted(tasks, key=lambda one: (-one.waited, -one.runs, one.task))),
        pairs=tuple(found),
        examples=tuple(_example(json.loads(one)) for one in examples),
        refused=tuple(
            RefusedTask(task, int(number), errors.get(task, ""))
            for task, number in sorted(refused.items())
        ),
    )


def _pair(names: Sequence[str], number: int) -> ConflictPair:
    model, task, other = names
    return ConflictPair(model, task, other, number)


def _worst(pairs: Sequence[ConflictPair], task: str) -> str | None:
    numbers: dict[str, int] = {}
    for pair in pairs:
        if pair.task == task:
            numbers[pair.model] = numbers.get(pair.model, 0) + pair.number
    return max(numbers, key=lambda model: (numbers[model], model), default=None)


def _example(one: Mapping[str, Any]) -> ConflictExample:
    other_at = one.get("other_at")
    return ConflictExample(
        model=one["model"],
        at=one["at"] / 1000,
        job_id=one["job"],
        task=one["task"],
        worker=one["worker"],
        other_job_id=one.get("other_job"),
        other_task=one.get("other_task"),
        other_worker=one.get("other_worker"),
        other_at=None if other_at is None else other_at / 1000,
    )
