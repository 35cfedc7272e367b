"""The report: figures of all repetitions as JSON, and as Markdown tables with medians and ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.figures import Bar, Metric, Row, Summary, differences, ratios, summary
from benchmarks.workload import Workload

_METHOD = (
    "Cells: median [least..most]; ratios: median of the ratios to the reference in the same repetition. "
    "Every repetition has a fresh server and fresh workers on loopback, and all cases are measured in "
    "turn. `-`: it did not happen within the limit, in half of the repetitions or more."
)


@dataclass
class Result:
    """What became of one workload.

    Attributes:
        workload: the workload.
        sizes: the sizes it ran with.
        repetitions: rows by name, of each repetition.
        failures: cases that could not be run, with the reason; a row may have both.
        partial: whether only some systems were asked for; bars of the others say nothing then.
    """

    workload: Workload
    sizes: dict[str, Any]
    repetitions: list[dict[str, Row]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    partial: bool = False

    @property
    def rows(self) -> list[str]:
        """Names of all rows, in the order of their first appearance."""
        return list(dict.fromkeys(name for rows in self.repetitions for name in rows))

    def values(self, row: str, metric: str) -> list[float | None]:
        """Return the figure of each repetition that has the row."""
        return [rows[row].figures.get(metric) if row in rows else None for rows in self.repetitions]

    def compared(self, row: str, metric: Metric | Bar) -> Summary | None:
        """Return the ratio to, or difference from, the reference row within the same repetitions."""
        reference = self.workload.references(row)
        if reference is None or reference == row:
            return None
        name = metric.name if isinstance(metric, Metric) else metric.metric
        make = ratios if metric.ratio else differences
        return self._summary(row, make(self.values(row, name), self.values(reference, name)))

    def _reference(self, bar: Bar) -> str:
        compare = bar.ratio or bar.difference
        return (self.workload.references(bar.row) if compare else None) or bar.row

    def median(self, row: str, metric: str) -> Summary | None:
        return self._summary(row, self.values(row, metric))

    def _summary(self, row: str, values: Sequence[float | None]) -> Summary | None:
        measured = [
            value for value, rows in zip(values, self.repetitions, strict=True) if row in rows
        ]
        return summary(measured)

    def held(self) -> list[tuple[Bar, float | None, bool]]:
        """Return each bar with its figure and whether it holds."""
        found = []
        rows = self.rows
        for bar in self.workload.bars(self.sizes):
            if self.partial and not {bar.row, self._reference(bar)} <= {*rows}:
                continue
            compare = bar.ratio or bar.difference
            known = self.compared(bar.row, bar) if compare else self.median(bar.row, bar.metric)
            value = known.median if known else None
            found.append((bar, value, bar.holds(value)))
        return found

    @property
    def violations(self) -> list[str]:
        return [
            f"{name}, repetition {number}: {text}"
            for number, rows in enumerate(self.repetitions, 1)
            for name, row in rows.items()
            for text in row.violations
        ]

    @property
    def notes(self) -> list[str]:
        """What the reader should know, once for each row."""
        return list(
            dict.fromkeys(
                f"{name}: {text}"
                for rows in self.repetitions
                for name, row in rows.items()
                for text in row.notes
            )
        )


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def cell(found: Summary | None, digits: int) -> str:
    """Return ``median [least..most]``, the median alone where all are equal, or ``-``."""
    if found is None:
        return "-"
    median, least, most = (number(v, digits) for v in (found.median, found.least, found.most))
    return median if least == most else f"{median} [{least}..{most}]"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figures(result: Result) -> str:
    tables: dict[str, list[str]] = {}
    for rows in result.repetitions:
        for name, row in rows.items():
            names = tables.setdefault(row.table, [])
            if name not in names:
                names.append(name)
    return "\n\n".join(
        (f"### {title}\n\n" if title else "") + _figures_of(result, names)
        for title, names in tables.items()
    )


def _figures_of(result: Result, rows: Sequence[str]) -> str:
    metrics = [
        metric
        for metric in result.workload.metrics
        if any(value is not None for row in rows for value in result.values(row, metric.name))
    ]
    head = ["", "runs"]
    for metric in metrics:
        head.append(metric.title)
        head += ["ratio"] * metric.ratio + ["more"] * metric.difference
    table = [head]
    for row in rows:
        line = [row, str(sum(row in done for done in result.repetitions))]
        for metric in metrics:
            line.append(cell(result.median(row, metric.name), metric.digits))
            if metric.ratio or metric.difference:
                line.append(
                    cell(result.compared(row, metric), 2 if metric.ratio else metric.digits)
                )
        table.append(line)
    return _table(table)


def _bound(bar: Bar) -> str:
    if bar.least is not None:
        return f"at least {bar.least:g}"
    return f"at most {bar.most:g}"


def _bars(result: Result) -> str:
    titles = {metric.name: metric.title for metric in result.workload.metrics}
    table = [["bar", "demanded", "figure", "held"]]
    for bar, value, holds in result.held():
        what = "ratio of " if bar.ratio else "more " if bar.difference else ""
        figure = "-" if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
        name = f"{bar.row}: {what}{titles[bar.metric]}"
        table.append([name, _bound(bar), figure, "yes" if holds else "**no**"])
    return _table(table)


def section(result: Result) -> str:
    """Return one workload's part of the report."""
    parts = [f"## {result.workload.name}: {result.workload.title}", result.workload.text]
    parts.append("Sizes: " + ", ".join(f"{name} {value}" for name, value in result.sizes.items()))
    if result.repetitions and result.rows:
        parts.append(_figures(result))
        if result.held():
            parts.append(_bars(result))
    for title, lines in (
        ("Violations", result.violations),
        ("Not run", result.failures),
        ("Notes", result.notes),
    ):
        if lines:
            parts.append(f"{title}:\n\n" + "\n".join(f"- {line}" for line in lines))
    return "\n\n".join(parts)


def markdown(results: Sequence[Result], machine: dict[str, Any], quick: bool) -> str:
    """Return the whole report."""
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    machine_line = (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}, {machine['file_system']}; Python {machine['python']}, "
        f"Redis {machine['redis_server']}, {packages}; commit {machine['commit']}; "
        f"load average before {machine['load']}, after {machine.get('load_after', '-')}."
    )
    lines = ["# Benchmarks", machine_line, _METHOD]
    if quick:
        lines.append("**Quick sizes: they show that the harness works and measure nothing.**")
    return "\n\n".join([*lines, *map(section, results)]) + "\n"


def document(results: Sequence[Result], machine: dict[str, Any], quick: bool) -> dict[str, Any]:
    """Return everything for JSON: each figure of each repetition, medians and bars."""
    return {
        "machine": machine,
        "quick": quick,
        "workloads": {
            result.workload.name: {
                "title": result.workload.title,
                "sizes": result.sizes,
                "repetitions": [
                    {name: asdict(row) for name, row in rows.items()} for rows in result.repetitions
                ],
                "medians": {
                    row: {
                        metric.name: found.median
                        if (found := result.median(row, metric.name))
                        else None
                        for metric in result.workload.metrics
                    }
                    for row in result.rows
                },
                "bars": [
                    {**asdict(bar), "figure": value, "held": holds}
                    for bar, value, holds in result.held()
                ],
                "violations": result.violations,
                "failures": result.failures,
            }
            for result in results
        },
    }
