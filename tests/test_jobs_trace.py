"""The trace of the task bodies, and the finder of overlaps: it must find those, and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.models import MODELS
from tasks.selfplay import play
from tasks.trace import main, overlaps, read_runs, traced
from tests.helpers import ROOT

Line = tuple[str, float, str, int, list[str]]


def write(folder: Path, *lines: Line) -> None:
    """Write lines of (event, at, job, pid, models)."""
    for event, at, job, pid, models in lines:
        about = {"job": job, "models": models, "task": "t", "token": 1, "pid": pid}
        with (folder / f"{pid}.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "at": at, **about}) + "\n")


def test_runs_one_after_the_other_do_not_overlap(tmp_path: Path) -> None:
    write(
        tmp_path,
        ("start", 1.0, "a", 1, ["m"]),
        ("end", 2.0, "a", 1, ["m"]),
        ("start", 2.0, "b", 2, ["m"]),
        ("start", 2.5, "c", 3, ["other"]),
        ("end", 3.0, "b", 2, ["m"]),
        ("end", 3.5, "c", 3, ["other"]),
    )
    assert overlaps(tmp_path) == []
    assert main(str(tmp_path)) == 0


def test_two_at_once_are_found_by_the_model_they_share(tmp_path: Path) -> None:
    write(
        tmp_path,
        ("start", 1.0, "a", 1, ["m", "n"]),
        ("start", 1.5, "b", 2, ["n", "o"]),
        ("end", 2.0, "a", 1, ["m", "n"]),
        ("end", 2.5, "b", 2, ["n", "o"]),
    )
    (found,) = overlaps(tmp_path)
    assert (found.model, found.first.job_id, found.second.job_id) == ("n", "a", "b")
    assert "n: t a (pid 1) was alive 0.500 s after t b (pid 2) had started" in str(found)
    assert main(str(tmp_path)) == 1


def test_a_long_run_overlaps_all_within_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        ("start", 1.0, "a", 1, ["m"]),
        ("start", 2.0, "b", 2, ["m"]),
        ("end", 3.0, "b", 2, ["m"]),
        ("start", 4.0, "c", 2, ["m"]),
        ("end", 5.0, "c", 2, ["m"]),
        ("end", 6.0, "a", 1, ["m"]),
    )
    assert [(one.first.job_id, one.second.job_id) for one in overlaps(tmp_path)] == [
        ("a", "b"),
        ("a", "c"),
    ]


def test_a_killed_run_counts_as_long_as_it_is_known_to_have_lived(tmp_path: Path) -> None:
    write(tmp_path, ("start", 1.0, "a", 1, ["m"]), ("alive", 1.5, "a", 1, ["m"]))
    write(tmp_path, ("start", 2.0, "a", 2, ["m"]), ("end", 3.0, "a", 2, ["m"]))
    assert overlaps(tmp_path) == []
    write(tmp_path, ("alive", 2.2, "a", 1, ["m"]))
    (found,) = overlaps(tmp_path)
    assert (found.first.pid, found.second.pid) == (1, 2)


def test_a_line_without_a_start_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, ("end", 1.0, "a", 1, ["m"]))
    with pytest.raises(ValueError, match="end of job a without a start"):
        read_runs(tmp_path)


def test_task_bodies_leave_a_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COORDINATOR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COORDINATOR_TRACE_DIR", str(tmp_path / "trace"))
    small = replace(MODELS["tic-tac-toe"], games_per_batch=50)
    monkeypatch.setitem(MODELS, small.name, small)
    play(model="tic-tac-toe", seed=1)
    (run,) = read_runs(tmp_path / "trace")
    assert (run.job_id, run.models, run.task) == (
        "local-1",
        ("tic-tac-toe",),
        "tasks.selfplay.play",
    )
    assert run.pid == os.getpid()
    assert run.ended
    assert run.seen > run.start


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    with traced("t", ["m"], "job", 1) as trace:
        trace.alive()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_leaves_a_start_without_an_end(tmp_path: Path) -> None:
    program = """
import os, signal
from tasks.trace import traced
with traced("t", ["m"], "job", 1):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "COORDINATOR_TRACE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=False)
    (run,) = read_runs(tmp_path)
    assert not run.ended
    assert run.seen == run.start
