"""Renewal: the thread of a worker's main process that keeps its lease, and its line to the guard."""

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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from coordinator.errors import LedgerClosed, LedgerUnavailable
from coordinator.ledger import Ledger

logger = logging.getLogger("coordinator")

#: Seconds between renewals, and between ticks of the ledger.
RENEW_INTERVAL = 1.0
TICK_INTERVAL = 0.25

#: Seconds a job that has to stop gets to reach a checkpoint before it is terminated, and then killed.
SOFT_STOP, HARD_STOP = 1.0, 3.0


class InHand(Protocol):
    """A coordinated message the worker has."""

    id: str
    token: int
    worker_pid: int | None


class WorkerView(Protocol):
    """What the renewal needs to know of its worker."""

    id: str

    def queues(self) -> Sequence[str]: ...
    def slots(self) -> int: ...
    def busy(self) -> int: ...
    def hand(self) -> Iterable[InHand]: ...
    def processes(self) -> list[int]: ...
    def report(self) -> dict[str, Any]: ...


class Guard:
    """The worker's end of the guard process; see ``coordinator.guard``.

    Args:
        mode: ``children`` when the pool runs jobs in processes, else ``worker``.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> IO[bytes]:
        """Start the process; returns what it reads."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "coordinator.guard", self.mode, str(os.getpid())],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        return cast("IO[bytes]", self.process.stdin)

    def tell(self, until: float, pids: Iterable[int]) -> None:
        """Say until when the lease is good, and which processes run jobs."""
        line = json.dumps({"until": until, "pids": list(pids)}).encode() + b"\n"
        try:
            process = self.process
            alive = process is not None and process.poll() is None
            pipe = process.stdin if process is not None and alive else self.start()
            if pipe is not None:
                pipe.write(line)
                pipe.flush()
        except (BrokenPipeError, OSError) as error:
            logger.error("[COORDINATOR] the guard does not answer, starting another: %s", error)
            self.process = None

    def stop(self) -> None:
        """End the guard; the pool is stopped, so there is nothing left to guard."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.write(json.dumps({"until": None, "pids": []}).encode() + b"\n")
                self.process.stdin.close()
            self.process.wait(timeout=5)


@dataclass
class _Stop:
    kind: str
    since: float


class Renewal(threading.Thread):
    """Renews the worker's lease once a second and carries out what the answers say.

    Args:
        ledger: a ledger of this process.
        worker: the worker.
        lease_seconds: the configured lease, until the ledger says otherwise.
        reopen: called when the ledger has no epoch for this life of Redis.
        can_kill: whether the pool's jobs are processes that can be killed.
    """

    def __init__(
        self,
        ledger: Ledger,
        worker: WorkerView,
        lease_seconds: float,
        reopen: Callable[[], None],
        can_kill: bool,
    ) -> None:
        super().__init__(name="coordinator-renewal", daemon=True)
        self.ledger, self.worker, self.reopen, self.can_kill = ledger, worker, reopen, can_kill
        self.guard = Guard("children" if can_kill else "worker")
        self.lease = lease_seconds
        self.registered = False
        self.fenced = 0
        self._stop_event = threading.Event()
        self._stops: dict[str, _Stop] = {}

    @property
    def margin(self) -> float:
        """Seconds before the end of the lease by which the jobs must be dead."""
        return max(0.3, min(2.0, self.lease / 10))

    def run(self) -> None:
        renew_at = 0.0
        while not self._stop_event.is_set():
            try:
                if time.monotonic() >= renew_at:
                    renew_at = time.monotonic() + min(RENEW_INTERVAL, self.lease / 4)
                    self.renew()
                if self.registered:
                    self.ledger.run("tick", patience=0)
                self._enforce()
            except LedgerUnavailable as error:
                logger.debug("[COORDINATOR] renewal: %s", error)
            except LedgerClosed:
                self.reopen()
            self._stop_event.wait(TICK_INTERVAL)

    def stop(self) -> None:
        """End the thread and leave: what the worker still has goes back to waiting."""
        self._stop_event.set()
        self.join(timeout=5)
        with contextlib.suppress(LedgerUnavailable, LedgerClosed):
            self.ledger.run("leave", self.worker.id, "left", patience=1)
        self.guard.stop()

    def renew(self) -> None:
        """Renew once.

        Raises:
            LedgerUnavailable: Redis was not reached; the guard's deadline stands.
            LedgerClosed: no epoch; nobody can be admitted meanwhile, so the deadline moves on.
        """
        before = time.monotonic()
        hand = list(self.worker.hand())
        try:
            answer = self.ledger.renew(
                self.worker.id,
                self.worker.queues(),
                self.worker.slots(),
                self.worker.busy(),
                [(item.id, item.token) for item in hand],
                self.worker.report(),
                register=not self.registered,
                patience=min(2.0, self.lease / 4),
            )
        except LedgerClosed:
            self._extend(before)
            raise
        if answer.answer != "ok":
            self._fence(hand)
            return
        self.registered = True
        self.lease = answer.lease_ms / 1000
        self._extend(before)
        for job_id in answer.lost:
            self._kill(job_id, hand, "it is no longer this worker's")
        for job_id, kind in answer.stop.items():
            self._stops.setdefault(job_id, _Stop(kind, time.monotonic()))
        for job_id in set(self._stops) - set(answer.stop):
            del self._stops[job_id]

    def _extend(self, since: float) -> None:
        # Counted from before the call: the ledger's lease cannot have begun earlier.
        self.guard.tell(since + self.lease - self.margin, self.worker.processes())

    def _fence(self, hand: list[InHand]) -> None:
        logger.error(
            "[COORDINATOR] worker %s lost its lease; ending its %d jobs", self.worker.id, len(hand)
        )
        self.fenced += 1
        self.registered = False
        if not self.can_kill:
            os.kill(os.getpid(), signal.SIGKILL)
        for item in hand:
            self._kill(item.id, hand, "the lease is over")
        # Registered again at the next renewal, when no process of these jobs is left.
        deadline = time.monotonic() + 5
        pids = {item.worker_pid for item in hand if item.worker_pid}
        while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
            self._stop_event.wait(0.02)

    def _enforce(self) -> None:
        if not self._stops:
            return
        hand = list(self.worker.hand())
        for job_id, stop in self._stops.items():
            waited = time.monotonic() - stop.since
            if waited > HARD_STOP:
                self._kill(job_id, hand, f"asked to {stop.kind}")
            elif waited > SOFT_STOP:
                self._signal(job_id, hand, signal.SIGTERM)

    def _kill(self, job_id: str, hand: list[InHand], reason: str) -> None:
        if self._signal(job_id, hand, signal.SIGKILL):
            logger.warning("[COORDINATOR] job %s is killed: %s", job_id, reason)

    def _signal(self, job_id: str, hand: list[InHand], number: int) -> bool:
        if not self.can_kill:
            return False
        for item in hand:
            if item.id == job_id and item.worker_pid and item.worker_pid in self.worker.processes():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if number == signal.SIGKILL and os.getpgid(item.worker_pid) == item.worker_pid:
                        # The job's own process group: what it started dies with it.
                        os.killpg(item.worker_pid, number)
                    else:
                        os.kill(item.worker_pid, number)
                    return True
        return False


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
