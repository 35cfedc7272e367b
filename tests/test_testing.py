"""The pytest plugin for adopters' tests: the example is run as they would run it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import psutil
import pytest

from tests.helpers import ROOT

EXAMPLE = ROOT / "examples" / "testing"


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_example_passes_in_a_pytest_of_its_own_and_leaves_nothing_behind() -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    before = {process.pid for process in psutil.process_iter()}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=EXAMPLE,
        env=own,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "7 passed" in done.stdout
    left = []
    for process in psutil.process_iter():
        # Others come and go meanwhile.
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process.pid not in before and any("shop" in word for word in process.cmdline()):
                left.append(process.cmdline())
    assert left == []
