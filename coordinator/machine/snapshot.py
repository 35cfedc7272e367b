"""What the live display shows, and where it is read from."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from coordinator.errors import CoordinatorError
from coordinator.machine.processes import Process
from coordinator.progress_text import progress_text

#: Jobs that are listed; the queues tell how many more there are.
SHOWN_JOBS = 8
KEPT_HEADLINES = 50


@dataclass(frozen=True)
class ModelLine:
    """How far one model has come, as the app tells it.

    Attributes:
        model: its name.
        generation: how often it was promoted.
        games: games played so far.
        win_rate: share of games won in the last evaluation (0 to 1), or None.
        elo: its strength, or None before the first evaluation.
        elo_history: strength per generation, oldest first.
        activity: what is done with it at this moment.
    """

    model: str
    generation: int = 0
    games: int = 0
    win_rate: float | None = None
    elo: float | None = None
    elo_history: tuple[float, ...] = ()
    activity: str = ""


@dataclass(frozen=True)
class JobLine:
    """A running job, or one that waits and why.

    Attributes:
        job_id: its id.
        task: the task's name.
        models: the models it needs.
        queue: its queue.
        worker: who runs it, empty while it waits.
        seconds: how long it has been running.
        attempt: which run this is, from 1.
        progress: how far it is, as text.
        waits_for: why it does not run, empty when it does.
        position: its place in the queue, 0 when it runs.
    """

    job_id: str
    task: str
    models: tuple[str, ...] = ()
    queue: str = ""
    worker: str = ""
    seconds: float = 0.0
    attempt: int = 1
    progress: str = ""
    waits_for: str = ""
    position: int = 0


@dataclass(frozen=True)
class QueueLine:
    """One queue's counts; ``paused`` says by whom and why, None when it is not."""

    queue: str
    waiting: int = 0
    delayed: int = 0
    dispatched: int = 0
    running: int = 0
    paused: str | None = None


@dataclass(frozen=True)
class Headline:
    """Something that happened: ``number`` counts up, ``at`` is Unix seconds."""

    number: int
    at: float
    text: str


@dataclass(frozen=True)
class Snapshot:
    """Everything there is to show at one moment.

    Attributes:
        at: the moment, Unix seconds.
        state: starting, running or stopping.
        addresses: where everything is, by name.
        processes, models, jobs, queues: their lines.
        completed_hour, failed_hour: jobs that ended in the last hour.
        headlines: the latest changes, oldest first.
        problem: what could not be read, empty if nothing.
    """

    at: float = 0.0
    state: str = "starting"
    addresses: Mapping[str, str] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()
    models: tuple[ModelLine, ...] = ()
    jobs: tuple[JobLine, ...] = ()
    queues: tuple[QueueLine, ...] = ()
    completed_hour: int = 0
    failed_hour: int = 0
    headlines: tuple[Headline, ...] = ()
    problem: str = ""

    def reached(self, generation: int) -> bool:
        """Whether every model has come to ``generation``; false as long as there is no model."""
        return bool(self.models) and all(line.generation >= generation for line in self.models)


class WorkQueue(Protocol):
    """What the display reads of the work queue; every method may raise ``CoordinatorError``."""

    def get_stats(self) -> Mapping[str, Any]: ...
    def queues(self) -> Sequence[Any]: ...
    def active(self) -> Sequence[Any]: ...
    def blocked(self, limit: int) -> Sequence[Any]: ...


def read_jobs(work_queue: WorkQueue) -> tuple[list[JobLine], list[QueueLine]]:
    """Return what runs, what waits and why, and the counts of the queues.

    Args:
        work_queue: where to read it from.

    Raises:
        CoordinatorError: the ledger cannot be read at the moment.
    """
    now = time.time()
    jobs = [
        JobLine(
            job_id=job.id,
            task=job.task,
            models=tuple(job.models),
            queue=job.queue,
            worker=job.worker or "",
            seconds=max(0.0, now - job.started_ms / 1000),
            attempt=job.attempt,
            progress=progress_text(job.progress or {}),
        )
        for job in work_queue.active()
    ]
    jobs += [
        JobLine(
            job_id=job.id,
            task=job.task,
            models=tuple(job.models),
            waits_for=job.conflict_reason or "its turn",
            position=job.queue_position or 0,
        )
        for job in work_queue.blocked(SHOWN_JOBS)
    ]
    queues = [
        QueueLine(
            queue=line.queue,
            waiting=line.waiting,
            delayed=line.delayed,
            dispatched=line.dispatched,
            running=line.running,
            paused=line.paused,
        )
        for line in work_queue.queues()
    ]
    return jobs, queues


class Source:
    """Puts snapshots together; call it for the present one.

    Args:
        processes: returns the supervised processes.
        addresses: where everything is, by name.
        work_queue: where jobs are read, or None.
        summary: the app's own: returns objects with the attributes of ``ModelLine``; or None.
    """

    def __init__(
        self,
        processes: Callable[[], Sequence[Process]],
        addresses: Mapping[str, str],
        work_queue: WorkQueue | None = None,
        summary: Callable[[], Iterable[Any]] | None = None,
    ) -> None:
        self._processes, self._addresses = processes, addresses
        self._work_queue, self._summary = work_queue, summary
        self._before = Snapshot()
        self._headlines: deque[Headline] = deque(maxlen=KEPT_HEADLINES)
        self._count = 0

    def __call__(self) -> Snapshot:
        """Return the present snapshot; what cannot be read is left out and said in ``problem``."""
        problems: list[str] = []
        processes: tuple[Process, ...] = ()
        models = self._before.models
        jobs: list[JobLine] = []
        queues: list[QueueLine] = []
        stats: Mapping[str, Any] = {}
        try:
            processes = tuple(self._processes())
        except CoordinatorError as error:
            problems.append(str(error))
        if self._work_queue:
            try:
                jobs, queues = read_jobs(self._work_queue)
                stats = self._work_queue.get_stats()
            except CoordinatorError as error:
                problems.append(str(error))
        told, wrong = model_lines(self._summary)
        if wrong:
            problems.append(wrong)
        elif self._summary:
            models = told
        ready = bool(processes) and all(process.state == "running" for process in processes)
        now = Snapshot(
            at=time.time(),
            state="running" if ready or self._before.state == "running" else "starting",
            addresses=self._addresses,
            processes=processes,
            models=models,
            jobs=tuple(jobs),
            queues=tuple(queues),
            completed_hour=int(stats.get("completed_hour", 0)),
            failed_hour=int(stats.get("failed_hour", 0)),
            problem="; ".join(problems),
        )
        for text in changes(self._before, now):
            self._count += 1
            self._headlines.append(Headline(self._count, now.at, text))
        self._before = now
        return replace(now, headlines=tuple(self._headlines))


def summary_of(app: Any) -> Callable[[], Iterable[Any]] | None:
    """Return the callable that ``coordinator_summary`` names, or None.

    Raises:
        CoordinatorError: it cannot be imported.
    """
    named = app.conf.get("coordinator_summary")
    if not named:
        return None
    from celery.utils.imports import symbol_by_name

    try:
        found: Callable[[], Iterable[Any]] = symbol_by_name(named)
    except (ImportError, AttributeError) as error:
        raise CoordinatorError(f"coordinator_summary: {named!r} is not found: {error}") from error
    return found


def model_lines(
    summary: Callable[[], Iterable[Any]] | None,
) -> tuple[tuple[ModelLine, ...], str]:
    """Return what an app tells of its models, and what went wrong with that, "" if nothing.

    Args:
        summary: see ``summary_of``; None tells nothing.
    """
    try:
        return tuple(_model_line(item) for item in (summary() if summary else ())), ""
    except Exception as error:  # noqa: BLE001 - the app's own code may raise anything
        return (), f"summary: {type(error).__name__}: {error}"


def _model_line(item: Any) -> ModelLine:
    return ModelLine(
        model=str(item.model),
        generation=int(item.generation),
        games=int(item.games),
        win_rate=None if item.win_rate is None else float(item.win_rate),
        elo=None if item.elo is None else float(item.elo),
        elo_history=tuple(float(elo) for elo in item.elo_history),
        activity=str(item.activity or ""),
    )


def changes(before: Snapshot, now: Snapshot) -> list[str]:
    """Return what is worth telling about the step from one snapshot to the next."""
    told = []
    if before.state != now.state and now.state == "running":
        told.append(f"all {len(now.processes)} processes are running")
    known = {process.name: process for process in before.processes}
    for process in now.processes:
        old = known.get(process.name)
        if old and process.restarts > old.restarts:
            told.append(f"{process.name} was started again (restart {process.restarts})")
        elif process.why and (old is None or not old.why):
            told.append(f"{process.name} is {process.state}: {process.why}")
    models = {line.model: line for line in before.models}
    for line in now.models:
        earlier = models.get(line.model)
        if earlier and line.generation > earlier.generation:
            strength = "" if line.elo is None else f", Elo {line.elo:+.0f}"
            told.append(f"{line.model} reached generation {line.generation}{strength}")
    paused = {line.queue: line.paused for line in before.queues}
    for queue in now.queues:
        if queue.paused and not paused.get(queue.queue):
            told.append(f"queue {queue.queue} is paused: {queue.paused}")
        elif paused.get(queue.queue) and not queue.paused:
            told.append(f"queue {queue.queue} is resumed")
    if now.problem and now.problem != before.problem:
        told.append(now.problem)
    return told
