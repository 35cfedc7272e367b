"""Any shell command as a job."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from tasks import app
from tasks.runs import Run, running

#: Bytes of each output that are kept: its end, where the reason stands.
TAIL = 8000
POLL = 0.1
#: Seconds between asking a canceled command to end and making it.
GRACE = 3.0

#: First process of the command's group, and its guard. It reads a pipe whose other end only the worker
#: holds: when the worker dies, however, the read ends and the guard kills the group it is in.
#: Without it the command of a killed worker would go on beside the job's next run.
_GUARD = "trap '' TERM INT HUP; echo; read _; kill -s KILL 0"


class CommandFailed(RuntimeError):
    """The command ended with another exit code than 0; the message ends with its last error output."""


@contextmanager
def _guard() -> Iterator[int]:
    """Start the guard; yields its process group, for the command to join. At the end nothing of it is left."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        ["/bin/sh", "-c", _GUARD], stdin=pipe, stdout=pipe, process_group=0
    ) as guard:
        try:
            # Its first line says that it ignores signals from now on.
            _pipe(guard.stdout).readline()
            yield guard.pid
        finally:
            os.killpg(guard.pid, signal.SIGKILL)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    """Return a pipe that was asked for, so that it is there."""
    if pipe is None:
        raise RuntimeError("started without a pipe")
    return pipe


class _Tail:
    """The end of what a pipe brought."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.pipe, self.kept, self.open = pipe, b"", True

    def read(self) -> None:
        data = os.read(self.pipe.fileno(), 65536)
        self.open = bool(data)
        self.kept = (self.kept + data)[-TAIL:]

    @property
    def text(self) -> str:
        return self.kept.decode(errors="replace")


def _read(selector: selectors.BaseSelector, timeout: float) -> None:
    """Read what is there, waiting at most ``timeout`` seconds for something."""
    for key, _ in selector.select(timeout):
        tail: _Tail = key.data
        tail.read()
        if not tail.open:
            selector.unregister(tail.pipe)


def _follow(process: subprocess.Popen[bytes], run: Run) -> tuple[str, str]:
    """Wait for the process, reporting progress; return the ends of its output and error output."""
    tails = _Tail(_pipe(process.stdout)), _Tail(_pipe(process.stderr))
    begun = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for tail in tails:
            selector.register(tail.pipe, selectors.EVENT_READ, tail)
        while process.poll() is None:
            if selector.get_map():
                _read(selector, POLL)
            else:
                time.sleep(POLL)
            run.report(time.monotonic() - begun, None, unit="seconds")
        # What it left running may hold the pipes open for ever: take what is there, wait for nothing.
        while selector.get_map() and selector.select(0):
            _read(selector, 0)
    return tails[0].text, tails[1].text


def _end(process: subprocess.Popen[bytes], group: int) -> None:
    """End a command that is still running: ask its group, and after a while no longer."""
    if process.poll() is None:
        os.killpg(group, signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@app.task(name="tasks.shell.run", allow_listed={"command": "allowed_commands"})
def run(
    command: list[str] | str,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run a command in a process group of its own.

    What it started and left running ends with it. Cancel ends it, and so does the worker's death. Give
    models and org where the job is submitted.

    Args:
        command: a list of program and arguments, or a line for the shell.
        cwd: folder to run in; by default the worker's.
        env: variables added to the worker's environment.

    Returns:
        ``exit_code``, the ends of ``stdout`` and ``stderr``, and ``seconds``.

    Raises:
        CommandFailed: its exit code was not 0.
        FileNotFoundError, PermissionError: no such program or folder.
    """
    arguments = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    begun = time.monotonic()
    with running("tasks.shell.run") as job, _guard() as group:
        with subprocess.Popen(
            arguments,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=group,
        ) as process:
            try:
                stdout, stderr = _follow(process, job)
            finally:
                _end(process, group)
        if process.returncode != 0:
            shown = command if isinstance(command, str) else " ".join(arguments)
            raise CommandFailed(
                f"exit code {process.returncode} from {shown[:200]!r}: {stderr.strip()[-2000:]}"
            )
        return {
            "exit_code": 0,
            "stdout": stdout,
            "stderr": stderr,
            "seconds": round(time.monotonic() - begun, 3),
        }
