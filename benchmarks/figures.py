"""Figures and what is made of them: medians over repetitions, ratios within the same one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

#: Figures of one repetition by the name of the metric; None when it did not happen.
Figures = Mapping[str, float | None]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(frozen=True)
class Metric:
    """What is measured.

    Attributes:
        name: key of its figure.
        title: head of its column, with the unit.
        digits: digits after the point.
        ratio, difference: whether the ratio to, or the difference from, the reference row is shown too.
    """

    name: str
    title: str
    digits: int = 0
    ratio: bool = False
    difference: bool = False


@dataclass(frozen=True)
class Bar:
    """What a figure is held against.

    Attributes:
        row, metric: which figure.
        ratio, difference: whether the comparison with the reference row counts, else the median itself.
        least, most: the bounds, both included.
    """

    row: str
    metric: str
    ratio: bool = False
    difference: bool = False
    least: float | None = None
    most: float | None = None

    def holds(self, value: float | None) -> bool:
        if value is None:
            return False
        high_enough = self.least is None or value >= self.least
        return high_enough and (self.most is None or value <= self.most)


@dataclass
class Row:
    """One repetition of one row of a table.

    Attributes:
        name: the row.
        figures: what was measured.
        violations: what must not be: lost jobs, overlaps, disorder where none is allowed.
        notes: what the reader should know, such as a limit that was reached.
        table: heading of the table it belongs to, where a workload has several.
    """

    name: str
    figures: dict[str, float | None] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    table: str = ""


@dataclass(frozen=True)
class Summary:
    """Median, least and most of the repetitions in which it happened."""

    median: float
    least: float
    most: float
    count: int


def summary(values: Sequence[float | None]) -> Summary | None:
    """Return the summary of the values that are there, None when none is.

    What did not happen within its limit counts as longer than everything that did: where that is the
    middle of the repetitions, there is no median.
    """
    there = sorted(value for value in values if value is not None)
    if len(there) * 2 <= len(values) or not there:
        return None
    return Summary(statistics.median(there), there[0], there[-1], len(there))


def ratios(own: Sequence[float | None], reference: Sequence[float | None]) -> list[float | None]:
    """Return own figure by reference, repetition by repetition."""
    return [
        mine / other if mine is not None and other else None
        for mine, other in zip(own, reference, strict=False)
    ]


def differences(
    own: Sequence[float | None], reference: Sequence[float | None]
) -> list[float | None]:
    """Return own figure less the reference, repetition by repetition."""
    return [
        mine - other if mine is not None and other is not None else None
        for mine, other in zip(own, reference, strict=False)
    ]
