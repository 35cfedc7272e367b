"""Each drill once; ``python -m tests.chaos --repeat N`` repeats them, with other seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.__main__ import Stage, line
from tests.chaos.drills import DRILLS
from tests.chaos.traces import Blow, Run, Trace, count


def _drill(name: str, folder: Path) -> None:
    with Stage(folder) as stage:
        outcome = stage.run(DRILLS[name], 1)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
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


@pytest.mark.parametrize(
    ("blow", "twice", "recent", "untold"),
    [
        (Blow("wipe", 2.9, 3.0), 0, 1, 0),
        (Blow("wipe", 3.1, 3.2), 1, 0, 0),
        # While Redis was away its worker kept the end, and had to tell it afterwards.
        (Blow("wipe", 1.8, 1.9), 1, 0, 0),
        (Blow("kill", 2.2, 2.3), 0, 0, 1),
        (Blow("kill", 2.4, 2.5), 1, 0, 0),
    ],
)
def test_what_excuses_a_second_run(blow: Blow, twice: int, recent: int, untold: int) -> None:
    runs = [_run("a", 1, 2, 2), _run("a", 3, 4, 4, token=2)]
    counts = count(runs, {"a"}, [blow])
    assert (len(counts.twice), len(counts.recent), len(counts.untold)) == (twice, recent, untold)
    assert counts.good is not bool(twice)


def test_a_trace_is_read_once_and_whole_lines_only(tmp_path: Path) -> None:
    trace = Trace(tmp_path / "trace")
    assert trace.runs() == []
    with trace.path.open("a") as file:
        file.write("1.0 start a 7 12 m1,m2 0.5\n1.1 alive a 7 12 m1,")
        file.flush()
        (run,) = trace.runs()
        assert (run.last, run.models, run.ended) == (1.0, ("m1", "m2"), None)
        file.write("m2 0\n1.2 end a 7 12 m1,m2 0\n")
    (run,) = trace.runs()
    assert (run.last, run.ended, run.planned) == (1.2, 1.2, 0.5)
