"""The command line in processes of its own: as a part of Celery's, watched until Ctrl-C, completed by the shell."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import celery_app
from tests.helpers import ROOT, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.workers import Installation

pytest_plugins = ["tests.workers"]


def test_celerys_own_command_line_has_the_same_commands(alone: Installation) -> None:
    alone.work_queue.wait_until_open()
    environment = {
        **os.environ,
        celery_app.BROKER: alone.broker,
        celery_app.FOLDER: str(alone.folder),
        "COORDINATOR_REDIS_URL": alone.broker,
    }

    def celery(*words: str) -> subprocess.CompletedProcess[str]:
        own = [sys.executable, "-m", "celery", "-A", "tests.celery_app", "coordinator", *words]
        return subprocess.run(
            own, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )

    told = celery("pause", "work", "--reason", "upgrade", "--by", "ann", "--json")
    assert (told.returncode, json.loads(told.stdout)["paused"]) == (0, ["queue:work"]), told.stderr
    refused = celery("trigger", "-Q", "work")
    assert refused.returncode == 1
    assert "queue work is paused by ann" in refused.stderr


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let children hear of Ctrl-C also when these tests run in the background of a shell, which ignores it for them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_watched_status_is_told_again_and_again(alone: Installation, tmp_path: Path) -> None:
    alone.work_queue.wait_until_open()
    environment = {celery_app.BROKER: alone.broker, celery_app.FOLDER: str(alone.folder)}
    command = ["python", "-m", "coordinator", "-A", "tests.celery_app", "status", "--watch"]
    log = tmp_path / "watched.log"
    with (
        interruptible(),
        running(*command, "--every", "0.2", "--json", env=environment, log=log) as process,
    ):
        eventually(lambda: len(log.read_text().splitlines()) > 2, timeout=60)
        alone.work_queue.pause("work", by="ann")

        def seen() -> bool:
            last = json.loads(log.read_text().splitlines()[-2])
            return any("paused by ann" in line for line in last["attention"])

        eventually(seen, timeout=30)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_verbs(shell: str) -> None:
    environment = {**os.environ, "_COORDINATOR_COMPLETE": f"{shell}_source"}
    command = [
        sys.executable,
        "-c",
        "from coordinator.cli import main; main(prog_name='coordinator')",
    ]
    script = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if script.returncode and "bash" in script.stderr.lower():
        pytest.skip("no bash that can complete")
    assert "_COORDINATOR_COMPLETE" in script.stdout
    words = {"COMP_WORDS": "coordinator pau", "COMP_CWORD": "1" if shell != "fish" else "pau"}
    environment |= {"_COORDINATOR_COMPLETE": f"{shell}_complete", **words}
    completed = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "pause" in completed.stdout
