"""Shell commands as jobs: their output, their failures, and that nothing of them outlives the job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil
import pytest

from tasks.shell import TAIL, CommandFailed, run
from tests.helpers import ROOT, eventually


def alive(pid: int) -> bool:
    """Return whether a process runs; one that is dead but not yet collected does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def pids_in(path: Path, count: int) -> list[int]:
    """Wait until a command has written so many process ids; return them."""

    def read() -> list[int]:
        found = [int(line) for line in path.read_text().split()] if path.exists() else []
        return found if len(found) == count else []

    return eventually(read)


def gone(pids: list[int]) -> None:
    """Wait until none of these processes runs."""
    eventually(lambda: not any(alive(pid) for pid in pids))


def test_a_list_and_a_line_give_output_and_exit_code(tmp_path: Path) -> None:
    answer = run(["printf", "%s|", "a b", "$HOME"])
    assert (answer["exit_code"], answer["stdout"], answer["stderr"]) == (0, "a b|$HOME|", "")
    answer = run("echo $WORD >&2; pwd", cwd=str(tmp_path), env={"WORD": "hello"})
    assert (answer["stdout"], answer["stderr"]) == (f"{tmp_path}\n", "hello\n")


def test_only_the_end_of_long_output_is_kept() -> None:
    answer = run("seq 1 100000; echo done")
    assert answer["stdout"].endswith("100000\ndone\n")
    assert len(answer["stdout"]) == TAIL


def test_a_failure_names_the_exit_code_and_ends_with_the_error_output() -> None:
    with pytest.raises(CommandFailed, match=r"^exit code 3 from .*: no such thing$"):
        run("echo fine; echo no such thing >&2; exit 3")
    with pytest.raises(CommandFailed, match="exit code -9"):
        run("kill -9 $$")


def test_a_program_that_does_not_exist_is_an_error_that_names_it() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        run(["no-such-program"])


def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path) -> None:
    notes = tmp_path / "pids"
    run(f"sleep 300 & echo $! > {notes}")
    gone(pids_in(notes, 1))


class _Stopped(Exception):
    """What a signal raises in the middle of the job, as a cancel does at a checkpoint."""


@pytest.fixture
def _alarm() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _Stopped

    before = signal.signal(signal.SIGALRM, stop)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("_alarm")
def test_a_canceled_command_ends_with_all_it_started(tmp_path: Path) -> None:
    notes = tmp_path / "pids"
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(_Stopped):
        run(f"trap 'echo bye > {tmp_path}/bye; exit' TERM; sleep 300 & echo $! $$ > {notes}; wait")
    gone(pids_in(notes, 2))
    assert (tmp_path / "bye").exists(), "it was asked before it was made to"


def test_a_killed_worker_takes_its_command_along(tmp_path: Path) -> None:
    notes = tmp_path / "pids"
    command = f"trap '' TERM; sleep 300 & echo $! $$ > {notes}; wait"
    program = f"from tasks.shell import run; run({command!r})"
    worker = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    try:
        pids = pids_in(notes, 2)
        assert all(alive(pid) for pid in pids)
        assert os.getpgid(pids[0]) != os.getpgid(worker.pid)
    finally:
        worker.kill()
        worker.wait()
    gone(pids)
