"""The coordinator's own Celery tasks, sent by beat to the maintenance queue, and the results of jobs that
ended without a worker."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from celery import Celery, states
from celery.app.task import Context
from celery.exceptions import TaskRevokedError, WorkerLostError
from kombu.compression import decompress
from kombu.serialization import loads, prepare_accept_content

from coordinator.errors import CoordinatorError
from coordinator.jobs import Event
from coordinator.populator import QueuePopulator, Wish, load_plan
from coordinator.recovery.reaper import JobReaper

logger = logging.getLogger("coordinator")

T = TypeVar("T")

_populators: dict[int, QueuePopulator] = {}


def populator_of(app: Celery) -> QueuePopulator | None:
    """Return this process's populator, or None when the app names no plan."""
    if id(app) not in _populators:
        path = app.coordination.settings.populator
        if not path:
            return None

        def send(wish: Wish) -> None:
            app.send_task(wish.task, kwargs=wish.kwargs, queue=wish.queue)

        _populators[id(app)] = QueuePopulator(app.coordination.work_queue, load_plan(path), send)
    return _populators[id(app)]


def get_queue_populator() -> QueuePopulator:
    """Return the populator of the coordinated app.

    Raises:
        CoordinatorError: the app names none (setting ``coordinator_populator``).
    """
    from celery import current_app

    populator = populator_of(current_app._get_current_object())
    if populator is None:
        raise CoordinatorError("no populator: set coordinator_populator to module:function")
    return populator


def install(app: Celery) -> None:
    """Register the maintenance tasks. They stay outside the ledger: they are what mends it."""
    # Not shared: other apps of the process would get these, which mend this app's ledger.
    task = partial(app.task, coordinated=False, ignore_result=True, shared=False)

    @task(name="coordinator.reap")
    def reap() -> dict[str, int]:
        queue = app.coordination.work_queue
        return _tried("reaper", lambda: JobReaper.get_instance().run(queue), {})

    @task(name="coordinator.populate")
    def populate(force: bool = False) -> int:
        populator = populator_of(app)
        if populator is None:
            return 0
        return _tried("populator", lambda: populator.populate(force).added, 0)

    @task(name="coordinator.verify")
    def verify() -> int:
        return _tried("verification", lambda: _verified(app), 0)

    @task(name="coordinator.panic")
    def panic() -> int:
        queue = app.coordination.work_queue
        return _tried("panic mode", lambda: len(queue.evaluate_panic()), 0)

    @task(name="coordinator.alerts")
    def alerts() -> int:
        queue = app.coordination.work_queue
        return _tried("alerts", lambda: len(queue.evaluate_alerts()), 0)

    @task(name="coordinator.prune")
    def prune() -> dict[str, int]:
        queue = app.coordination.work_queue
        _tried("workflows", queue.end_stranded_executions, [])
        return _tried("retention", lambda: asdict(queue.prune(by="beat", reason="retention")), {})


def _tried(what: str, do: Callable[[], T], otherwise: T) -> T:
    try:
        return do()
    except CoordinatorError as error:
        logger.warning("[COORDINATOR] %s: %s; the next round tries again", what, error)
        return otherwise


def _verified(app: Celery) -> int:
    left = app.coordination.work_queue.verify_locks().left
    for drift in left[:10]:
        logger.error("[COORDINATOR] drift: %s", drift)
    if left:
        logger.error(
            "[COORDINATOR] %d differences between the records; coordinator locks verify --repair",
            len(left),
        )
    return len(left)


def schedule(app: Celery) -> dict[str, Any]:
    """Return the beat entries of the maintenance tasks; what the app's own schedule says counts more."""
    every = {"coordinator.reap": 10.0, "coordinator.prune": 3600.0}
    settings = app.coordination.settings
    for name, seconds in (
        ("verify", settings.verify_every),
        ("panic", settings.panic.every),
        ("alerts", settings.alerts.every),
    ):
        if seconds:
            every[f"coordinator.{name}"] = seconds
    if settings.populator:
        every["coordinator.populate"] = 2.0
    # In an app that has a maintenance queue, long jobs must not keep these waiting.
    queues = app.conf.task_queues or ()
    names = {getattr(queue, "name", queue) for queue in queues}
    routed = {"queue": "maintenance"} if "maintenance" in names else {}
    return {
        name: {"task": name, "schedule": seconds, "options": {"expires": seconds, **routed}}
        for name, seconds in every.items()
    }


class Deliverer:
    """Writes the Celery result of jobs that ended without a worker, so that ``get()`` and chords go on."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    def __call__(self, event: Event, row: Mapping[str, Any] | None) -> None:
        """Write one result; safe to repeat.

        Args:
            event: a ``canceled``, ``unprocessable`` or ``failed`` event with ``undelivered_result``.
            row: the job's row in the store; without one only the state can be told.
        """
        request = self._request(event.job_id, row)
        backend = self.app.backend
        if event.verb == "canceled":
            # As failure, for the chords and chains it is part of, but without error callbacks, as Celery does.
            error: Exception = TaskRevokedError(str(event.data.get("reason") or "canceled"))
            backend.mark_as_failure(
                event.job_id, error, request=request, state=states.REVOKED, call_errbacks=False
            )
        else:
            error = WorkerLostError(str(event.data.get("error") or "given up"))
            backend.mark_as_failure(event.job_id, error, request=request)

    def _request(self, job_id: str, row: Mapping[str, Any] | None) -> Context:
        message = row.get("message") if row else None
        if not message:
            return Context({"id": job_id, "errbacks": None, "chord": None})
        payload = json.loads(message + "}}")
        headers = dict(payload["headers"])
        body = payload["body"]
        if payload["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        if headers.get("compression"):
            body = decompress(body, headers["compression"])
        accept = prepare_accept_content(self.app.conf.accept_content)
        args, kwargs, embed = loads(
            body, payload["content-type"], payload["content-encoding"], accept=accept
        )
        request = Context({**headers, **(embed or {}), "args": args, "kwargs": kwargs})
        request.update(
            errbacks=(embed or {}).get("errbacks"),
            delivery_info={},
            reply_to=payload["properties"].get("reply_to"),
        )
        return request
