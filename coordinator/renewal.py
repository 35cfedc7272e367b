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
from typing import IO, Any, Protocol, cast

from coordinator.errors import CoordinatorError, LedgerClosed, LedgerUnavailable
from coordinator.family import end, member
from coordinator.ledger import Ledger

logger = logging.getLogger("coordinator")

#: Seconds between renewals, and between ticks of the ledger.
RENEW_INTERVAL = 1.0
TICK_INTERVAL = 0.25

#: Seconds a job that has to stop gets to reach a checkpoint before it is terminated, and then killed.
SOFT_STOP, HARD_STOP = 1.0, 3.0

#: Seconds a process has to find out at its claim that its message is a duplicate, before it is taken for one
#: that runs a job of somebody else.
CLAIM_SECONDS = 0.5


class InHand(Protocol):
    """A coordinated message the worker has."""

    id: str
    token: int
    worker_pid: int | None
    time_start: float | None


class WorkerView(Protocol):
    """What the renewal needs to know of its worker."""

    id: str

    def queues(self) -> Sequence[str]: ...
    def slots(self) -> int: ...
    def busy(self) -> int: ...
    def hand(self) -> Iterable[InHand]: ...
    def runs(self, item: InHand) -> bool: ...
    def dropped(self) -> Iterable[InHand]: ...
    def forget(self, item: InHand, given_back: bool) -> None: ...
    def processes(self) -> list[int]: ...
    def look_after(self) -> None: ...
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

    def tell(self, until: float | None) -> None:
        """Say until when the lease is good; None when no job can run."""
        line = json.dumps({"until": until}).encode() + b"\n"
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
        #: Whether the worker wants to fetch, and whether the guard is ready for that.
        self.wanted = self.armed = False
        self._stop_event = threading.Event()
        self._opener: threading.Thread | None = None
        self._stops: dict[str, _Stop] = {}

    @property
    def margin(self) -> float:
        """Seconds before the end of the lease at which the jobs are killed: on a busy machine that takes a while."""
        return max(0.5, min(2.0, self.lease / 10))

    def run(self) -> None:
        renew_at = 0.0
        while not self._stop_event.is_set():
            try:
                if time.monotonic() >= renew_at or self.wanted != self.armed:
                    renew_at = time.monotonic() + min(RENEW_INTERVAL, self.lease / 4)
                    self.renew()
                self.worker.look_after()
                if self.registered:
                    self._give_back("its worker lost the connection", self.worker.dropped())
                    self.ledger.run("tick", patience=0)
                self._enforce()
            except LedgerUnavailable as error:
                logger.debug("[COORDINATOR] renewal: %s", error)
            except LedgerClosed:
                self._reopen()
            except Exception:
                # Without this thread the guard would end all jobs, for whatever nobody thought of.
                logger.exception("[COORDINATOR] renewal failed and is tried again")
            self._stop_event.wait(TICK_INTERVAL)

    def _reopen(self) -> None:
        # In a thread of its own: a restore takes seconds, and the guard wants to hear of us meanwhile.
        if self._opener is None or not self._opener.is_alive():
            self._opener = threading.Thread(
                target=self._open, name="coordinator-restore", daemon=True
            )
            self._opener.start()

    def _open(self) -> None:
        try:
            self.reopen()
        except CoordinatorError as error:
            logger.warning("[COORDINATOR] the ledger stays closed for now: %s", error)
        except Exception:
            logger.exception("[COORDINATOR] the restore failed and is tried again")

    def stop(self) -> None:
        """End the thread and leave: what the worker still has goes back to waiting."""
        self._stop_event.set()
        self.join(timeout=5)
        with contextlib.suppress(LedgerUnavailable, LedgerClosed):
            # Fetched and not begun; those begun are refused here, and given back by leaving.
            self._give_back("its worker shut down", self.worker.hand())
            self.ledger.run("leave", self.worker.id, "left", patience=1)
        self.guard.stop()

    def _give_back(self, reason: str, items: Iterable[InHand]) -> None:
        for item in items:
            answer = self.ledger.run("undeliver", item.id, item.token, reason, "", patience=1)
            self.worker.forget(item, given_back=answer["answer"] == "done")

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
            self._kill(job_id, hand, "it is no longer this worker's", CLAIM_SECONDS)
        for job_id, kind in answer.stop.items():
            self._stops.setdefault(job_id, _Stop(kind, time.monotonic()))
        for job_id in set(self._stops) - set(answer.stop):
            del self._stops[job_id]

    def _extend(self, since: float) -> None:
        # Counted from before the call: the ledger's lease cannot have begun earlier.
        # Before it fetches there is nothing to guard, and Celery gives up a worker whose pool dies at its start.
        self.guard.tell(since + self.lease - self.margin if self.wanted else None)
        self.armed = self.wanted

    def _fence(self, hand: list[InHand]) -> None:
        logger.error(
            "[COORDINATOR] worker %s lost its lease; ending its %d jobs", self.worker.id, len(hand)
        )
        self.fenced += 1
        self.registered = False
        if not self.armed:
            return
        if not self.can_kill:
            os.kill(os.getpid(), signal.SIGKILL)
        # All of the pool: a process may have claimed a job that the main process has not heard of yet. The
        # worker registers again at the next renewal, when no process of these jobs is left.
        self._end(self.worker.processes())

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

    def _kill(self, job_id: str, hand: list[InHand], reason: str, least: float = 0.0) -> None:
        pid = self._process_of(job_id, hand, least)
        if pid is not None:
            self._end([pid])
            logger.warning("[COORDINATOR] job %s is killed: %s", job_id, reason)

    def _signal(self, job_id: str, hand: list[InHand], number: int) -> None:
        pid = self._process_of(job_id, hand)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _process_of(self, job_id: str, hand: list[InHand], least: float = 0.0) -> int | None:
        if not self.can_kill:
            return None
        for item in hand:
            if item.id != job_id or time.time() - (item.time_start or 0) < least:
                continue
            # Asked again: it may have ended since, and its process run another job.
            if item.worker_pid and self.worker.runs(item):
                return item.worker_pid
        return None

    def _end(self, pids: Iterable[int]) -> None:
        known = [found for pid in pids if (found := member(pid))]
        if not end(known):
            logger.error("[COORDINATOR] processes %s cannot be killed", [one.pid for one in known])
