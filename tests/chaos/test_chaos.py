"""Each drill once; ``python -m tests.chaos --repeat N`` repeats them, with other seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.__main__ import line, run
from tests.chaos.drills import DRILLS
from tests.chaos.traces import Blow, Run, count


def _drill(name: str, folder: Path) -> None:
    outcome = run(DRILLS[name], 1, folder / "run")
    assert outcome.good, f"{line(outcome)}\n{outcome.error}\n{outcome.counts}"


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", sorted(DRILLS))
def test_drill(name: str, tmp_path: Path) -> None:
    _drill(name, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_brief(tmp_path: Path) -> None:
    _drill("brief", tmp_path)


def _run(job: str, start: float, last: float, ended: float | None, token: int = 1) -> Run:
    return Run(job, token, ("m",), start, last, ended)


def test_what_overlaps_is_seen() -> None:
    runs = [_run("a", 1, 3, 3), _run("b", 2.9, 4, 4)]
    assert len(count(runs, {"a", "b"}).overlaps) == 1
    assert not count([_run("a", 1, 3, 3), _run("b", 3.1, 4, 4)], {"a", "b"}).overlaps


def test_what_is_lost_or_ran_twice_is_seen() -> None:
    runs = [_run("a", 1, 2, 2), _run("a", 3, 4, 4, token=2), _run("b", 5, 6, None)]
    counts = count(runs, {"a", "b", "c"})
    assert counts.lost == ("b", "c")
    assert len(counts.twice) == 1
    assert counts.killed == 1
    assert not counts.good
    excused = count(runs, {"a"}, [Blow("wipe", 1.5, 2.5)])
    assert not excused.twice
    assert len(excused.again) == 1
