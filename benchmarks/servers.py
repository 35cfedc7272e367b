"""A fresh Redis for each run, on loopback and without persistence."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import redis

from benchmarks.processes import Program, SystemFailed, until
from coordinator.embedded import Embedded, connect
from coordinator.errors import CoordinatorError

_SAVED = ("--appendonly", "yes", "--appendfsync", "everysec")
_UNSAVED = ("--appendonly", "no")


class Server(ABC):
    """Where the jobs of a system are; ended with the block.

    Attributes:
        url: its address.
        program: its process.
    """

    url: str
    program: Program

    def cpu(self) -> float:
        """Return user and system seconds used so far."""
        return self.program.cpu()

    @abstractmethod
    def memory(self) -> int:
        """Return the bytes of everything kept."""

    @abstractmethod
    def wipe(self) -> None:
        """Do to it what loses what it has in memory."""

    @abstractmethod
    def end(self) -> None:
        """End it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class RedisServer(Server):
    """One Redis server and what it used.

    Args:
        folder: its folder; also takes its log.
        persistent: whether it writes an append-only file, synced every second.

    Raises:
        SystemFailed: there is no server, or it does not answer.
    """

    def __init__(self, folder: Path, persistent: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            server = Embedded(folder).server()
        except CoordinatorError as error:
            raise SystemFailed(f"Redis cannot be started: {error}") from error
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command: list[str | Path] = [
            server,
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--dir",
            folder,
        ]
        command += ["--save", "", "--maxmemory-policy", "noeviction"]
        self.url = f"redis://127.0.0.1:{port}/0"
        self.program = Program(
            "redis", [*command, *(_SAVED if persistent else _UNSAVED)], {}, folder
        )
        self.client: redis.Redis = connect(self.url, 60)
        until(self._answers, 10, "Redis answers")

    def _answers(self) -> bool:
        self.program.check()
        try:
            # The port was free a moment ago: somebody else's server must not be measured or emptied.
            return bool(self.info("server")["process_id"] == self.program.pid)
        except redis.ConnectionError:
            return False

    def info(self, section: str) -> dict[str, Any]:
        found: Any = self.client.info(section)
        return dict(found)

    def memory(self) -> int:
        """Return the bytes of everything kept (``used_memory``)."""
        return int(self.info("memory")["used_memory"])

    def wipe(self) -> None:
        """Forget everything, as a Redis without persistence does that is started again."""
        self.client.flushall()

    def end(self) -> None:
        self.client.close()
        self.program.end()
