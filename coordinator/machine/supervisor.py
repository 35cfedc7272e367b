"""Starts and stops the processes of one machine, through supervisord, which restarts what dies.

supervisord runs in the foreground below ``coordinator up`` and does not outlive it, nor do the
programs outlive supervisord: each asks the kernel for a signal at its parent's death (``launch``).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psutil
from sqlalchemy.engine import make_url

from coordinator.embedded import Embedded, redis_url, trouble
from coordinator.errors import CoordinatorError, Refused
from coordinator.machine import launch
from coordinator.machine.processes import Process, Processes, tail
from coordinator.machine.programs import (
    REDIS,
    REDIS_STOP_SECONDS,
    WORKER_STOP_SECONDS,
    FlowerLogin,
    Program,
    configuration,
    flower_login,
    plan,
    starts_file,
    web_port,
)
from coordinator.machine.run_lock import RunLock
from coordinator.private_file import write_private
from coordinator.settings import Settings

START_SECONDS = 30
STOP_SECONDS = WORKER_STOP_SECONDS + REDIS_STOP_SECONDS + 5


class Supervisor:
    """All processes of one machine; leave the ``with`` block and none is left.

    Start it from the main thread: the kernel takes the end of the starting *thread* for the
        parent's death.

    Args:
        settings: the settings of this installation.
        app: the Celery app as ``celery -A`` takes it.
        flower: whether Flower is started.
        web: whether the HTTP API is started; the app must be a coordinated one.
    """

    def __init__(
        self, settings: Settings, app: str, *, flower: bool = True, web: bool = False
    ) -> None:
        self._settings, self._app, self._with_flower, self._with_web = settings, app, flower, web
        self.data_dir = settings.data_dir.resolve()
        self.lock = RunLock(self.data_dir)
        self.control = Processes(self.data_dir)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._flower: FlowerLogin | None = None
        self._web: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def prepare(self, waiting: Callable[[], None] = lambda: None) -> bool:
        """Take the data folder for this run.

        Args:
            waiting: called once when processes of an earlier run are still ending.

        Returns:
            Whether the embedded Redis had to move to another port. What was read from the settings
            before is then out of date, the Celery app's broker URL for one.

        Raises:
            Refused: another ``up`` runs on the data folder.
            CoordinatorError: the data folder cannot be written.
        """
        try:
            (self.data_dir / "logs").mkdir(parents=True, exist_ok=True)
            (self.data_dir / "run").mkdir(exist_ok=True)
        except OSError as error:
            raise CoordinatorError(f"{self.data_dir} cannot be used: {error}") from error
        embedded = Embedded(self.data_dir) if self._settings.embedded else None
        self.lock.acquire([embedded.lock_file] if embedded else [], STOP_SECONDS, waiting)
        self._end_leftovers()
        return embedded.settle() if embedded else False

    def start(self, canceled: Callable[[], bool] = lambda: False) -> None:
        """Start everything: Redis first, the others when it answers.

        Args:
            canceled: asked while waiting; once true, ``Refused`` is raised.

        Raises:
            CoordinatorError: supervisord or Redis did not come up; with the end of its log.
        """
        self._flower = flower_login(self.data_dir) if self._with_flower else None
        self._web = web_port() if self._with_web else None
        programs = plan(self._settings, self._app, self.data_dir, self._flower, self._web)
        self._start_daemon(programs)
        self._await("supervisord", self._daemon_trouble, "supervisord.out", canceled)
        if self._settings.embedded:
            self.control.start_store()
        url = redis_url(self._settings)
        self._await(REDIS, lambda: trouble(url), f"{REDIS}.log", canceled)
        self.control.start_services()
        self.lock.describe(self.addresses())

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop everything and wait for its end: the workers and their helpers first, then Redis.

        Args:
            hurry: asked while waiting; once true, running jobs are killed (they go back to
                waiting).
        """
        if daemon := self._daemon:
            daemon.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            killed = False
            while daemon.poll() is None:
                if time.monotonic() > deadline:
                    daemon.kill()
                elif hurry() and not killed:
                    killed = True
                    self._kill_services(daemon.pid)
                time.sleep(0.05)
            self._end_leftovers()
            self._daemon = None
        self.lock.release()

    def alive(self) -> bool:
        """Whether supervisord lives."""
        return self._daemon is not None and self._daemon.poll() is None

    def processes(self) -> list[Process]:
        """Return all processes.

        Raises:
            Refused: supervisord does not answer.
        """
        return self.control.all()

    def restart(self, name: str) -> list[Process]:
        """Restart what a name stands for, one process after the other (see ``Processes.find``).

        Raises:
            InvalidValue: no such process.
            Refused: supervisord does not answer.
        """
        return [self.control.restart(found) for found in self.control.find(name)]

    def addresses(self) -> dict[str, str]:
        """Return where everything is, without passwords."""
        found = {"redis": _without_password(redis_url(self._settings))}
        if self._settings.embedded:
            found["redis"] += f" (password in {Embedded(self.data_dir).address_file})"
        found["database"] = make_url(self._settings.store_url).render_as_string(hide_password=True)
        if self._flower:
            found["flower"] = f"{self._flower.url} ({self._flower.place})"
        if self._web:
            found["console"] = f"http://127.0.0.1:{self._web}/console/ (and the API beside it)"
        found["logs"] = str(self.data_dir / "logs")
        return found

    def _start_daemon(self, programs: list[Program]) -> None:
        config = self.data_dir / "supervisor.conf"
        write_private(config, configuration(programs, self.data_dir, self.control.socket_path))
        for program in programs:
            starts_file(self.data_dir, program.name).write_bytes(b"")
        # Nobody can be listening, since the run lock is ours; supervisord would find out, but
        # slowly.
        self.control.socket_path.unlink(missing_ok=True)
        command = [sys.executable, "-I", "-S", launch.__file__, "--signal", "SIGTERM", "--"]
        command += [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]
        own = {launch.PARENT: str(os.getpid()), "COORDINATOR_DATA_DIR": str(self.data_dir)}
        lock = self.lock.supervisor
        with (self.data_dir / "logs" / "supervisord.out").open("wb") as output:
            self._daemon = subprocess.Popen(
                command,
                env={**os.environ, **own, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal goes to the whole foreground group: Redis would stop before
                # the workers.
                process_group=0,
                # The lock stays taken until supervisord has ended, even when this process was
                # killed.
                pass_fds=() if lock is None else (lock,),
            )

    def _daemon_trouble(self) -> str | None:
        return None if self.control.running() else "it does not answer"

    def _await(
        self, name: str, problem: Callable[[], str | None], log: str, canceled: Callable[[], bool]
    ) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (reason := problem()) is not None:
            if canceled():
                raise Refused("stopped before everything was started")
            if not self.alive() or time.monotonic() > deadline:
                path = self.data_dir / "logs" / log
                said = tail(path, 8)
                raise CoordinatorError(
                    f"{name} did not come up: {reason}"
                    + (f"; the end of {path}:\n{said}" if said else "")
                )
            time.sleep(0.05)

    def _kill_services(self, daemon: int) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(daemon).children():
                # Redis ends politely by itself within moments, and it has the most to lose.
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    if "redis-server" not in child.name():
                        os.killpg(child.pid, signal.SIGKILL)

    def _end_leftovers(self) -> None:
        """Kill what earlier processes of this data folder left behind.

        A worker that was killed leaves its pool children: they would go on with jobs that have been
            given
        to somebody else. They are known by the variable that supervisord gives to all it starts.
        """
        left = _descendants(self.control.socket_path)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)


def _descendants(socket_path: Path) -> list[psutil.Process]:
    mark = f"unix://{socket_path}"
    found = []
    for process in psutil.process_iter():
        # Other users' processes, and those that ended while we looked.
        with contextlib.suppress(psutil.AccessDenied, psutil.NoSuchProcess, OSError):
            if (
                process.pid != os.getpid()
                and process.environ().get("SUPERVISOR_SERVER_URL") == mark
            ):
                found.append(process)
    return found


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = parts.username or ""
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:***@{host}", query="").geturl()
