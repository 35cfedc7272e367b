"""Runs that have to end: asked at their next checkpoint, then told by a signal, then killed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from coordinator.family import end, member
from coordinator.ledger import Ledger
from coordinator.running.context import silence_text

logger = logging.getLogger("coordinator")

#: Seconds a job that has to stop gets to reach a checkpoint before it is terminated, and then killed.
SOFT_STOP, HARD_STOP = 1.0, 3.0


class InHand(Protocol):
    """A coordinated message the worker has."""

    id: str
    token: int
    worker_pid: int | None
    time_start: float | None
    heartbeat_timeout: float | None
    ended_because: str

    @property
    def waits(self) -> bool: ...

    def give_back(self, ledger: Ledger) -> bool: ...


class Processes(Protocol):
    """What it needs to know of its worker."""

    def hand(self) -> Iterable[InHand]: ...
    def runs(self, item: InHand) -> bool: ...


@dataclass
class _Stop:
    kind: str
    since: float
    told: bool = False


class Stopping:
    """Ends runs of one worker.

    Args:
        worker: the worker.
        can_kill: whether its jobs are processes that can be killed.
    """

    def __init__(self, worker: Processes, can_kill: bool) -> None:
        self.worker, self.can_kill = worker, can_kill
        self._stops: dict[tuple[str, int], _Stop] = {}

    def wants(self, hand: Iterable[InHand], stop: Mapping[str, str]) -> None:
        """Stop these jobs (id to ``cancel``, ``release`` or ``fail``), and no others but the silent."""
        now = time.monotonic()
        known = {(item.id, item.token): stop.get(item.id) for item in hand}
        for run, kind in known.items():
            if kind is not None:
                self._stops.setdefault(run, _Stop(kind, now))
        for run in [*self._stops]:
            if known.get(run) is None and self._stops[run].kind != "silent":
                del self._stops[run]

    def at_once(self, item: InHand, kind: str) -> None:
        """Stop a run that had its time to reach a checkpoint."""
        self._stops.setdefault((item.id, item.token), _Stop(kind, time.monotonic() - SOFT_STOP))

    def silenced(self, hand: Iterable[InHand], silent: Mapping[str, int]) -> None:
        """End the runs that were silent for longer than they may be.

        Args:
            hand: what the worker has.
            silent: milliseconds without a sign of life, by job.
        """
        for item in hand:
            reason = silence_text(silent.get(item.id, 0) / 1000, item.heartbeat_timeout)
            if not reason or (item.id, item.token) in self._stops:
                continue
            item.ended_because = reason
            self.at_once(item, "silent")
            logger.error("[COORDINATOR] job %s is ended: %s", item.id, reason)
            if not self.can_kill:
                logger.error(
                    "[COORDINATOR] job %s runs in a pool that cannot end it; it keeps its models",
                    item.id,
                )

    def enforce(self) -> bool:
        """Signal or kill what was told long enough ago; call it again and again.

        Returns:
            Whether there is a run that should be dead and of which nobody knows in which process it is.
        """
        if not self._stops:
            return False
        lost = False
        hand = list(self.worker.hand())
        present = {(item.id, item.token) for item in hand}
        for run, stop in [*self._stops.items()]:
            waited = time.monotonic() - stop.since
            if run not in present and stop.kind == "silent":
                del self._stops[run]
            elif waited > HARD_STOP:
                self.kill(run[0], hand, f"told to stop ({stop.kind})")
                lost = lost or any(item.id == run[0] and item.worker_pid is None for item in hand)
            elif waited > SOFT_STOP and not stop.told:
                # Once: a second one would break into what the first made the job clean up.
                stop.told = True
                self._signal(run[0], hand, signal.SIGTERM)
        return lost

    def kill(self, job_id: str, hand: Sequence[InHand], reason: str, least: float = 0.0) -> None:
        """Kill the process of a job, with all it started, if it has run for ``least`` seconds."""
        pid = self._process_of(job_id, hand, least)
        if pid is not None:
            self.end([pid])
            logger.warning("[COORDINATOR] job %s is killed: %s", job_id, reason)

    def end(self, pids: Iterable[int]) -> None:
        """Kill processes with all they started."""
        known = [found for pid in pids if (found := member(pid))]
        if not end(known):
            logger.error("[COORDINATOR] processes %s cannot be killed", [one.pid for one in known])

    def _signal(self, job_id: str, hand: Sequence[InHand], number: int) -> None:
        pid = self._process_of(job_id, hand)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _process_of(self, job_id: str, hand: Sequence[InHand], least: float = 0.0) -> int | None:
        if not self.can_kill:
            return None
        for item in hand:
            if item.id != job_id or time.time() - (item.time_start or 0) < least:
                continue
            # Asked again: it may have ended since, and its process run another job.
            if item.worker_pid and self.worker.runs(item):
                return item.worker_pid
        return None
