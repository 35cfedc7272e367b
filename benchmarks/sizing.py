"""``python -m benchmarks.sizing``: how large an installation must be, from measured figures.

The figures are in ``sizing.toml``, each with the command that measures it. Everything else is worked out here.
What it shows is part of docs/deployment.md.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from coordinator.settings import Settings

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "deployment.md"
BEGIN, END = "<!-- sizing: begin -->", "<!-- sizing: end -->"

#: As in coordinator/running/renewal.py: ticks a second of all workers together, and seconds between two of one at most.
TICKS, TICK_MOST = 20, 5


@dataclass(frozen=True)
class Figure:
    """A measured figure.

    Attributes:
        what: what takes it.
        least, most: its range.
        unit: of both.
        command: what measures it.
        column: where the command's report has it.
        earlier: whether an earlier version was measured, and this one not yet.
    """

    what: str
    least: float
    most: float
    unit: str
    command: str
    column: str
    earlier: bool = False

    def __str__(self) -> str:
        return f"{_range(self.least, self.most)} {self.unit}"


@dataclass(frozen=True)
class Sizing:
    """The figures, and what is to be carried."""

    machine: str
    assumed: dict[str, int]
    figures: dict[str, Figure]


def load(path: Path = HERE / "sizing.toml") -> Sizing:
    """Return the figures.

    Raises:
        TypeError: a figure lacks something, such as its command.
    """
    found: dict[str, Any] = tomllib.loads(path.read_text())
    figures = {name: Figure(**one) for name, one in found["figure"].items()}
    return Sizing(found["machine"], found["assumed"], figures)


def _number(value: float) -> str:
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.2g}"


def _range(least: float, most: float) -> str:
    low, high = _number(least), _number(most)
    return low if low == high else f"{low} to {high}"


def _scaled(figure: Figure, factor: float, unit: str) -> str:
    return f"{_range(figure.least * factor, figure.most * factor)} {unit}"


def _kept(name: str) -> str:
    return f"`coordinator_{name}`, {getattr(Settings, name):g} by default"


def extrapolated(sizing: Sizing) -> dict[str, str]:
    """Return the arithmetic from each figure to the whole, with its outcome in bold."""
    given, figures = sizing.assumed, sizing.figures
    average = given["jobs_a_day"] / 86_400
    peak = average * given["peak"]
    workers = given["workers"]
    ticks = max(TICKS, workers / TICK_MOST)
    kept = given["jobs_a_day"] * given["finished_days"]
    log = given["jobs_a_day"] * given["log_days"]
    a_day = f"{given['jobs_a_day']:,}"
    ms, gib = 1e-3, 2**20
    # Per figure: how often it comes, in words, and by what to multiply it for the unit of the outcome.
    told = {
        "redis_job": (
            f"{a_day} / 86,400 s = {average:.0f} a second, x {given['peak']} = {peak:.0f} at the peak",
            peak * ms,
            "cores",
        ),
        "redis_renewal": (f"{workers:,} a second", workers * ms, "cores"),
        "redis_tick": (f"{workers:,} / {TICK_MOST} s = {ticks:.0f} a second", ticks * ms, "cores"),
        "redis_waiting": (f"{given['waiting']:,} waiting", given["waiting"] / gib, "GiB"),
        "recorder_job": (f"{peak:.0f} a second at the peak", peak * ms, "cores"),
        "scrape": ("4 a minute", 4 / 60, "cores"),
        "database_job": (
            f"{given['finished_days']} days ({_kept('finished_days')}) x {a_day}",
            kept / gib,
            "GiB",
        ),
        "database_log": (
            f"{given['log_days']} days ({_kept('log_days')}) x {a_day}",
            log / gib,
            "GiB",
        ),
        "worker": (f"{workers:,} processes, over all hosts", workers / 1024, "GiB"),
    }
    return {
        name: f"{often} x {figures[name]} = **{_scaled(figures[name], factor, unit)}**"
        for name, (often, factor, unit) in told.items()
    }


def redis_cores(sizing: Sizing, workers: int) -> tuple[float, float]:
    """Return how much of Redis's one core the jobs at the peak and so many worker processes take, least and most."""
    given, figures = sizing.assumed, sizing.figures
    peak = given["jobs_a_day"] / 86_400 * given["peak"]
    ticks = max(TICKS, workers / TICK_MOST)
    parts = (("redis_job", peak), ("redis_renewal", workers), ("redis_tick", ticks))
    least = sum(figures[name].least * often for name, often in parts) / 1e3
    most = sum(figures[name].most * often for name, often in parts) / 1e3
    return least, most


def page(sizing: Sizing) -> str:
    """Return the part of the page between its marks."""
    whole, given = extrapolated(sizing), sizing.assumed
    size = f"{given['workers']:,} worker processes, {given['jobs_a_day'] // 1_000_000} million jobs a day"
    lines = [
        f"Measured on {sizing.machine}. Extrapolated, by the arithmetic shown, to {size}.",
        "",
        "| what | measured | by | extrapolated |",
        "|---|---|---|---|",
    ]
    for name, figure in sizing.figures.items():
        old = " (an earlier version's)" if figure.earlier else ""
        source = f"`{figure.command}`, {figure.column}"
        lines.append(f"| {figure.what} | {figure}{old} | {source} | {whole[name]} |")
    workers, slots = given["workers"], given["slots"]
    many = _range(*redis_cores(sizing, workers))
    few = _range(*redis_cores(sizing, workers // slots))
    told = (
        f"Redis has one core for scripts. At the peak {workers:,} worker processes take {many} of it; "
        f"as {workers // slots} processes of {slots} slots each, {few}. Nobody has run an installation of this size: "
        "it is arithmetic."
    )
    lines += ["", told]
    return "\n".join(lines)


def written(text: str, part: str) -> str:
    """Return a page with the part between its marks replaced."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{part}\n{END}{tail}"


@click.command()
@click.option("--write", is_flag=True, help="Put it into docs/deployment.md.")
def main(write: bool) -> None:
    """Show how large an installation must be, from the figures in benchmarks/sizing.toml."""
    part = page(load())
    if write:
        PAGE.write_text(written(PAGE.read_text(), part))
    else:
        click.echo(part)


if __name__ == "__main__":
    main()
