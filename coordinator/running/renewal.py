"""Renewal: the thread of a worker's main process that keeps its lease."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from coordinator.errors import CoordinatorError, LedgerClosed, LedgerUnavailable
from coordinator.ledger import Ledger
from coordinator.running.guard_line import GuardLine
from coordinator.running.idleness import Idleness
from coordinator.running.stopping import HARD_STOP, InHand, Stopping

logger = logging.getLogger("coordinator")

#: Seconds between renewals, between two looks at what the worker has in hand, and while it is about to begin, to leave
#: or to register again.
RENEW_INTERVAL = 1.0
LOOK_INTERVAL, BRIEF_INTERVAL = 0.5, 0.25

#: From how many seconds on a lease takes no notice of half a second.
LONG_LEASE = 10.0

#: Ticks of the ledger a second of all workers together, and seconds between two of one worker at most: a thousand
#: workers that ticked as often as one would keep Redis busy with nothing else. What is due starts half a second late.
TICKS, TICK_MOST = 20, 5.0

#: Seconds that a main process gets to see that its pool is gone, in a shutdown at once.
HUNG = 5.0

#: Seconds a process has to find out at its claim that its message is a duplicate, before it is taken for one
#: that runs a job of somebody else.
CLAIM_SECONDS = 0.5


class WorkerView(Protocol):
    """What the renewal needs to know of its worker."""

    id: str

    def queues(self) -> Sequence[str]: ...
    def slots(self) -> int: ...
    def busy(self) -> int: ...
    def free(self) -> int: ...
    def received(self) -> int: ...
    def unread(self) -> bool: ...

    warned: bool
    cold_since: float | None

    def leaving(self) -> bool: ...
    def hand(self) -> Iterable[InHand]: ...
    def runs(self, item: InHand) -> bool: ...
    def dropped(self) -> Iterable[InHand]: ...
    def forget(self, item: InHand, given_back: bool) -> None: ...
    def processes(self) -> list[int]: ...
    def look_after(self) -> None: ...
    def report(self) -> dict[str, Any]: ...


class Renewal(threading.Thread):
    """Renews the worker's lease once a second and carries out what the answers say.

    Args:
        ledger: a ledger of this process.
        worker: the worker.
        lease_seconds: the configured lease, until the ledger says otherwise.
        reopen: called when the ledger has no epoch for this life of Redis.
        can_kill: whether the pool's jobs are processes that can be killed.
        shutdown_seconds: how long jobs may go on when the worker was told to stop; None is to their end.
        restart_idle: whether a worker that takes nothing although messages wait for it stops.
    """

    def __init__(
        self,
        ledger: Ledger,
        worker: WorkerView,
        lease_seconds: float,
        reopen: Callable[[], object],
        can_kill: bool,
        shutdown_seconds: float | None = None,
        restart_idle: bool = False,
    ) -> None:
        self.shutdown_seconds = shutdown_seconds
        super().__init__(name="coordinator-renewal", daemon=True)
        self.ledger, self.worker, self.reopen, self.can_kill = ledger, worker, reopen, can_kill
        self.guard = GuardLine("children" if can_kill else "worker")
        self.lease = lease_seconds
        self.tick_every, self._tick_at = BRIEF_INTERVAL, 0.0
        self.registered = False
        self.fenced = 0
        #: Whether the worker wants to fetch, and whether the guard is ready for that.
        self.wanted = self.armed = False
        self._stop_event = threading.Event()
        self._opener: threading.Thread | None = None
        self.stopping, self.idleness = Stopping(worker, can_kill), Idleness(worker.id)
        #: For how long the worker has taken nothing although messages wait for it.
        self.idle_seconds = 0.0
        self.restart_idle, self._restarts = restart_idle, False
        #: When the worker was told to stop, and whether its jobs were given up since.
        self._left_at, self._gave_up = 0.0, False
        #: Whether the ledger knows that it leaves.
        self._farewell = False

    @property
    def margin(self) -> float:
        """Seconds before the end of the lease at which the jobs are killed: on a busy machine that takes a while."""
        return max(0.5, min(2.0, self.lease / 10))

    def run(self) -> None:
        renew_at = 0.0
        while not self._stop_event.is_set():
            try:
                self._end_cold()
                leaves = not self._left_at and self._leaves()
                if time.monotonic() >= renew_at or self.wanted != self.armed or leaves:
                    renew_at = time.monotonic() + min(RENEW_INTERVAL, self.lease / 4)
                    self.renew()
                self.worker.look_after()
                if self.registered:
                    self._give_back("its worker lost the connection", self.worker.dropped())
                    self._tick()
                self._give_up()
                if self.stopping.enforce() and self.can_kill and self.worker.warned:
                    # Begun just before a shutdown at once, when the main process had stopped listening.
                    self.stopping.end(self.worker.processes())
            except LedgerUnavailable as error:
                renew_at = 0.0
                logger.debug("[COORDINATOR] renewal: %s", error)
            except LedgerClosed:
                # Until the ledger is built again it is asked at every tick: admission waits for this worker.
                renew_at = 0.0
                self._reopen()
            except Exception:
                # Without this thread the guard would end all jobs, for whatever nobody thought of.
                logger.exception("[COORDINATOR] renewal failed and is tried again")
            self._stop_event.wait(self._pause(renew_at))

    def _pause(self, renew_at: float) -> float:
        settled = self.registered and self.armed and not self._left_at and renew_at
        return self._interval if settled else BRIEF_INTERVAL

    @property
    def _interval(self) -> float:
        # Of a short lease a tenth that passes without a tick counts as a step of the clock; see lua/tick.lua.
        return LOOK_INTERVAL if self.lease >= LONG_LEASE else BRIEF_INTERVAL

    def _tick(self) -> None:
        if time.monotonic() >= self._tick_at:
            self._tick_at = time.monotonic() + self.tick_every
            self.ledger.tick(patience=0)

    def bid_farewell(self, timeout: float) -> None:
        """Wait until the ledger knows that the worker takes nothing more, at most so many seconds."""
        deadline = time.monotonic() + timeout
        while not self._farewell and self.is_alive() and time.monotonic() < deadline:
            self._stop_event.wait(0.02)

    def _leaves(self) -> bool:
        if self.worker.leaving():
            # Told at once: the ledger must not count on these slots, nor dispatch to them.
            self._left_at = time.monotonic()
        return bool(self._left_at)

    def _give_up(self) -> None:
        """Stop what runs on past the deadline of a shutdown, and give it back."""
        seconds, waited = self.shutdown_seconds, time.monotonic() - self._left_at
        if not self._left_at or seconds is None or waited < seconds:
            return
        hand = list(self.worker.hand())
        if not self._gave_up:
            for item in hand:
                # It may have ended, and the main process, which waits for its pool, has yet to hear of it.
                if item.give_back(self.ledger):
                    self.stopping.at_once(item, "release")
                    logger.warning("[COORDINATOR] job %s goes back: its worker stops", item.id)
            self._gave_up = True
        elif (
            not self.can_kill
            and waited > seconds + HARD_STOP
            and any(item.worker_pid is not None for item in hand)
        ):
            # Threads that reach no checkpoint end with their worker, and go back when its lease has ended.
            os.kill(os.getpid(), signal.SIGKILL)

    def _end_cold(self) -> None:
        """End a worker that was told to stop at once, with all it runs, when that takes too long.

        Celery waits for a job that ignores its signal. And it reads what its processes still have to say: one
        that was killed in the middle of a message never says the rest.
        """
        if not self.can_kill or self.worker.cold_since is None:
            return
        waited = time.monotonic() - self.worker.cold_since
        if waited > HARD_STOP:
            with contextlib.suppress(LedgerUnavailable, LedgerClosed):
                # Also what had begun when the main process no longer listened: it must not count as lost.
                for item in list(self.worker.hand()):
                    item.give_back(self.ledger)
            self.stopping.end(self.worker.processes())
        if waited > HARD_STOP + HUNG:
            logger.error("[COORDINATOR] worker %s ends: its pool is gone", self.worker.id)
            with contextlib.suppress(LedgerUnavailable, LedgerClosed):
                self.ledger.leave(self.worker.id, patience=1)
            self.guard.stop()
            os._exit(1)

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
            self.ledger.leave(self.worker.id, patience=1)
        self.guard.stop()

    def _give_back(self, reason: str, items: Iterable[InHand]) -> None:
        for item in items:
            given_back = self.ledger.undeliver(item.id, item.token, reason, patience=1)
            self.worker.forget(item, given_back)

    def renew(self) -> None:
        """Renew once.

        Raises:
            LedgerUnavailable: Redis was not reached; the guard's deadline stands.
            LedgerClosed: no epoch; nobody can be admitted meanwhile, so the deadline moves on.
        """
        before = time.monotonic()
        hand, queues = list(self.worker.hand()), self.worker.queues()
        try:
            answer = self.ledger.renew(
                self.worker.id,
                queues,
                self.worker.slots(),
                self.worker.busy(),
                [(item.id, item.token) for item in hand],
                {
                    **self.worker.report(),
                    "idle_seconds": round(self.idle_seconds),
                    "fenced": self.fenced,
                },
                register=not self.registered,
                # What is in hand now must not reach a ledger that has been restored meanwhile: since then a job
                # that stood by may have begun.
                patience=0,
                unbegun={item.id for item in hand if item.waits},
            )
        except LedgerClosed:
            self._extend(before)
            raise
        if answer.answer != "ok":
            self._fence(hand)
            return
        self.registered = True
        self._farewell = not queues
        self.lease = answer.lease_ms / 1000
        self.tick_every = min(TICK_MOST, max(self._interval, answer.workers / TICKS))
        self._extend(before)
        for job_id in answer.lost:
            self.stopping.kill(job_id, hand, "it is no longer this worker's", CLAIM_SECONDS)
        self.stopping.wants(hand, answer.stop)
        self.stopping.silenced(hand, answer.silent)
        self._look(answer.unfetched)

    def _look(self, unfetched: int) -> None:
        fetches = self.armed and not self._left_at
        free = self.worker.free() if fetches else 0
        if free > 0 and not unfetched:
            # Fetched for this worker alone: it is on no list any more, and nobody has it.
            unfetched = int(self.worker.unread())
        self.idle_seconds = self.idleness.look(unfetched, free, self.worker.received())
        if self.idle_seconds and self.restart_idle and not self._restarts:
            self._restarts = True
            logger.error("[COORDINATOR] worker %s stops, to be started again", self.worker.id)
            os.kill(os.getpid(), signal.SIGTERM)

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
        self.stopping.end(self.worker.processes())
