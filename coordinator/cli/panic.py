"""``coordinator panic``: circuit breakers and the emergency stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from coordinator.cli.installation import Installation
from coordinator.cli.options import DURATION, How, confirm, rehearsed, short
from coordinator.cli.output import ErrorsShown, answer, json_option, rows
from coordinator.moments import shown_moment

if TYPE_CHECKING:
    from coordinator.breaker import Breaker, PanicStep

Act = Callable[..., "tuple[PanicStep, ...]"]


@click.group(
    "panic",
    short_help="Circuit breakers, and the emergency stop",
    cls=ErrorsShown,
    invoke_without_command=True,
)
@json_option
@click.pass_context
def panic(ctx: click.Context, as_json: bool) -> None:
    """Show circuit breakers; open and close them; stop everything and resume step by step.

    A breaker holds a queue (queue:NAME) or what depends on an outside system (integration:NAME) when too many
    of its jobs fail, and probes by itself whether they work again.
    """
    if ctx.invoked_subcommand is None:
        _show(ctx.obj, None, as_json)


@panic.command("status")
@click.argument("scope", required=False)
@json_option
@click.pass_obj
def status(installation: Installation, scope: str | None, as_json: bool) -> None:
    """Show circuit breakers: their state, since when and why, and how jobs have ended of late."""
    _show(installation, scope, as_json)


def _show(installation: Installation, scope: str | None, as_json: bool) -> None:
    found = installation.work_queue.get_panic(scope)
    answer(found, as_json, lambda: _table(found))


def _table(found: list[Breaker]) -> Any:
    if not found:
        return "nothing is in panic, and no job has ended of late"
    lines = []
    for one in found:
        ended = f"{one.failed} of {one.completed + one.failed}"
        until = (
            shown_moment(one.until) if one.until else ("by hand" if one.state == "open" else "-")
        )
        cause = short(f"{one.by}: {one.cause}", 60) if one.state != "closed" else ""
        lines.append(
            (one.scope, one.state, shown_moment(one.since), until, ended, one.trips, cause)
        )
    return rows(("scope", "state", "since", "probes at", "failed", "trips", "opened by"), lines)


@panic.command("open")
@click.argument("scope")
@click.option(
    "--for", "seconds", type=DURATION, metavar="DURATION", help="Then it probes by itself: 90s, 2h."
)
@rehearsed
@click.pass_obj
def open_(
    installation: Installation,
    scope: str,
    seconds: float | None,
    how: How,
) -> None:
    """Hold queue:NAME or integration:NAME until it is closed by hand, or probes after --for."""
    work_queue = installation.work_queue
    until = None if seconds is None else work_queue.ledger.clock() + int(seconds * 1000)
    _act(lambda **done: work_queue.open_panic(scope, until_ms=until, **done), how)


@panic.command("close")
@click.argument("scope")
@click.option("--probe", is_flag=True, help="One run at a time first.")
@rehearsed
@click.pass_obj
def close(
    installation: Installation,
    scope: str,
    probe: bool,
    how: How,
) -> None:
    """End the panic of queue:NAME or integration:NAME; what waits starts in its turn."""
    work_queue = installation.work_queue
    _act(lambda **done: work_queue.close_panic(scope, probe=probe, **done), how)


@panic.command("stop")
@click.option("--release", is_flag=True, help="Stop what runs, too; it goes back to waiting.")
@rehearsed
@click.pass_obj
def stop(
    installation: Installation,
    release: bool,
    how: How,
) -> None:
    """Emergency stop: nothing starts any more, on no queue."""
    work_queue = installation.work_queue
    _act(lambda **done: work_queue.emergency_stop(release=release, **done), how)


@panic.command("resume")
@click.argument("queue", required=False)
@click.option("--all", "everything", is_flag=True, help="All queues that are still stopped.")
@click.option("--at-once", is_flag=True, help="Without one run at a time first.")
@rehearsed
@click.pass_obj
def resume(
    installation: Installation,
    queue: str | None,
    everything: bool,
    at_once: bool,
    how: How,
) -> None:
    """Resume after an emergency stop, one queue after the other; the others stay stopped."""
    if (queue is not None) == everything:
        raise click.UsageError("name a queue, or give --all")
    work_queue = installation.work_queue
    _act(lambda **done: work_queue.emergency_resume(queue, at_once=at_once, **done), how)


@panic.command("evaluate")
@click.option("--dry-run", is_flag=True, help="Show what it would do, and stop.")
@json_option
@click.pass_obj
def evaluate(installation: Installation, dry_run: bool, as_json: bool) -> None:
    """Do at once what the maintenance worker does every few seconds; --dry-run rehearses it."""
    steps = installation.work_queue.evaluate_panic(dry_run=dry_run)
    answer(steps, as_json, lambda: _steps(steps) if steps else "nothing to do")


def _act(act: Act, how: How) -> None:
    if how.dry_run or not how.yes:
        preview = act(dry_run=True, **how.signed)
        if how.dry_run:
            answer(preview, how.as_json, lambda: _steps(preview))
            return
        click.echo(_steps(preview), err=True)
        confirm("Do it?")
    steps = act(dry_run=False, **how.signed)
    answer(steps, how.as_json, lambda: _steps(steps))


def _steps(steps: tuple[PanicStep, ...]) -> str:
    lines = []
    for step in steps:
        name = "everything" if step.scope == "serial" else step.scope
        verb = "would become" if step.dry_run else "is"
        jobs = f"{step.running} running, {step.waiting} waiting"
        lines.append(f"{name} {verb} {step.after} (was {step.before}; {jobs}): {step.cause}")
    return "\n".join(lines)


commands = (panic,)
