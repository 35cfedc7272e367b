"""The live display of ``coordinator up``: a screen on a terminal, lines where there is none."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from coordinator.durations import shown_duration
from coordinator.machine.processes import Process
from coordinator.machine.snapshot import Headline, JobLine, ModelLine, Snapshot
from coordinator.moments import shown_clock

BARS = "▁▂▃▄▅▆▇█"
SPARKS = 24

#: Seconds between two lines when nothing notable happens.
LINE_SECONDS = 5.0

#: Headlines on the screen.
SCREEN_HEADLINES = 6

#: Characters at which two columns fit beside each other.
WIDE = 120

_COLORS = {"running": "green", "starting": "yellow", "stopping": "yellow", "backoff": "red"}


class Display(Protocol):
    """Shows one snapshot after the other between entering and leaving."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def show(self, snapshot: Snapshot) -> None: ...


class Screen:
    """A full terminal screen that is redrawn with every snapshot."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._console = console

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        self._live.update(screen(snapshot, self._console.width), refresh=True)


class Lines:
    """One line every few seconds and for every headline.

    Args:
        out: where the lines go.
        every: seconds between two lines when nothing notable happens.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        out: TextIO,
        every: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out, self._every, self._clock = out, every, clock
        self._told = 0
        self._next = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.flush()

    def show(self, snapshot: Snapshot) -> None:
        for headline in snapshot.headlines:
            if headline.number > self._told:
                self._told = headline.number
                self._write(self.headline(headline))
        if self._clock() >= self._next:
            self._next = self._clock() + self._every
            self._write(self.line(snapshot))

    def headline(self, headline: Headline) -> str:
        return f"{shown_clock(headline.at, seconds=True)} * {headline.text}"

    def line(self, snapshot: Snapshot) -> str:
        return line(snapshot)

    def _write(self, text: str) -> None:
        self._out.write(text + "\n")
        # Into a pipe or a file, lines would otherwise arrive in blocks, minutes late.
        self._out.flush()


class JsonLines(Lines):
    """The same for programs: one JSON object a line."""

    def headline(self, headline: Headline) -> str:
        return json.dumps({"headline": asdict(headline)})

    def line(self, snapshot: Snapshot) -> str:
        return json.dumps({"snapshot": asdict(snapshot)})


def sparkline(values: Sequence[float], width: int = SPARKS) -> str:
    """Return the last ``width`` values as bars between their lowest and highest."""
    shown = list(values)[-width:]
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    top = len(BARS) - 1
    return "".join(BARS[round((value - low) / span * top) if span else 0] for value in shown)


def line(snapshot: Snapshot) -> str:
    """Return the snapshot in one line."""
    up = sum(process.state == "running" for process in snapshot.processes)
    parts = [
        f"{shown_clock(snapshot.at, seconds=True)} {snapshot.state} {up}/{len(snapshot.processes)} processes"
    ]
    parts += [
        f"{process.name} {process.state}: {process.why}"
        for process in snapshot.processes
        if process.why
    ]
    parts += [_model_text(model) for model in snapshot.models]
    for queue in snapshot.queues:
        waiting = queue.waiting + queue.delayed + queue.dispatched
        if queue.running or waiting or queue.paused:
            paused = f" PAUSED ({queue.paused})" if queue.paused else ""
            parts.append(f"{queue.queue} {queue.running} running {waiting} waiting{paused}")
    waiting_jobs = [job for job in snapshot.jobs if job.waits_for]
    if waiting_jobs:
        parts.append(f"{waiting_jobs[0].task}: {waiting_jobs[0].waits_for}")
    return " | ".join(parts)


def _model_text(model: ModelLine) -> str:
    text = f"{model.model} gen {model.generation}, {model.games} games"
    if model.win_rate is not None:
        text += f", {model.win_rate:.0%} won"
    if model.elo is not None:
        text += f", Elo {model.elo:+.0f} {sparkline(model.elo_history)}".rstrip()
    return text + (f" ({model.activity})" if model.activity else "")


def screen(snapshot: Snapshot, width: int) -> RenderableType:
    """Return the snapshot as a screen of ``width`` characters, the most wanted on top."""
    color = _COLORS.get(snapshot.state, "white")
    head = Text.assemble(
        ("Coordinator ", "bold"),
        (snapshot.state, color),
        f"  {shown_clock(snapshot.at, seconds=True)}  {snapshot.completed_hour} completed and "
        f"{snapshot.failed_hour} failed in the last hour   Ctrl-C stops",
    )
    parts: list[RenderableType] = [head]
    if snapshot.problem:
        parts.append(Text(snapshot.problem, style="red"))
    if snapshot.models:
        parts.append(models_table(snapshot.models))
    jobs, side = _jobs_table(snapshot.jobs), [_queues_table(snapshot)]
    side.append(processes_table(snapshot.processes))
    if width >= WIDE:
        columns = Table.grid(expand=True, padding=(0, 2))
        columns.add_column(ratio=3)
        columns.add_column(ratio=2)
        columns.add_row(jobs, Group(*side))
        parts.append(columns)
    else:
        parts += [jobs, *side]
    for headline in snapshot.headlines[-SCREEN_HEADLINES:]:
        parts.append(
            Text(f"{shown_clock(headline.at, seconds=True)} {headline.text}", style="cyan")
        )
    for name, where in snapshot.addresses.items():
        parts.append(Text.assemble((f"{name:9}", "dim"), where, overflow="fold"))
    return Group(*parts)


def models_table(models: Sequence[ModelLine]) -> Table:
    """Return how far the models have come, as a table."""
    table = _table("model", "generation", "games", "won", "Elo", "Elo per generation", "now")
    for model in models:
        table.add_row(
            escape(model.model),
            str(model.generation),
            str(model.games),
            "" if model.win_rate is None else f"{model.win_rate:.0%}",
            "" if model.elo is None else f"{model.elo:+.0f}",
            sparkline(model.elo_history),
            escape(model.activity),
        )
    return table


def processes_table(processes: Sequence[Process]) -> Table:
    """Return the supervised processes as a table."""
    table = _table("process", "state", "pid", "up", "restarts", "why")
    for process in processes:
        color = _COLORS.get(process.state, "red")
        table.add_row(
            escape(process.name),
            f"[{color}]{process.state}[/]",
            str(process.pid or ""),
            shown_duration(process.uptime) if process.pid else "",
            str(process.restarts),
            escape(process.why),
        )
    return table


def _jobs_table(jobs: Sequence[JobLine]) -> Table:
    table = _table("job", "models", "for", "waits for, or progress")
    for job in sorted(jobs, key=lambda job: (bool(job.waits_for), job.position)):
        name = job.task.removeprefix("tasks.")
        state = f"[yellow]{escape(job.waits_for)}[/]" if job.waits_for else escape(job.progress)
        attempt = f" (run {job.attempt})" if job.attempt > 1 else ""
        table.add_row(
            escape(f"{name} {job.job_id[:8]}{attempt}"),
            escape(", ".join(job.models)),
            f"#{job.position}" if job.waits_for else shown_duration(job.seconds),
            state,
        )
    return table


def _queues_table(snapshot: Snapshot) -> Table:
    table = _table("queue", "running", "dispatched", "waiting", "delayed", "paused")
    for queue in snapshot.queues:
        counts = (queue.running, queue.dispatched, queue.waiting, queue.delayed)
        table.add_row(
            escape(queue.queue), *map(str, counts), f"[red]{escape(queue.paused or '')}[/]"
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, expand=False, header_style="dim", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    return table
