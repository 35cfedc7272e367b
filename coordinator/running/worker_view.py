"""What the renewal sees of a Celery worker: its queues and slots, and what it has in hand."""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Iterable
from typing import Any

from celery import bootsteps
from celery.worker import state
from kombu.asynchronous import get_event_loop

from coordinator.family import member
from coordinator.identity import worker_identity
from coordinator.messages.transport import Channel
from coordinator.running.request import DROPPED, IN_HAND


class WorkerView:
    """One worker, seen from another thread of its main process."""

    def __init__(self, controller: Any) -> None:
        self.controller = controller
        self.id = worker_identity(controller.hostname)
        #: Set when a shutdown is about to begin of which Celery's own state does not tell yet.
        self.warned = False
        #: When a shutdown at once has begun (CLOCK_MONOTONIC).
        self.cold_since: float | None = None
        #: Set when an operator lets it take nothing new.
        self.draining = False

    def leaving(self) -> bool:
        """Whether it was told to stop, by a signal, by ``celery control shutdown`` or by an error."""
        told = (
            self.warned
            or state.should_stop not in (None, False)
            or state.should_terminate not in (None, False)
        )
        return told or self.controller.blueprint.state in (bootsteps.CLOSE, bootsteps.TERMINATE)

    def queues(self) -> list[str]:
        """Return what it consumes; nothing when it is leaving or drained, so that nobody counts on its slots."""
        if self.draining or self.leaving():
            return []
        queues = self.controller.app.amqp.queues.consume_from
        manages = self.controller.app.coordination.manages
        return sorted(name for name in list(queues) if manages(name))

    def slots(self) -> int:
        # As many as the pool may grow to: it grows when messages come, and they come to free slots.
        try:
            limit = self.controller.max_concurrency or self.controller.pool.num_processes
        except AttributeError:
            # The pool is down already, and the lease is kept for a moment more.
            limit = 1
        return int(limit or 1)

    def busy(self) -> int:
        return sum(
            1
            for request in copied(state.active_requests)
            if getattr(request, "token", None) is None
        )

    def free(self) -> int:
        """Return the slots that neither run nor await anything."""
        return self.slots() - len(state.reserved_requests)

    def received(self) -> int:
        """Return how many messages it has fetched since its start."""
        return Channel.fetched

    def unread(self) -> bool:
        """Whether a message has arrived that the consumer has not read."""
        consumer = getattr(self.controller.consumer, "task_consumer", None)
        client = getattr(getattr(consumer, "channel", None), "client", None)
        sock = getattr(getattr(client, "connection", None), "_sock", None)
        if sock is None:
            return False
        arrivals = select.poll()
        try:
            arrivals.register(sock, select.POLLIN)
        except ValueError:
            # Closed meanwhile.
            return False
        return any(what & select.POLLIN for _, what in arrivals.poll(0))

    def hand(self) -> list[Any]:
        # A request that is over may linger until it is collected.
        return [
            item
            for item in copied(IN_HAND)
            if item.in_hand and (item.worker_pid is not None or item not in DROPPED)
        ]

    def has(self, job_id: str, token: int) -> bool:
        """Whether a delivery of a job is in hand already."""
        return any(item.id == job_id and item.token == token for item in self.hand())

    def runs(self, item: Any) -> bool:
        return bool(item.in_hand)

    def dropped(self) -> list[Any]:
        return copied(DROPPED)

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
            "leaving": self.leaving(),
            "draining": self.draining,
            "pulled": self.received(),
        }

    @property
    def can_kill(self) -> bool:
        return bool(hasattr(getattr(self.controller.pool, "_pool", None), "_pool"))


def copied(requests: Iterable[Any]) -> list[Any]:
    """Copy a set of the main thread that is read from another: it may change meanwhile."""
    while True:
        try:
            return list(requests)
        except RuntimeError:
            continue
