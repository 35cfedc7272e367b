"""A message in a worker's hand, and what Celery's main process has to tell the ledger about it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any
from weakref import WeakSet

from billiard.common import TERM_SIGNAME
from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, WorkerLostError
from celery.platforms import signals as _signals
from celery.worker import state
from celery.worker.request import Request as CeleryRequest

from coordinator.errors import CoordinatorError
from coordinator.family import PROCESS_MARK, WORKER_MARK, end, member, remains
from coordinator.ledger import Ledger
from coordinator.messages.needs import limit_of
from coordinator.messages.transport import OPTIONS_HEADER, STANDBY_HEADER, TOKEN_HEADER
from coordinator.running.begun import has_begun

logger = logging.getLogger("coordinator")

#: Coordinated messages this worker has, begun or not.
IN_HAND: WeakSet[Any] = WeakSet()

#: Those that Celery dropped unbegun when it lost its connection, trusting the broker to bring them again.
DROPPED: set[Any] = set()


class Request(CeleryRequest):
    """A request that tells the ledger how it ended when no child process can."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.token: int | None = self._request_dict.get(TOKEN_HEADER)
        self.stood_by = bool(self._request_dict.get(STANDBY_HEADER))
        self.over = False
        #: Seconds it may be silent, and why its process is ended, once it is.
        self.heartbeat_timeout: float | None = None
        self.ended_because = ""
        if self.token is not None:
            options = self._request_dict.get(OPTIONS_HEADER) or {}
            # Kombu writes 0 for "not given", which retries and children would then ask for.
            self._delivery_info["priority"] = options.get("priority")
            self._limit(options)
            IN_HAND.add(self)

    def _limit(self, options: Mapping[str, Any]) -> None:
        self.heartbeat_timeout = limit_of("heartbeat_timeout", options, self._task)
        hard, soft = self._request_dict.get("timelimit") or (None, None)
        if hard is not None or soft is not None:
            return
        task = self._task
        if task.time_limit or task.soft_time_limit or self._app.coordination.limits_time:
            # Limits in Celery's own words count more than that of the queue.
            options = {**options, "queue_timeout": None}
        seconds = limit_of("timeout", options, task)
        if seconds:
            # Soft first, so that the task can clean up; hard shortly after.
            self.time_limits = (seconds + max(5.0, seconds * 0.05), seconds)

    @property
    def in_hand(self) -> bool:
        """Whether the worker still has it: begun or not, and not over."""
        if self.over:
            return False
        # A terminated one is no longer active, but its process may still be at it.
        return self.worker_pid is None or self in state.active_requests or self._already_revoked

    @property
    def waits(self) -> bool:
        """Whether it is to stand by in its process, or does, and has not begun."""
        return self.stood_by and not has_begun(self.id, self.token)

    @property
    def _work_queue(self) -> Any:
        return self._app.coordination.work_queue

    def revoked(self) -> bool:
        dropped = bool(super().revoked())
        if dropped and self.token is not None and self.worker_pid is None and not self.over:
            self.over = True
            self._tell(
                lambda queue: queue.ledger.undeliver(
                    self.id, self.token, "revoked or expired", end=True
                )
            )
        return dropped

    def reject(self, requeue: bool = False) -> None:
        if self.token is not None and requeue and self.worker_pid is not None:
            # The child released the job already; the message must not come back as well.
            requeue = False
        super().reject(requeue=requeue)

    def terminate(self, pool: Any, signal: Any = None) -> None:
        if self.token is not None:
            self._tell(lambda queue: queue.ledger.cancel(self.id, "terminated", "celery"))
        super().terminate(pool, signal)

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
        """Give the job back, uncounted, and end its process: the worker is told to stop at once."""
        if self.token is None:
            super().cancel(pool, signal, emit_retry)
            return
        if self.over:
            return
        self._tell(lambda queue: self.give_back(queue.ledger))
        if self.worker_pid is None:
            return
        try:
            pool.terminate_job(self.worker_pid, _signals.signum(signal or TERM_SIGNAME))
        except NotImplementedError:
            # A thread goes on to its next checkpoint, or to its end: what it does then counts as ever.
            return
        # No retry is announced: the result of a run that ends at this moment must not be overwritten.
        self._announce_cancelled(emit_retry=False)

    def give_back(self, ledger: Ledger) -> bool:
        """Give the job back, uncounted; return whether a run of it has to be stopped for that."""
        reason = "its worker was stopped"
        if self.token is None:
            return False
        # A process may have begun it without the main process having heard of that.
        if self.worker_pid is None and ledger.undeliver(self.id, self.token, reason):
            self.over = True
            return False
        # By its token: this may be an old delivery of a job that runs elsewhere by now.
        answer = ledger.release(self.id, reason, "celery", self.token)
        if answer["answer"] == "idle":
            # It stands by in its process, or was granted since it was asked.
            if ledger.undeliver(self.id, self.token, reason):
                self.over = True
            else:
                answer = ledger.release(self.id, reason, "celery", self.token)
        return bool(answer["answer"] == "stopping")

    def on_timeout(self, soft: bool, timeout: float) -> None:
        if not soft and self.token is not None:
            # The pool kills it after this call, which hands its models to the next job.
            _kill(self.worker_pid)
        super().on_timeout(soft, timeout)
        if not soft and self.token is not None:
            self.over = True
            error = f"TimeLimitExceeded({timeout})"
            self._tell(
                lambda queue: queue.ledger.finish(self.id, self.token, "failed", {"error": error})
            )

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> Any:
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        died = isinstance(
            exc, (WorkerLostError, Terminated, SystemExit, KeyboardInterrupt, MemoryError)
        )
        if self.token is None or not died:
            return super().on_failure(exc_info, send_failed_event, return_ok)
        # The process died: the ledger decides by the job's attempts whether it runs again. Celery's own
        # FAILURE would end chords and callers' get() for a job that is not over.
        state.task_ready(self)
        self.over = True
        _kill(self.worker_pid)
        reason = self.ended_because or _reason(exc)
        self._tell(lambda queue: self._lose(queue, reason))
        if not self._already_revoked:
            self.send_event("task-retried", exception=reason, traceback="")
        if not self.acknowledged:
            self.acknowledge()
        return None

    def _lose(self, queue: Any, reason: str) -> None:
        answer = queue.ledger.finish(self.id, self.token, "lost", {"reason": reason})
        if answer.answer != "stale" or answer.state != "dispatched":
            return
        # Its process died before it claimed the job, or while it stood by; then it may be granted this moment.
        if not queue.ledger.undeliver(self.id, self.token, reason):
            queue.ledger.finish(self.id, self.token, "lost", {"reason": reason})

    def _tell(self, say: Any) -> None:
        try:
            say(self._work_queue)
        except CoordinatorError as error:
            # The lease or the dispatch lease ends and says the same, later.
            logger.warning("[COORDINATOR] job %s: the ledger was not told: %s", self.id, error)


def _kill(pid: int | None) -> None:
    """End a process of the pool with all it started, so that nothing of a job lives when its units are free."""
    if pid is None or pid == os.getpid():
        return
    process = member(pid)
    if process is None or process.group == pid:
        end([process or remains(pid)], f"{PROCESS_MARK}={process_mark(pid)}")


def _reason(exc: BaseException) -> str:
    return f"its process died: {exc}" if str(exc) else f"its process died: {type(exc).__name__}"


def process_mark(pid: int) -> str:
    """Return what a process of the pool, and all it starts, carry in their environment."""
    return f"{os.environ.get(WORKER_MARK, '')}/{pid}"
