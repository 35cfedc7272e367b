"""The sizing in docs/deployment.md: worked out from the figures, each of which names what measures it."""

from __future__ import annotations

import re

import pytest

from benchmarks import sizing
from benchmarks.workloads import WORKLOADS
from coordinator.running import renewal

SIZING = sizing.load()


def test_the_page_is_what_the_figures_say() -> None:
    text = sizing.PAGE.read_text()
    assert sizing.written(text, sizing.page(SIZING)) == text, (
        "python -m benchmarks.sizing --write brings it up to date"
    )


@pytest.mark.parametrize("name", SIZING.figures)
def test_a_figure_names_what_measures_it(name: str) -> None:
    figure = SIZING.figures[name]
    assert 0 < figure.least <= figure.most
    workload = re.fullmatch(r"python -m benchmarks (\w+)", figure.command)
    if workload is None:
        assert figure.command.startswith("SELECT "), "of one's own database"
        return
    labels = [metric.title for metric in WORKLOADS[workload[1]].metrics]
    assert figure.column in labels


def test_ticks_are_as_often_as_workers_make_them() -> None:
    assert (sizing.TICKS, sizing.TICK_MOST) == (renewal.TICKS, renewal.TICK_MOST)


def test_the_arithmetic() -> None:
    # 10 million a day are 116 a second, 347 at three times that.
    least, most = sizing.redis_cores(SIZING, 1000)
    figures = SIZING.figures
    for outcome, bound in ((least, "least"), (most, "most")):
        job, renewal_, tick = (
            getattr(figures[name], bound) for name in ("redis_job", "redis_renewal", "redis_tick")
        )
        assert outcome == pytest.approx(
            (347.22 * job + 1000 * renewal_ + 200 * tick) / 1000, rel=1e-4
        )
