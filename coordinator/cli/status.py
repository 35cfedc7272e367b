"""``coordinator status`` and ``watch``: everything at a glance."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import age, listed, short, worker_name
from coordinator.cli.output import answer, console, json_line, json_option, rows
from coordinator.durations import shown_duration
from coordinator.errors import CoordinatorError, Refused
from coordinator.progress_text import progress_text

if TYPE_CHECKING:
    from coordinator.work_queue import WorkQueue

#: Running jobs that are listed.
SHOWN = 10


@click.command("status", short_help="Show all at a glance, and what needs attention")
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--every",
    type=click.FloatRange(min=0.2),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks of --watch.",
)
@json_option
@click.pass_obj
def status(installation: Installation, watch: bool, every: float, as_json: bool) -> None:
    """Show queues, workers, what runs, what waits and why, and what needs attention."""
    from coordinator.operations.attention import look

    work_queue = installation.work_queue
    if not watch:
        found = look(work_queue)
        answer(found, as_json, lambda: _page(found))
        return
    _repeat(work_queue, every, as_json)


def _repeat(work_queue: WorkQueue, every: float, as_json: bool) -> None:
    from rich.live import Live
    from rich.text import Text

    from coordinator.operations.attention import look

    pause, live = threading.Event(), None
    if not as_json and sys.stdout.isatty():
        live = Live(console=console(), screen=True, auto_refresh=False)
        live.start()
    try:
        while True:
            try:
                found = look(work_queue)
                page = _page(found)
            except CoordinatorError as error:
                # Redis or the database may be back in a moment, and somebody is watching for that.
                found, page = {"at": time.time(), "error": str(error)}, Text(str(error))
            if as_json:
                json_line(found)
                sys.stdout.flush()
            elif live is not None:
                live.update(page, refresh=True)
            else:
                console().print(page)
            pause.wait(every)
    except KeyboardInterrupt:
        click.echo(err=True)
    finally:
        if live is not None:
            live.stop()


def _page(found: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.text import Text

    stats, workers = found["stats"], found["workers"]
    slots = sum(worker.slots for worker in workers)
    oldest = stats["oldest_item_age_seconds"]
    head = (
        f"{_plural(len(workers), 'worker')} with {_plural(slots, 'slot')}; "
        f"{stats['in_progress']} running, {stats['pending']} pending"
        + (f", the first for {shown_duration(oldest)}" if oldest is not None else "")
        + f"; last hour: {stats['completed_hour']} completed, {stats['failed_hour']} failed"
    )
    parts: list[Any] = [Text(head)]
    parts += [Text(f"! {line}", style="bold red") for line in found["attention"]]
    parts += [Text(), _queues(found["queues"])]
    if found["active"]:
        parts += [Text(), _active(found["active"])]
    if found["blocked"]:
        parts += [Text(), _blocked(found["blocked"])]
    return Group(*parts)


def _queues(queues: Any) -> Any:
    return rows(
        ("queue", "running", "waiting", "delayed", "dispatched", ""),
        [
            (
                queue.queue,
                queue.running,
                queue.waiting,
                queue.delayed,
                queue.dispatched,
                f"PAUSED {queue.paused}"
                if queue.paused
                else ("" if queue.consumed else "no live worker"),
            )
            for queue in queues
        ],
    )


def _active(active: Any) -> Any:
    lines = [
        (
            job.id,
            job.task,
            listed(job.models),
            worker_name(job.worker),
            age(job.started_ms / 1000),
            short(progress_text(job.progress), 40),
            "" if job.state == "running" else job.state,
        )
        for job in active[:SHOWN]
    ]
    if len(active) > SHOWN:
        lines.append((f"and {len(active) - SHOWN} more", "", "", "", "", "", ""))
    return rows(("running", "task", "models", "worker", "for", "progress", ""), lines)


def _blocked(blocked: Any) -> Any:
    return rows(
        ("waiting", "task", "models", "position", "for"),
        [
            (job.id, job.task, listed(job.models), job.queue_position, job.conflict_reason)
            for job in blocked
        ],
    )


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


@click.command("watch", short_help="Show the live screen of coordinator up elsewhere")
@click.option("--plain", is_flag=True, help="Lines instead of a screen, on a terminal too.")
@json_option
@click.pass_obj
def watch(installation: Installation, plain: bool, as_json: bool) -> None:
    """Show the live screen of `coordinator up` from another terminal, until Ctrl-C."""
    from coordinator.cli.up import display_of
    from coordinator.machine.processes import Process, Processes
    from coordinator.machine.snapshot import Source, summary_of

    work_queue = installation.work_queue
    processes = Processes(installation.settings.data_dir)

    def running() -> list[Process]:
        try:
            return list(processes.all())
        except Refused:
            # Workers that were started in another way are no processes of `up`.
            return []

    source = Source(running, {}, work_queue, summary_of(installation.app))
    pause = threading.Event()
    with display_of(plain, as_json) as display:
        try:
            while True:
                display.show(source())
                pause.wait(1.0)
        except KeyboardInterrupt:
            return


commands = (status, watch)
