"""Charts as geometry: what the templates draw as SVG, without a script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: The drawing's own units; it is stretched to the place it has.
WIDTH, HEIGHT = 1000.0, 100.0

#: Labels below a chart.
LABELS = 5


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle and what it tells."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A line, in pieces where nothing was measured, and what it is of."""

    kind: str
    paths: tuple[str, ...]
    dots: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing.

    Attributes:
        top: what its upper edge stands for.
        bottom: what its lower edge stands for.
        bars, curves: what is drawn.
    """

    top: float
    bottom: float = 0.0
    bars: tuple[Bar, ...] = ()
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one kind, one for each place; None where there is none."""

    kind: str
    values: Sequence[float | None]
    titles: Sequence[str]


def nice(value: float) -> float:
    """Return a round number that is not less: 1, 2, 2.5 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if value <= step * power * (1 + 1e-9))


def stacked(series: Sequence[Series]) -> Chart:
    """Return bars on top of each other."""
    places = len(series[0].values)
    sums = [sum(one.values[place] or 0 for one in series) for place in range(places)]
    top = nice(max(sums, default=0))
    step = WIDTH / max(1, places)
    bars = []
    for place in range(places):
        below = 0.0
        for one in series:
            value = one.values[place] or 0
            if value:
                height = value / top * HEIGHT
                y = HEIGHT - below - height
                x, wide = place * step + step * 0.1, step * 0.8
                bars.append(Bar(_r(x), _r(y), _r(wide), _r(height), one.kind, one.titles[place]))
                below += height
    return Chart(top, bars=tuple(bars))


def lines(series: Sequence[Series], *, from_zero: bool = True) -> Chart:
    """Return lines over the same places.

    Args:
        series: one for each line.
        from_zero: whether the lower edge is 0; else it is below the least value.
    """
    known = [value for one in series for value in one.values if value is not None]
    top, bottom = nice(max(known, default=0)), 0.0
    if not from_zero and known:
        step = nice(max(max(known) - min(known), 1.0)) / 4
        top, bottom = math.ceil(max(known) / step) * step, math.floor(min(known) / step) * step
        top = top if top > bottom else bottom + step
    places = len(series[0].values)
    gap = WIDTH / max(1, places - 1)
    curves = []
    for one in series:
        pieces: list[list[str]] = [[]]
        dots = []
        for place, value in enumerate(one.values):
            if value is None:
                pieces.append([])
                continue
            x = place * gap if places > 1 else WIDTH / 2
            y = HEIGHT - (value - bottom) / (top - bottom) * HEIGHT
            pieces[-1].append(f"{_r(x)},{_r(y)}")
            dots.append((_r(x), _r(y), one.titles[place]))
        paths = tuple(" ".join(piece) for piece in pieces if len(piece) > 1)
        curves.append(Curve(one.kind, paths, tuple(dots)))
    return Chart(top, bottom, curves=tuple(curves))


def spread(labels: Sequence[str]) -> list[str]:
    """Return some of the labels of the places, the first and the last among them."""
    if len(labels) <= LABELS:
        return list(labels)
    last = len(labels) - 1
    return [labels[round(number * last / (LABELS - 1))] for number in range(LABELS)]


def _r(value: float) -> float:
    return round(value, 2)
