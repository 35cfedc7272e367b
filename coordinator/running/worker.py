"""The worker's side: its lease and guard, and what Celery's main process has to tell the ledger."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from typing import Any

from celery import Celery, bootsteps, signals
from celery.worker import state

from coordinator.errors import CoordinatorError
from coordinator.family import PROCESS_MARK, WORKER_MARK
from coordinator.recovery.errands import Errands
from coordinator.recovery.roster import Enrolment
from coordinator.running import begun
from coordinator.running.children import follow_exits, spare_assigned
from coordinator.running.renewal import Renewal
from coordinator.running.request import DROPPED, IN_HAND, process_mark
from coordinator.running.sharing import keep_shared
from coordinator.running.worker_view import WorkerView, copied

logger = logging.getLogger("coordinator")

_PR_SET_PDEATHSIG = 1


class LeaseStep(bootsteps.StartStopStep):
    """Keeps the worker's lease from when its pool is up until its pool is down."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, controller: Any, **kwargs: Any) -> None:
        super().__init__(controller, **kwargs)
        self.renewal: Renewal | None = None
        self.view = WorkerView(controller)
        # Before the pool starts, so that its processes inherit it.
        os.environ[WORKER_MARK] = self.view.id
        begun.share()
        keep_shared()
        controller.coordinator_lease = self
        wait = controller.wait_for_soft_shutdown

        def wait_for_soft_shutdown() -> None:
            # The first thing Celery does at SIGQUIT, long before its state tells of it. What is given back must
            # not be dispatched to this worker once more.
            self.view.warned = True
            if self.renewal is not None and self.view.can_kill:
                self.renewal.bid_farewell(2.0)
            wait()
            self.view.cold_since = time.monotonic()

        controller.wait_for_soft_shutdown = wait_for_soft_shutdown

    def start(self, controller: Any) -> None:
        follow_exits(controller.pool)
        spare_assigned(controller.pool)
        coordination = controller.app.coordination
        work_queue = coordination.work_queue
        self.errands = errands = Errands(work_queue)
        self.renewal = Renewal(
            work_queue.ledger,
            self.view,
            coordination.settings.lease_seconds,
            errands.ensure_open,
            self.view.can_kill,
            coordination.settings.shutdown_seconds,
            coordination.settings.restart_idle_workers,
        )
        view, configured = self.view, False
        try:
            if errands.ensure_open():
                work_queue.configure()
                configured = True
        except CoordinatorError as error:
            logger.warning("[COORDINATOR] not open yet, the renewal tries on: %s", error)
        self.enrolment = Enrolment(
            lambda: errands.enrol(view.id, view.queues(), view.slots()),
            None if configured else work_queue.configure,
        )
        self.renewal.start()
        self.enrolment.start()
        signals.worker_shutdown.connect(self._leave, sender=controller, weak=False)

    def terminate(self, controller: Any) -> None:  # noqa: ARG002 - Celery's signature
        """After SIGQUIT: Celery has stopped the consumer, and tells nobody when it is done."""
        if self.view.can_kill:
            if self.renewal is not None:
                self.renewal.stopping.end(self.view.processes())
        elif any(item.worker_pid is not None for item in self.view.hand()):
            # Threads that still run keep their units until this process is gone and its lease has ended.
            return
        self._leave()

    def _leave(self, **_: Any) -> None:
        # After the pool was joined: what it still has can only be messages it never began.
        if self.renewal is not None:
            self.enrolment.stop()
            self.errands.stop()
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
            for item in copied(IN_HAND)
            if item.worker_pid is None and item not in state.active_requests
        )
        qos = consumer.task_consumer.channel.qos
        controller = consumer.controller

        lease = controller.coordinator_lease
        renewal, enrolment, view = lease.renewal, lease.enrolment, lease.view
        renewal.wanted = True

        def can_fetch() -> bool:
            if not renewal.armed or not enrolment.may_fetch:
                return False
            if view.draining or view.leaving():
                return False
            slots = int(controller.max_concurrency or consumer.pool.num_processes or 1)
            ahead = slots if self._rate() > self.SHORT * slots else 0
            return len(state.reserved_requests) < slots + ahead

        qos.can_fetch = can_fetch
        qos.has = controller.coordinator_lease.view.has
        view = controller.coordinator_lease.view
        qos.stands_by = view.can_kill and begun.shares_with(view.slots())

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
    # What the process before it at its place had begun.
    begun.end()
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
