"""The supervised processes of a data folder, seen and steered from any terminal."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import socket
import stat
import tempfile
import time
import xmlrpc.client
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.errors import CoordinatorError, InvalidValue, Refused
from coordinator.machine.programs import FIRST_GROUP, REDIS, SERVICES_GROUP, WORKERS, starts_file

#: Seconds to wait for an answer of supervisord.
ANSWER_SECONDS = 10

#: A Unix socket's path has at most 107 bytes, and supervisord appends its process id while it opens
#: it.
_LONGEST_SOCKET = 90

_ENDED = ("stopped", "exited", "fatal", "unknown")


@dataclass(frozen=True)
class Process:
    """One supervised process.

    Attributes:
        name: as ``restart`` takes it.
        state: running, starting, backoff (about to be started again), stopping, stopped, exited,
            fatal.
        pid: its process id, 0 if it has none.
        uptime: seconds since its last start.
        restarts: starts after the first one in this run.
        why: what is wrong, empty if nothing is.
    """

    name: str
    state: str
    pid: int
    uptime: float
    restarts: int
    why: str


class Processes:
    """What supervisord of a data folder runs.

    Args:
        data_dir: the data folder.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = Path(data_dir).resolve()
        self.socket_path = socket_path(self._data_dir)

    def all(self) -> list[Process]:
        """Return all processes, in the order of their names.

        Raises:
            Refused: ``coordinator up`` does not run on this data folder.
        """
        return [self._process(info) for info in self._call("getAllProcessInfo")]

    def running(self) -> bool:
        """Whether a supervisor answers for this data folder."""
        try:
            self._call("getState")
        except Refused:
            return False
        return True

    def start_store(self) -> None:
        """Start what everything else needs (the embedded Redis)."""
        self._call("startProcessGroup", FIRST_GROUP, False)

    def start_services(self) -> None:
        """Start everything but the embedded Redis, without waiting for it."""
        self._call("startProcessGroup", SERVICES_GROUP, False)

    def find(self, name: str) -> list[str]:
        """Return the processes a name stands for.

        Args:
            name: a process (``worker-training``, ``beat``), a queue (``training``), ``worker`` for
                all workers, or ``populator`` for the worker it runs in.

        Raises:
            InvalidValue: no such process.
            Refused: ``coordinator up`` does not run on this data folder.
        """
        names = [process.name for process in self.all()]
        if name == "worker":
            return [item for item in names if item.startswith(WORKERS)]
        queue = "maintenance" if name == "populator" else name
        for known in (name, WORKERS + queue):
            if known in names:
                return [known]
        raise InvalidValue("process", name, "one of " + ", ".join([*names, "worker"]), names)

    def restart(self, name: str, timeout: float = 60) -> Process:
        """Stop a process the polite way and start it again.

        Args:
            name: its full name.
            timeout: seconds it may take to stop.

        Returns:
            The process as it is after the start.

        Raises:
            Refused: ``coordinator up`` does not run on this data folder.
            CoordinatorError: it did not stop in time.
        """
        full = f"{FIRST_GROUP if name == REDIS else SERVICES_GROUP}:{name}"
        process = self._process(self._call("getProcessInfo", full))
        if process.state not in _ENDED:
            self._call("stopProcess", full, False)
            if process.pid:
                # One that is halted (SIGSTOP, a debugger) would hear of it only when its time is over.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, signal.SIGCONT)
        deadline = time.monotonic() + timeout
        while (process := self._process(self._call("getProcessInfo", full))).state not in _ENDED:
            if time.monotonic() > deadline:
                raise CoordinatorError(f"{name} is still {process.state} after {timeout:g} s")
            time.sleep(0.1)
        self._call("startProcess", full, False)
        return self._process(self._call("getProcessInfo", full))

    def tail(self, name: str, lines: int = 10) -> str:
        """Return the last lines of a program's log."""
        return tail(self._data_dir / "logs" / f"{name}.log", lines)

    def _process(self, info: dict[str, Any]) -> Process:
        name, state, pid = info["name"], info["statename"].lower(), int(info["pid"])
        try:
            starts = starts_file(self._data_dir, name).stat().st_size
        except FileNotFoundError:
            starts = 0
        why = ""
        if state in ("backoff", "fatal"):
            why = ": ".join(part for part in (info["spawnerr"], self.tail(name, 1)) if part)
        elif state == "exited":
            why = f"exit code {info['exitstatus']}"
        uptime = max(0.0, float(info["now"] - info["start"])) if pid else 0.0
        return Process(name, state, pid, uptime, max(0, starts - 1), why)

    def _call(self, method: str, *arguments: object) -> Any:
        # A connection per call: a kept one would have to be mended after each restart of
        # supervisord.
        server = xmlrpc.client.ServerProxy("http://supervisor", _Transport(self.socket_path))
        with server as proxy:
            try:
                return getattr(proxy.supervisor, method)(*arguments)
            except xmlrpc.client.Fault as fault:
                raise CoordinatorError(f"supervisor: {method}: {fault.faultString}") from fault
            except TimeoutError as error:
                raise CoordinatorError(
                    f"the supervisor of {self._data_dir} has not answered within {ANSWER_SECONDS} s"
                ) from error
            except (OSError, http.client.HTTPException) as error:
                raise Refused(
                    f"coordinator up does not run on {self._data_dir}: start it first"
                ) from error


class _Transport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket; supervisor's own transport waits for ever when supervisord is
    frozen."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = _Connection(host, self._path)
        # Where the base class looks for what it has to close.
        self._connection = host, connection
        return connection


class _Connection(http.client.HTTPConnection):
    def __init__(self, host: Any, path: Path) -> None:
        super().__init__(host)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_SECONDS)
        self.sock.connect(str(self._path))


def socket_path(data_dir: Path) -> Path:
    """Return where supervisord of a data folder listens.

    Raises:
        CoordinatorError: the folder for sockets of long paths belongs to somebody else.
    """
    inside = data_dir / "supervisor.sock"
    if len(os.fsencode(inside)) <= _LONGEST_SOCKET:
        return inside
    folder = Path(tempfile.gettempdir()) / f"coordinator-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    # The name can be guessed, so another user may have put a folder of theirs there first.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise CoordinatorError(
            f"{folder} is not a folder that only this user can enter: remove it, or choose a data "
            f"folder with a path of at most {_LONGEST_SOCKET - len('/supervisor.sock')} characters"
        )
    return folder / f"{hashlib.blake2b(os.fsencode(data_dir), digest_size=8).hexdigest()}.sock"


def tail(path: Path, lines: int = 10) -> str:
    """Return the last lines of a log that are not empty, or "" if there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16384))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(_not_empty(text.splitlines())[-lines:])


def _not_empty(lines: Iterable[str]) -> list[str]:
    return [line.rstrip() for line in lines if line.strip()]
