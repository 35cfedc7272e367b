"""The worker's side: its lease and guard, and what Celery's main process has to tell the ledger."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from celery import Celery, bootsteps, signals
from celery.worker import state
from kombu.asynchronous import get_event_loop

from coordinator.context import WORKER_ID
from coordinator.errors import CoordinatorError
from coordinator.family import PROCESS_MARK, member
from coordinator.renewal import Renewal
from coordinator.request import DROPPED, IN_HAND, process_mark
from coordinator.restorer import worker_identity

logger = logging.getLogger("coordinator")

_PR_SET_PDEATHSIG = 1


class WorkerView:
    """What the renewal sees of a Celery worker."""

    def __init__(self, controller: Any) -> None:
        self.controller = controller
        self.id = worker_identity(controller.hostname)

    def queues(self) -> list[str]:
        queues = self.controller.app.amqp.queues.consume_from
        manages = self.controller.app.coordination.manages
        return sorted(name for name in list(queues) if manages(name))

    def slots(self) -> int:
        limit = self.controller.max_concurrency or self.controller.pool.num_processes
        return int(limit or 1)

    def busy(self) -> int:
        return sum(
            1 for request in _copy(state.active_requests) if getattr(request, "token", None) is None
        )

    def hand(self) -> list[Any]:
        # A request that is over may linger until it is collected.
        return [
            item
            for item in _copy(IN_HAND)
            if item.in_hand and (item.worker_pid is not None or item not in DROPPED)
        ]

    def runs(self, item: Any) -> bool:
        return bool(item.in_hand)

    def dropped(self) -> list[Any]:
        return _copy(DROPPED)

    def forget(self, item: Any, given_back: bool) -> None:
        # What was not taken back has been begun meanwhile.
        item.over = item.over or given_back
        DROPPED.discard(item)

    def processes(self) -> list[int]:
        pool = getattr(self.controller.pool, "_pool", None)
        return [process.pid for process in list(getattr(pool, "_pool", ())) if process.pid]

    def look_after(self) -> None:
        """Have the pool look for dead processes, if there is one."""
        # It is told by a pipe that the dying process closes, and may look before the process is dead, and
        # then again only seconds later.
        hub = get_event_loop()
        if hub is not None and any(member(pid) is None for pid in self.processes()):
            hub.call_soon(self.controller.pool.maintain_pool)

    def report(self) -> dict[str, Any]:
        return {
            "node": self.controller.hostname,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "pool_class": type(self.controller.pool).__module__.rsplit(".", 1)[-1],
            "python": sys.version.split()[0],
        }

    @property
    def can_kill(self) -> bool:
        return bool(hasattr(getattr(self.controller.pool, "_pool", None), "_pool"))


def _copy(requests: Iterable[Any]) -> list[Any]:
    # Sets of the main thread, read from another: they may change meanwhile.
    while True:
        try:
            return list(requests)
        except RuntimeError:
            continue


class LeaseStep(bootsteps.StartStopStep):
    """Keeps the worker's lease from when its pool is up until its pool is down."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, controller: Any, **kwargs: Any) -> None:
        super().__init__(controller, **kwargs)
        self.renewal: Renewal | None = None
        self.view = WorkerView(controller)
        # Before the pool starts, so that its processes inherit it.
        os.environ[WORKER_ID] = self.view.id
        controller.coordinator_lease = self

    def start(self, controller: Any) -> None:
        coordination = controller.app.coordination
        work_queue = coordination.work_queue
        self.renewal = Renewal(
            work_queue.ledger,
            self.view,
            coordination.settings.lease_seconds,
            work_queue.ensure_open,
            self.view.can_kill,
        )
        try:
            if work_queue.ensure_open():
                work_queue.configure()
        except CoordinatorError as error:
            logger.warning("[COORDINATOR] not open yet, the renewal tries on: %s", error)
        self.renewal.start()
        signals.worker_shutdown.connect(self._leave, sender=controller, weak=False)

    def _leave(self, **_: Any) -> None:
        # After the pool was joined: what it still has can only be messages it never began.
        if self.renewal is not None:
            renewal, self.renewal = self.renewal, None
            renewal.stop()


class FetchStep(bootsteps.StartStopStep):
    """Lets the consumer fetch only what it has a slot for; one more a slot while tasks are short."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    #: Tasks per slot and second above which they count as short.
    SHORT = 10

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self.seen, self.since, self.rate = 0, time.monotonic(), 0.0

    def start(self, consumer: Any) -> None:
        # After a lost connection Celery goes on with what its pool had begun, and drops the rest.
        DROPPED.update(
            item
            for item in _copy(IN_HAND)
            if item.worker_pid is None and item not in state.active_requests
        )
        qos = consumer.task_consumer.channel.qos
        controller = consumer.controller

        renewal = controller.coordinator_lease.renewal
        renewal.wanted = True

        def can_fetch() -> bool:
            if not renewal.armed:
                return False
            slots = int(controller.max_concurrency or consumer.pool.num_processes or 1)
            ahead = slots if self._rate() > self.SHORT * slots else 0
            return len(state.reserved_requests) < slots + ahead

        qos.can_fetch = can_fetch

    def _rate(self) -> float:
        now = time.monotonic()
        if now - self.since >= 0.5:
            total = sum(state.total_count.values())
            self.rate = (total - self.seen) / (now - self.since)
            self.seen, self.since = total, now
        return self.rate


class RecorderStep(bootsteps.StartStopStep):
    """Runs the recorder in workers of the maintenance queue; one of them is elected.

    In an app without that queue every worker offers itself: results of canceled jobs must reach their callers.
    """

    requires = (LeaseStep,)

    def __init__(self, controller: Any, **kwargs: Any) -> None:
        super().__init__(controller, **kwargs)
        self.stop_event = threading.Event()
        self.thread: threading.Thread | None = None

    def start(self, controller: Any) -> None:
        app = controller.app
        queues = app.amqp.queues
        if "maintenance" in queues and "maintenance" not in queues.consume_from:
            return
        holder = controller.coordinator_lease.view.id
        self.thread = threading.Thread(
            target=self._record, args=(app, holder), name="coordinator-recorder", daemon=True
        )
        self.thread.start()

    def _record(self, app: Celery, holder: str) -> None:
        # In the thread: a worker starts and does its work also while the database is down.
        pause, told = 0.5, False
        while not self.stop_event.is_set():
            try:
                recorder = app.coordination.recorder(holder)
            except CoordinatorError as error:
                if not told:
                    logger.error("[COORDINATOR] recording waits, nothing is lost: %s", error)
                told = True
                self.stop_event.wait(pause)
                pause = min(2 * pause, 5.0)
            else:
                recorder.run(self.stop_event)
                return

    def stop(self, controller: Any) -> None:  # noqa: ARG002 - Celery's signature
        self.stop_event.set()
        if self.thread is not None:
            self.thread.join(timeout=10)

    terminate = stop


def _child_started(**_: Any) -> None:
    # A group of its own, so that what a job starts can be killed with it; and no life without the main
    # process, since nobody would renew its lease.
    if os.getpid() != os.getpgrp():
        os.setpgid(0, 0)
    os.environ[PROCESS_MARK] = process_mark(os.getpid())
    if sys.platform.startswith("linux"):
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def install(app: Celery) -> None:
    """Add the coordinator's steps to the workers of an app."""
    app.steps["worker"].add(LeaseStep)
    app.steps["worker"].add(RecorderStep)
    app.steps["consumer"].add(FetchStep)
    signals.worker_process_init.connect(_child_started, weak=False)
