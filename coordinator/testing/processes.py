"""Local processes in the place of pytest-celery's containers: what its nodes call, on a child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coordinator.embedded import Embedded, trouble

#: Seconds for a process to be ready, and to end in order; a machine may have other work.
READY_SECONDS, END_SECONDS = 60.0, 20.0

_LOOK = 0.05


class LocalProcess:
    """A child process in a session of its own, with the interface of a container.

    Args:
        name: what it is called in messages.
        command: program and arguments.
        log: file that takes its output.
        environment: added to this process's.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name, self.command, self.log = name, tuple(command), log
        self.environment = dict(environment)
        self.id = uuid.uuid4().hex
        self.process: subprocess.Popen[bytes] | None = None
        #: Where the log of this life of the process begins.
        self._begin = 0
        self.start()

    @property
    def pid(self) -> int:
        return self.process.pid if self.process is not None else 0

    @property
    def status(self) -> str:
        """As a container: ``running`` or ``exited``."""
        alive = self.process is not None and self.process.poll() is None
        return "running" if alive else "exited"

    def start(self) -> None:
        """Start it; ``ready`` waits for it."""
        self._begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def is_ready(self) -> bool:
        """Whether it does its work."""
        return True

    def ready(self, timeout: float = READY_SECONDS) -> bool:
        """Wait until it does its work.

        Raises:
            RuntimeError: it ended instead, or took too long; with the end of its log.
        """
        deadline = time.monotonic() + timeout
        while self.status == "running":
            if self.is_ready():
                return True
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not ready after {timeout:g} s:\n{self._tail()}")
            time.sleep(_LOOK)
        raise RuntimeError(f"{self.name} ended:\n{self._tail()}")

    def logs(self) -> str:
        """Return all it has written, in all its lives."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def present_log(self) -> str:
        """Return what it has written since it was started last."""
        return self.log.read_bytes()[self._begin :].decode(errors="replace")

    def _tail(self) -> str:
        return self.logs()[-3000:]

    def reload(self) -> None:
        """Nothing is kept of the process that could be old."""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal, and wait for the end where it is one that ends it; SIGKILL takes its whole session."""
        number = _number(signal)
        if self.process is None or self.process.poll() is not None:
            return
        if number == _KILL:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        if number in _ENDING:
            self._wait()

    def restart(self, timeout: float = END_SECONDS) -> None:
        """End it in order if it runs, start it, and wait until it is ready."""
        self.end(timeout)
        self.start()
        self.ready()

    def end(self, timeout: float = END_SECONDS) -> None:
        """End it: in order within so many seconds, else at once."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            self._wait(timeout)

    def teardown(self) -> None:
        self.end()

    def wait(self, timeout: float = END_SECONDS) -> None:
        """Wait until it has ended by itself.

        Raises:
            subprocess.TimeoutExpired: it has not.
        """
        if self.process is not None:
            self.process.wait(timeout)

    def _wait(self, timeout: float = END_SECONDS) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, _KILL)
            self.process.wait()


_KILL = signal.SIGKILL
_ENDING = (signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


def _number(name: str | int) -> signal.Signals:
    return signal.Signals[name] if isinstance(name, str) else signal.Signals(name)


class RedisProcess(LocalProcess):
    """A Redis of its own folder, port and password; one for all tests of a run.

    Celery keeps connection pools in its apps: a new port for each test would leave them at a server that is gone.

    Args:
        folder: for its files.
    """

    def __init__(self, folder: Path) -> None:
        self.embedded = Embedded(folder)
        super().__init__("redis", self.embedded.command(), folder / "redis.log", {})

    @property
    def url(self) -> str:
        return self.embedded.url

    def is_ready(self) -> bool:
        return trouble(self.url) is None

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {
            "url": self.url,
            "host_url": self.url,
            "hostname": "127.0.0.1",
            "port": self.embedded.port,
            "vhost": "0",
        }

    def teardown(self) -> None:
        """Nothing: it is not the test's, and ended after the last one."""


class WorkerProcess(LocalProcess):
    """A Celery worker.

    Args:
        app: as ``celery -A`` takes it.
        name: of the node, before the ``@``.
        folder: for its log.
        environment: that makes the app use the tests' servers.
        options: of ``celery worker``, such as ``-c 2``.
    """

    def __init__(
        self,
        app: str,
        name: str,
        folder: Path,
        environment: Mapping[str, str],
        options: Sequence[str] = (),
    ) -> None:
        self.node, self.options = f"{name}@test", tuple(options)
        # Mingle and gossip talk to other workers at each start: seconds, and there are none.
        quiet = ("--without-gossip", "--without-mingle", "-E", "-l", "INFO")
        command = (sys.executable, "-m", "celery", "-A", app, "worker", "-n", self.node, *quiet)
        super().__init__(self.node, (*command, *self.options), folder / f"{name}.log", environment)

    def is_ready(self) -> bool:
        return f"{self.node} ready." in self.present_log()

    def version(self) -> str:
        return version("celery")

    def log_level(self) -> str:
        return "INFO"

    def worker_name(self) -> str:
        return self.node.partition("@")[0]

    def worker_queue(self) -> str:
        return self.options[self.options.index("-Q") + 1] if "-Q" in self.options else "celery"
