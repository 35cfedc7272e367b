"""Errands: what a worker needs the store for, done by a process that ends with it.

A worker's main process writes one row when it starts, and builds the ledger when Redis has forgotten: seconds of its
life, for which it would keep SQLAlchemy, 11 MiB, until its end. A process that has the store open anyway, since it
records, does both itself.

Started as ``python -m coordinator.recovery.errands``: reads the errand as JSON, writes what it logs and the answer, one
JSON object a line.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from coordinator.errors import CoordinatorError
from coordinator.family import WORKER_MARK
from coordinator.recovery.records import Records
from coordinator.recovery.restorer import being_restored
from coordinator.settings import QueueSettings, Settings

logger = logging.getLogger("coordinator")

#: Seconds between two tries to open the ledger, growing while the database is down: each costs a process.
AGAIN_LEAST, AGAIN_MOST = 1.0, 5.0

#: Settings that are no matter of the two records; some hold what is no JSON.
_UNSAID = frozenset({"data_dir", "queues", "task_rules", "panic", "health", "alerts"})


class Errands:
    """Does, or has done, what a worker needs the store for.

    Args:
        records: of the worker's main process.
    """

    def __init__(self, records: Records) -> None:
        self.records = records
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self._over = False
        self._pause, self._again_at = AGAIN_LEAST, 0.0

    def enrol(self, worker: str, queues: Sequence[str], slots: int) -> None:
        """Note in the store a worker that is about to take work; see ``Records.enrol``.

        Raises:
            CoordinatorError: a restore would not know that it has to wait for it.
        """
        if self.records.has_store:
            self.records.enrol(worker, queues, slots)
        else:
            self._send("enrol", worker, list(queues), slots)

    def ensure_open(self) -> bool:
        """Restore the ledger if it is of another life of Redis; False while somebody else does.

        Raises:
            CoordinatorError: not now; the ledger stays closed.
        """
        if self.records.has_store:
            return self.records.ensure_open()
        ledger = self.records.ledger
        if ledger.epoch() is not None:
            return True
        # Looked at first: all workers find a closed ledger at the same moment, and one process will do.
        if being_restored(ledger) or time.monotonic() < self._again_at:
            return False
        try:
            opened = bool(self._send("ensure_open"))
        except CoordinatorError:
            self._again_at = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, AGAIN_MOST)
            raise
        self._pause = AGAIN_LEAST
        return opened

    def stop(self) -> None:
        """End the errands that are under way; later ones are refused."""
        with self._lock:
            self._over = True
            for process in self._processes:
                process.kill()

    def _send(self, verb: str, *arguments: Any) -> Any:
        said = json.dumps({"settings": said_of(self.records.settings), "do": [verb, *arguments]})
        # Without the mark by which the guard finds what the worker's jobs started.
        environment = {name: value for name, value in os.environ.items() if name != WORKER_MARK}
        with self._lock:
            if self._over:
                raise CoordinatorError("the worker stops")
            try:
                process = subprocess.Popen(
                    [sys.executable, "-m", "coordinator.recovery.errands"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env=environment,
                    encoding="utf-8",
                    # What is no text comes from somebody else, and is shown as well as it can be.
                    errors="backslashreplace",
                )
            except OSError as error:
                raise CoordinatorError(f"no process for the store: {error}") from error
            self._processes.add(process)
        try:
            return _answer(process, said)
        finally:
            with self._lock:
                self._processes.discard(process)


def _answer(process: subprocess.Popen[str], said: str) -> Any:
    found: dict[str, Any] = {}
    with process:
        if process.stdin is None or process.stdout is None:
            raise CoordinatorError("no pipes to the process for the store")
        # One that died at its start says so with its code.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(said)
            process.stdin.close()
        for line in process.stdout:
            match _said(line):
                case {"level": int(level), "text": str(text)}:
                    logger.log(level, "%s", text)
                case {"answer": _} | {"error": _} as found:
                    pass
                case _:
                    # Of a library or a hook of Python's start: no reason to give up what was asked for.
                    logger.warning(
                        "[COORDINATOR] the process for the store wrote: %s", line.rstrip()
                    )
    if "error" in found:
        raise CoordinatorError(found["error"])
    if "answer" not in found:
        raise CoordinatorError(f"the process for the store ended with code {process.returncode}")
    return found["answer"]


def _said(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def said_of(settings: Settings) -> dict[str, Any]:
    """Return what the records need of the settings, as JSON takes it."""
    said = {one.name: getattr(settings, one.name) for one in fields(settings)}
    said = {name: value for name, value in said.items() if name not in _UNSAID}
    queues = {name: asdict(queue) for name, queue in settings.queues.items()}
    return {**said, "queues": queues, "data_dir": str(settings.data_dir.resolve())}


def settings_of(said: Mapping[str, Any]) -> Settings:
    """Return the settings that ``said_of`` told."""
    queues = {name: QueueSettings(**queue) for name, queue in said["queues"].items()}
    return Settings(**{**said, "queues": queues, "data_dir": Path(said["data_dir"])})


class _Told(logging.Handler):
    """Hands log lines to the worker, which knows where they belong."""

    def emit(self, record: logging.LogRecord) -> None:
        _tell({"level": record.levelno, "text": record.getMessage()})


def _tell(what: Mapping[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


def main() -> None:
    # Ctrl-C in a terminal reaches the whole group: half a restore would have to be done again by another worker.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    logger.setLevel(logging.INFO)
    logger.addHandler(_Told())
    said = json.load(sys.stdin)
    records = Records(settings_of(said["settings"]))
    verb, *arguments = said["do"]
    errands: Mapping[str, Callable[..., Any]] = {
        "enrol": records.enrol,
        "ensure_open": records.ensure_open,
    }
    try:
        _tell({"answer": errands[verb](*arguments)})
    except CoordinatorError as error:
        _tell({"error": str(error)})


if __name__ == "__main__":
    main()
