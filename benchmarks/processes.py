"""Processes under measurement: started, frozen, counted and ended by their ids."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import psutil

import coordinator.machine.launch

ROOT = Path(__file__).resolve().parent.parent

_T = TypeVar("_T")


class SystemFailed(Exception):
    """A system under test cannot be started, or died; the message says which and shows its log."""


class LimitReached(Exception):
    """Something did not happen within its limit; the message says what and how far it came."""


def until(check: Callable[[], _T], limit: float, what: str, interval: float = 0.01) -> _T:
    """Return the first truthy answer of ``check``.

    Args:
        check: asked again and again.
        limit: seconds after which to give up.
        what: what is waited for, for the message.
        interval: seconds between two questions.

    Raises:
        LimitReached: it did not come true.
    """
    deadline = time.monotonic() + limit
    while not (answer := check()):
        if time.monotonic() > deadline:
            raise LimitReached(f"{what}: not within {limit:g} s")
        time.sleep(interval)
    return answer


@dataclass(frozen=True)
class Memory:
    """Memory of a process tree in MiB; shared pages count in each process in ``rss``, once in ``pss``."""

    rss: float
    pss: float


@dataclass(frozen=True)
class Cpu:
    """CPU seconds of workers, helpers (the recorder) and server."""

    workers: float
    helpers: float
    server: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(
            self.workers - other.workers,
            self.helpers - other.helpers,
            self.server - other.server,
        )


class Program:
    """A command in a session of its own that does not outlive this process.

    Args:
        name: for messages and the log file.
        command: program and arguments.
        environment: added to this process's, which loses all settings of coordinator and Celery.
        folder: takes the log file.
        pipes: whether standard input and output are pipes to this process.

    Raises:
        SystemFailed: the command cannot be run.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        environment: Mapping[str, str],
        folder: Path,
        pipes: bool = False,
    ) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        own = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("COORDINATOR_", "CELERY_", "BENCH_"))
        }
        # Through the launcher: the kernel ends it when this process is killed.
        launcher = [sys.executable, "-I", "-S", str(coordinator.machine.launch.__file__)]
        parent = {coordinator.machine.launch.PARENT: str(os.getpid())}
        with self.log.open("ab") as log:
            try:
                self.process = subprocess.Popen(
                    [*launcher, "--signal", "SIGKILL", "--", *map(str, command)],
                    env={**own, "PYTHONUNBUFFERED": "1", **environment, **parent},
                    cwd=ROOT,
                    stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if pipes else log,
                    stderr=log,
                    start_new_session=True,
                )
            except OSError as error:
                raise SystemFailed(f"{name} cannot be started: {error}") from error
        self._main = psutil.Process(self.process.pid)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout

    def check(self) -> None:
        """Raise SystemFailed with the end of the log if the process has ended."""
        code = self.process.poll()
        if code is not None:
            text = self.log.read_text(errors="replace").strip()
            raise SystemFailed(f"{self.name} ended with code {code}:\n{text[-2000:]}")

    def tree(self) -> list[psutil.Process]:
        """Return the living process and all its descendants, the oldest first."""
        try:
            return [self._main, *self._main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu(self) -> float:
        """Return user and system seconds of the tree, children that ended included."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory(self) -> Memory:
        rss = pss = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                found = process.memory_full_info()
                rss += found.rss
                pss += getattr(found, "pss", found.rss)
        return Memory(rss / 2**20, pss / 2**20)

    def freeze(self) -> None:
        """Stop the whole tree where it is (SIGSTOP), the parent first."""
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen tree go on, the children first."""
        for process in reversed(self.tree()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the tree at once (SIGKILL), as a machine that loses power would."""
        members = self.tree()
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(10)
        # Those reparented to another process are not ours to wait for: psutil polls them.
        psutil.wait_procs(members, timeout=5)

    def end(self, grace: float = 0) -> None:
        """End the tree; with ``grace`` the parent gets SIGTERM and so many seconds first."""
        if self.process.poll() is None and grace:
            self.thaw()
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@contextlib.contextmanager
def ending(programs: list[Program], grace: Callable[[], float]) -> Iterator[None]:
    """End all programs that are in the list when the block is left, the last one first."""
    try:
        yield
    finally:
        for program in reversed(programs):
            program.end(grace())
