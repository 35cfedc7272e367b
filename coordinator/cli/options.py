"""What the operators' commands have in common: options, durations, confirmation, progress."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from coordinator.cli.output import answer, console, json_option, rows
from coordinator.durations import parse_duration, shown_duration
from coordinator.errors import InvalidValue
from coordinator.moments import parse_moment

if TYPE_CHECKING:
    from coordinator.operations.bulk import Bulk
    from coordinator.paging import Page

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """A span of time as ``90s``, ``10m``, ``2h``, ``24h`` or ``7d``; seconds."""

    name = "duration"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        try:
            return parse_duration(getattr(param, "name", None) or "duration", value)
        except InvalidValue as error:
            self.fail(f"{value!r} is not {error.allowed}", param, ctx)


DURATION = Duration()


class Moment(click.ParamType[int]):
    """A moment as ISO 8601 (UTC when it names no zone), or an age such as ``1h30m``; Unix milliseconds."""

    name = "moment"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_moment(getattr(param, "name", None) or "moment", value)
        except InvalidValue as error:
            self.fail(f"{value!r} is not {error.allowed}", param, ctx)


MOMENT = Moment()


def options(*decorators: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """Return several options as one decorator, in the order of the help text."""

    def decorate(command: Decorated) -> Decorated:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


queue_option = click.option("-Q", "--queue", metavar="QUEUE", help="Only of this queue.")
reason_option = click.option("--reason", default="", metavar="TEXT", help="Kept in the log.")
by_option = click.option("--by", metavar="NAME", help="Who does it; by default user@host.")
cursor_option = click.option(
    "--cursor", metavar="CURSOR", help="Go on where the last page ended, as it says."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@dataclass(frozen=True)
class How:
    """How something is changed, as the options say.

    Attributes:
        reason, by: for the log; ``by`` is this user by default.
        dry_run: whether only to show what would be done.
        yes: whether to do it unasked.
        as_json: whether to answer in JSON.
    """

    reason: str
    by: str | None
    as_json: bool
    dry_run: bool = False
    yes: bool = False

    @property
    def signed(self) -> dict[str, Any]:
        """The arguments of a verb for the log."""
        return {"reason": self.reason, "by": self.by}


Command = Callable[..., Any]


def _gathered(*more: Callable[[Command], Command]) -> Callable[[Command], Command]:
    names = ("reason", "by", "as_json", "dry_run", "yes")

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def called(*args: Any, **given: Any) -> Any:
            how = How(**{name: given.pop(name) for name in names if name in given})
            return command(*args, how=how, **given)

        return options(reason_option, by_option, *more, json_option)(called)

    return decorate


#: The options of what changes something; the command gets them as ``how``.
audited = _gathered()


def _previewed(help_text: str) -> Callable[[Command], Command]:
    return _gathered(click.option("--dry-run", is_flag=True, help=help_text), yes_option)


#: Of a repair, which finds out itself what it is done to.
repairing = _gathered(yes_option)

#: Of what is previewed: bulk verbs, and what changes more than one thing.
bulk_options = _previewed("Show what it would be done to, and stop.")
rehearsed = _previewed("Show what it would do, and stop.")


def limit_option(default: int) -> Callable[[Decorated], Decorated]:
    """Return ``-n``."""
    return click.option(
        "-n",
        "--limit",
        type=click.IntRange(1, 10_000),
        default=default,
        show_default=True,
        help="Lines at most.",
    )


def bulk(
    act: Callable[..., Bulk],
    ask: Callable[[Bulk], str],
    how: How,
    typed: str | None = None,
) -> None:
    """Preview a bulk verb, ask, do it with progress, and tell what was done.

    Args:
        act: the verb; it takes ``reason``, ``by``, ``dry_run`` and ``progress``.
        ask: makes the question from the preview.
        how: the options.
        typed: what has to be typed instead of a yes.
    """
    preview = act(dry_run=True, **how.signed)
    if how.dry_run or not preview.matched:
        answer(preview, how.as_json, lambda: preview_table(preview))
        return
    if not how.yes:
        if preview.sample:
            console(sys.stderr).print(preview_table(preview))
        confirm(ask(preview), typed)
    with progress_bar(preview.verb, preview.matched) as progress:
        told = act(dry_run=False, progress=progress, **how.signed)
    answer(told, how.as_json, lambda: bulk_text(told))


def confirm(question: str, typed: str | None = None) -> None:
    """Ask; ends the command with exit code 1 when the answer is no, or there is nobody to ask."""
    if typed is None:
        click.confirm(question, abort=True, err=True)
        return
    given = click.prompt(f"{question} Type {typed!r}", err=True, default="", show_default=False)
    if given != typed:
        click.echo("nothing was done", err=True)
        raise click.Abort


def preview_table(preview: Bulk) -> Any:
    """Return the jobs a bulk verb would be done to."""
    from rich.console import Group
    from rich.text import Text

    number = f"{preview.matched} job{'s' if preview.matched != 1 else ''}"
    title = Text(f"{number} would be {preview.verb} ({preview.selection})")
    if not preview.sample:
        return title
    table = rows(
        ("job", "task", "queue", "models", "status", "age"),
        [
            (
                job.job_id,
                job.task,
                job.queue,
                ", ".join(job.models) or "-",
                job.status + (f" {job.detail}" if job.detail else ""),
                age(job.queued_at),
            )
            for job in preview.sample
        ],
    )
    more = preview.matched - len(preview.sample)
    return Group(title, table, *([Text(f"and {more} more")] if more > 0 else []))


def bulk_text(told: Bulk) -> str:
    """Return in a line what a bulk verb did."""
    text = f"{told.done} of {told.matched} jobs {told.verb} ({told.selection})"
    if told.skipped:
        parts = ", ".join(f"{number} {state}" for state, number in sorted(told.skipped.items()))
        text += f"; left alone: {parts}"
    return text


@contextmanager
def progress_bar(verb: str, total: int) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on the terminal, nothing in a pipe; yields what is told (done, total)."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.progress import Progress

    with Progress(console=console(sys.stderr), transient=True) as progress:
        task = progress.add_task(verb, total=total)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def page(name: str, found: Page[Any], as_json: bool, table: Callable[[], Any]) -> None:
    """Answer with one page of a listing, and tell how the next one is asked for.

    Args:
        name: of the list in the JSON answer.
        found: the page.
        as_json, table: as for ``answer``.
    """
    answer({name: found, "cursor": found.cursor}, as_json, table)
    if found.cursor and not as_json:
        click.echo(f"more: --cursor {found.cursor}", err=True)


def age(at: float | None) -> str:
    """Return how long ago a moment (Unix seconds) was."""
    return "-" if at is None else shown_duration(time.time() - at)


def worker_name(worker: str | None) -> str:
    """Return Celery's name of a worker, without what tells its process from others."""
    return (worker or "-").partition("/")[0]


def listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "-"


def short(text: str | None, width: int = 100) -> str:
    """Return the first line of a text, cut to a width."""
    line = (text or "").strip().partition("\n")[0]
    return line if len(line) <= width else f"{line[: width - 1]}…"
