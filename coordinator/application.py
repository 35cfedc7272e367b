"""``coordinate(app)``: turns a Celery app into a coordinated one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from celery.app.control import Control
from celery.utils.imports import symbol_by_name
from kombu.transport import TRANSPORT_ALIASES

from coordinator.embedded import redis_url
from coordinator.errors import InvalidSetting, Refused
from coordinator.maintenance import Deliverer
from coordinator.maintenance import install as install_maintenance
from coordinator.needs import OPTIONS, describe
from coordinator.settings import Settings, load
from coordinator.transport import OPTIONS_HEADER, TOKEN_HEADER, SentinelTransport, Transport
from coordinator.work_queue import WorkQueue, set_work_queue

#: Numbers the transports of the apps of a process.
_numbers = itertools.count(1)


class Coordination:
    """What the Celery side of one app shares: settings, work queue and what is coordinated."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._queue: tuple[int, WorkQueue] | None = None

    @cached_property
    def settings(self) -> Settings:
        conf = self.app.conf
        settings = load(conf)
        broker = conf.broker_write_url or os.environ.get("CELERY_BROKER_URL")
        if broker and settings.redis_url is None:
            # The app has a broker already: the ledger lives there, not in a Redis of its own.
            settings = replace(settings, redis_url=broker)
        return settings

    @property
    def work_queue(self) -> WorkQueue:
        """This process's work queue: a child has connections of its own."""
        if self._queue is None or self._queue[0] != os.getpid():
            self._queue = (os.getpid(), WorkQueue(self.settings))
        return self._queue[1]

    def recorder(self, holder: str) -> Any:
        """Return a recorder that delivers results through this app."""
        from coordinator.recorder import Recorder

        queue = self.work_queue
        return Recorder(queue.ledger, queue.store, Deliverer(self.app), holder)

    def manages(self, queue: str) -> bool:
        return queue not in self.settings.exclude_queues

    def coordinates(self, name: str, queue: str) -> bool:
        """Whether messages of this task on this queue are coordinated; unknown tasks are Celery's."""
        task = self.app.tasks.get(name)
        if task is None or not self.manages(queue):
            return False
        return bool(getattr(task, "coordinated", None) is not False)

    def describe(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], call: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        task = self.app._tasks.get(name) if hasattr(self.app._tasks, "get") else None
        return describe(self.settings, name, task, args, kwargs, call)


class CoordinatedAMQP(AMQP):
    """Says in the headers of each task message what its job needs."""

    coordination: Coordination

    @cached_property
    def send_task_message(self) -> Any:
        send = self._create_task_sender()

        def send_coordinated(
            producer: Any, name: str, message: Any, headers: Any = None, **options: Any
        ) -> Any:
            call = {key: options.pop(key) for key in OPTIONS if key in options}
            headers = dict(headers or {})
            headers.pop(TOKEN_HEADER, None)
            if not call and OPTIONS_HEADER in headers:
                # A retry: the message carries what its first call said.
                return send(producer, name, message, headers=headers, **options)
            args, kwargs = message.body[0], message.body[1]
            described = self.coordination.describe(name, args or (), kwargs or {}, call)
            headers.pop(OPTIONS_HEADER, None)
            if described is not None:
                if options.get("priority") is not None:
                    described["priority"] = options["priority"]
                headers[OPTIONS_HEADER] = described
            return send(producer, name, message, headers=headers, **options)

        return send_coordinated


class CoordinatedControl(Control):
    """Makes ``revoke`` durable: it also cancels the job, wherever it waits or runs."""

    def revoke(self, task_id: Any, *args: Any, **kwargs: Any) -> Any:
        work_queue = self.app.coordination.work_queue
        for job_id in [task_id] if isinstance(task_id, str) else list(task_id):
            job = work_queue.ledger.job(job_id)
            if job is None:
                continue
            running = job["state"] in ("running", "stopping")
            if not running or kwargs.get("terminate"):
                work_queue.ledger.cancel(job_id, "revoked", "celery")
        return super().revoke(task_id, *args, **kwargs)


def _configure(app: Celery, settings: Settings) -> None:
    conf = app.conf
    url = conf.broker_write_url or os.environ.get("CELERY_BROKER_URL")
    if not url:
        url = redis_url(settings)
        conf.broker_url = conf.broker_read_url = conf.broker_write_url = url
    elif settings.redis_url != url:
        raise InvalidSetting(
            "broker_url", url, f"the same Redis as coordinator_redis_url ({settings.redis_url})"
        )
    scheme = str(url).split("://", 1)[0]
    if scheme not in ("redis", "rediss", "redis+socket", "sentinel", "unix"):
        raise InvalidSetting(
            "broker_url",
            url,
            "a Redis URL: the ledger hands jobs over inside Redis, so the broker must be it",
        )
    # Kombu makes channels from the transport alone, so each app has one of its own that knows it.
    base = SentinelTransport if scheme == "sentinel" else Transport
    transport = type(
        "Transport", (base,), {"coordination": app.coordination, "__module__": __name__}
    )
    alias = "coordinator" if (number := next(_numbers)) == 1 else f"coordinator{number}"
    aliases: dict[str, Any] = TRANSPORT_ALIASES
    aliases[alias] = lambda: transport
    conf.broker_transport = alias
    if not conf.result_backend:
        conf.result_backend = url


def coordinate(app: Celery) -> Celery:
    """Turn a Celery app into a coordinated one. Call it before the app is used.

    Args:
        app: the app; its tasks, settings and routes stay as they are.

    Returns:
        The same app.

    Raises:
        InvalidSetting: when the configuration is read: another broker than Redis, or a wrong setting.
        Refused: the app was finalized before.
    """
    if hasattr(app, "coordination"):
        return app
    if "amqp" in app.__dict__ or "Task" in app.__dict__:
        raise Refused("coordinate(app) must be called before tasks of the app are defined or sent")
    coordination = Coordination(app)
    app.coordination = coordination
    app.amqp_cls = type(
        "CoordinatedAMQP",
        (CoordinatedAMQP,),
        {"coordination": coordination, "__module__": __name__},
    )
    app.control_cls = CoordinatedControl
    base = symbol_by_name(app.task_cls)
    from coordinator.task import CoordinatedTask

    app.task_cls = type("Task", (CoordinatedTask, base), {"abstract": True})
    from coordinator import worker

    worker.install(app)
    install_maintenance(app)

    def configured(sender: Celery, **_: Any) -> None:
        settings = coordination.settings
        _configure(sender, settings)

    app.on_after_configure.connect(configured, weak=False)
    set_work_queue(lambda: coordination.work_queue)
    return app
