"""One ``coordinator up`` per data folder."""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from coordinator.errors import CoordinatorError, Refused
from coordinator.private_file import PrivateFile


class RunLock:
    """The right to run on a data folder; the system takes it back however a process ends.

    Two locks, since two processes have it: ``up`` itself, and the supervisor, which is still
        stopping
    the workers for a while when ``up`` was killed.

    Args:
        data_dir: the data folder, absolute.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._holder = PrivateFile(data_dir / "up.json")
        self._up: int | None = None
        self.supervisor: int | None = None

    def acquire(
        self, others: Sequence[Path], wait: float, waiting: Callable[[], None] = lambda: None
    ) -> None:
        """Take the right.

        Args:
            others: locks of processes that must have ended as well; they are not kept.
            wait: seconds to wait for the supervisor of an earlier run and for ``others``.
            waiting: called once when there is something to wait for.

        Raises:
            Refused: another ``up`` runs here; the message says who, since when, where, how to stop
                it.
        """
        with contextlib.ExitStack() as opened, contextlib.ExitStack() as others_opened:
            up = _open(self._data_dir / "up.lock", opened)
            if not _locked(up):
                raise Refused(self._who())
            supervisor = _open(self._data_dir / "supervisor.lock", opened)
            wanted = [supervisor, *(_open(path, others_opened) for path in others)]
            deadline = time.monotonic() + wait
            if not all(map(_locked, wanted)):
                waiting()
            while not all(map(_locked, wanted)):
                if time.monotonic() > deadline:
                    raise Refused(
                        f"processes of an earlier run on {self._data_dir} have not ended within "
                        f"{wait:g} s; the id of their supervisor is in {self._data_dir / 'supervisord.pid'}"
                    )
                time.sleep(0.1)
            self._up, self.supervisor = up, supervisor
            opened.pop_all()

    def describe(self, addresses: dict[str, str]) -> None:
        """Leave word for whoever tries to start a second one."""
        self._holder.write(
            {
                "pid": os.getpid(),
                "user": getpass.getuser(),
                "host": socket.gethostname(),
                "since": datetime.now().astimezone().isoformat(timespec="seconds"),
                "addresses": addresses,
            }
        )

    def release(self) -> None:
        """Give the right back; to be called when the supervisor has ended."""
        for descriptor in (self.supervisor, self._up):
            if descriptor is not None:
                os.close(descriptor)
        self._up = self.supervisor = None

    def _who(self) -> str:
        holder = {"pid": "?", "user": "?", "host": "?", "since": "?", **(self._holder.read() or {})}
        addresses = "".join(f"; {name} {at}" for name, at in holder.get("addresses", {}).items())
        return (
            f"coordinator up runs on {self._data_dir} already: process {holder['pid']} of "
            f"{holder['user']} on {holder['host']} since {holder['since']}{addresses}; "
            f"stop it with Ctrl-C there or with: kill {holder['pid']}"
        )


def _open(path: Path, stack: contextlib.ExitStack) -> int:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CoordinatorError(f"{path} cannot be written: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    return descriptor


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
