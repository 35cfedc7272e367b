"""How commands answer: tables for people, JSON for scripts, one line for errors, exit codes.

0 is fine, 1 refused or unhealthy, 2 a wrong call.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, TextIO, TypeVar

import click

from coordinator.errors import CoordinatorError, InvalidSetting, InvalidValue, LedgerUnavailable

REFUSED, WRONG_CALL = 1, 2

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Failure(click.ClickException):
    """An error as people see it: one line, no traceback."""

    exit_code = REFUSED

    def show(self, file: Any = None) -> None:
        click.echo(f"coordinator: {self.format_message()}", file=file or sys.stderr)


class WrongCall(Failure):
    """A value that cannot be accepted."""

    exit_code = WRONG_CALL


class ErrorsShown(click.Group):
    """A group whose commands may raise ``CoordinatorError``."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LedgerUnavailable as error:
            raise Failure(
                f"{error}; start it (coordinator up), or see: coordinator check"
            ) from error
        except CoordinatorError as error:
            wrong = isinstance(error, InvalidValue) and not isinstance(error, InvalidSetting)
            raise (WrongCall if wrong else Failure)(str(error)) from error


def json_option(command: Decorated) -> Decorated:
    """Add ``--json``, given to the function as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")(command)


def answer(value: Any, as_json: bool, table: Callable[[], Any]) -> None:
    """Print an answer on standard output.

    Args:
        value: the answer as JSON can hold it; dataclasses become objects.
        as_json: whether JSON was asked for.
        table: makes what people see instead (anything rich can print).
    """
    if as_json:
        click.echo(json.dumps(_plain(value), indent=2))
        return
    shown = table()
    if isinstance(shown, str):
        # Not for rich, which takes parts of names and reasons for markup: model:m: has an emoji in it.
        click.echo(shown)
    else:
        console().print(shown)


def json_line(value: Any) -> None:
    """Print one JSON object in one line, for commands that answer more than once."""
    click.echo(json.dumps(_plain(value)))


def rows(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> Any:
    """Return a table; cells are text, not markup. Columns without names have no header."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*(escape(str(cell)) for cell in line))
    return table


def console(file: TextIO | None = None) -> Any:
    """Return a rich console; into pipes and files it does not cut lines at 80 characters."""
    from rich.console import Console

    out = file or sys.stdout
    return Console(file=out, highlight=False, emoji=False, width=None if out.isatty() else 200)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value
