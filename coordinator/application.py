"""``coordinate(app)``: turns a Celery app into a coordinated one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, urlsplit

from celery import Celery, signals
from celery.app.amqp import AMQP
from celery.utils.imports import symbol_by_name
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.transport import TRANSPORT_ALIASES

from coordinator.embedded import redis_url
from coordinator.errors import InvalidSetting, InvalidValue, Refused
from coordinator.jobs import Job
from coordinator.ledger import connection_url
from coordinator.maintenance import Deliverer, schedule
from coordinator.maintenance import install as install_maintenance
from coordinator.messages.message import rewritten
from coordinator.messages.needs import CARRIED, OPTIONS, describe, said
from coordinator.messages.steps import planned, step_job
from coordinator.messages.transport import DELIVERY_HEADERS, OPTIONS_HEADER, Transport
from coordinator.observer import carried, observe
from coordinator.registry import Registry
from coordinator.revoking import own_control
from coordinator.settings import Settings, check_redis_url, load
from coordinator.work_queue import WorkQueue, set_work_queue
from coordinator.workflows import Plan, Workflow

#: Numbers the transports of the apps of a process.
_numbers = itertools.count(1)


class Coordination:
    """What the Celery side of one app shares: settings, work queue and what is coordinated."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self._queue: tuple[int, WorkQueue] | None = None
        self.registry = Registry(app)

    @cached_property
    def settings(self) -> Settings:
        conf = self.app.conf
        conf.get("broker_url")
        known: Settings | None = self.__dict__.get("settings")
        if known is not None:
            # Asked for by the configuration itself while it was read, before it was given a broker.
            return known
        settings = load(conf)
        broker = conf.broker_write_url or os.environ.get("CELERY_BROKER_URL")
        if broker and settings.redis_url is None:
            # The app has a broker already: the ledger lives there, not in a Redis of its own.
            settings = replace(settings, redis_url=broker)
        return settings

    @cached_property
    def limits_time(self) -> bool:
        """Whether Celery's own settings limit the time of every task: asked of each message a worker gets."""
        return bool(self.app.conf.task_time_limit or self.app.conf.task_soft_time_limit)

    @property
    def work_queue(self) -> WorkQueue:
        """This process's work queue: a child has connections of its own."""
        if self._queue is None or self._queue[0] != os.getpid():
            queue = WorkQueue(self.settings)
            queue.application = self
            self._queue = (os.getpid(), queue)
        return self._queue[1]

    def recorder(self, holder: str) -> Any:
        """Return a recorder that delivers results through this app."""
        from coordinator.recovery.recorder import Recorder

        queue = self.work_queue
        watermark = self.settings.memory_watermark
        return Recorder(queue.ledger, queue.store, Deliverer(self.app), holder, watermark)

    def queues(self) -> set[str]:
        """Return the names of the managed queues that the app declares."""
        conf = self.app.conf
        declared = conf.task_queues or ()
        names = {str(getattr(queue, "name", queue)) for queue in declared}
        return {name for name in {*names, conf.task_default_queue} if self.manages(name)}

    def declares(self, queue: str) -> bool:
        """Whether a queue is one of the app's: declared, routed to or configured.

        An app that declares none has every queue that somebody names, as in Celery.
        """
        conf = self.app.conf
        if not conf.task_queues:
            return True
        routes = conf.task_routes if isinstance(conf.task_routes, Mapping) else {}
        routed = {route.get("queue") for route in routes.values() if isinstance(route, Mapping)}
        named = {str(getattr(item, "name", item)) for item in routed if item is not None}
        return queue in self.queues() or queue in named or queue in self.settings.queues

    def rewritten(
        self, job: Job, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
    ) -> Job:
        """Return a job with other arguments; see ``message.rewritten``."""
        return rewritten(self.app, job, args, kwargs)

    def workflows(self) -> dict[str, Workflow]:
        """Return the workflows of the app by name, those of Python and those of files."""
        return self.registry.all()

    def planned(
        self, workflow: Workflow, inputs: Mapping[str, Any], execution_id: str, trusted: bool
    ) -> Plan:
        """Return the plan of an execution; see ``steps.planned``."""
        return planned(self.app, workflow, inputs, execution_id, trusted)

    def step_job(self, plan: Plan) -> Job:
        """Return the job of a plan's step; see ``steps.step_job``."""
        return step_job(self.app, plan)

    def control(
        self, command: str, nodes: Sequence[str], arguments: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """Have workers carry out a remote control command; return the answers by node."""
        replies = self.app.control.broadcast(
            command,
            arguments=dict(arguments),
            destination=list(nodes),
            reply=True,
            timeout=seconds,
            limit=len(nodes),
        )
        return {node: answer for reply in replies or () for node, answer in reply.items()}

    def manages(self, queue: str) -> bool:
        return queue not in self.settings.exclude_queues

    def coordinates(self, name: str, queue: str) -> bool:
        """Whether messages of this task on this queue may be jobs; unknown tasks are Celery's."""
        return name in self.app.tasks and self.manages(queue)

    def describe(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], call: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        # Not what is registered by now: until the app is finalized, which the first look does, no task is, and a job
        # that is sent by name would run without its models.
        return describe(self.settings, name, self.app.tasks.get(name), args, kwargs, call)


class CoordinatedConnection(Connection):
    """Keeps its transport, and shows itself as what it is, a Redis: Flower and the worker's banner go by the URL."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._own = kwargs.get("transport")
        super().__init__(*args, **kwargs)

    def _init_params(self, *args: Any, **params: Any) -> None:
        # Of a URL with a + in it (redis+socket), and of every URL that it switches to, Kombu takes the transport
        # from the URL: its own, past which no job is coordinated.
        super()._init_params(*args, **params)
        if self._own is not None:
            self.transport_cls = self._own

    def info(self) -> dict[str, Any]:
        if self._own is None:
            info: dict[str, Any] = super().info()
            return info
        return {**super().info(), "transport": self.transport.scheme}


class CoordinatedAMQP(AMQP):
    """Says in the headers of each task message what its job needs."""

    coordination: Coordination
    Connection = CoordinatedConnection

    @cached_property
    def send_task_message(self) -> Any:
        send = self._create_task_sender()
        if self.coordination.settings.observing:
            return carried(send, self.coordination.describe)

        def send_coordinated(
            producer: Any, name: str, message: Any, headers: Any = None, **options: Any
        ) -> Any:
            headers = dict(headers or {})
            for header in DELIVERY_HEADERS:
                headers.pop(header, None)
            # A retry carries what its first call said; what it says itself counts more.
            call = said(headers.pop(OPTIONS_HEADER, None))
            call |= {key: options.pop(key) for key in (*OPTIONS, *CARRIED) if key in options}
            if options.get("serializer") in _RUNS_CODE:
                raise InvalidValue("serializer", options["serializer"], _JSON)
            args, kwargs = message.body[0], message.body[1]
            described = self.coordination.describe(name, args or (), kwargs or {}, call)
            if described is not None:
                if options.get("priority") is not None:
                    described["priority"] = options["priority"]
                headers[OPTIONS_HEADER] = described
                if options.get("declare") is None and _is_declared(producer, options):
                    # Kombu copies and binds the queue each time before it sees that.
                    options["declare"] = ()
            elif call.get("coordinated") is False:
                # Said by this call alone, so the worker has to be told.
                headers[OPTIONS_HEADER] = False
            return send(producer, name, message, headers=headers, **options)

        return send_coordinated


def _is_declared(producer: Any, options: Mapping[str, Any]) -> bool:
    """Whether declaring the queue of a message again would do nothing, and nobody looks at what is declared."""
    queue = options.get("queue")
    return (
        isinstance(queue, Queue)
        and queue.exchange.type == "direct"
        and not options.get("exchange")
        and not signals.before_task_publish.receivers
        and hash(queue) in producer.connection.declared_entities
    )


def _place(url: str) -> tuple[str, ...]:
    """Return what tells one Redis database from another, however its URL is written."""
    parts = urlsplit(connection_url(url))
    if parts.scheme == "unix":
        return parts.path, parse_qs(parts.query).get("db", ["0"])[0]
    host = "127.0.0.1" if parts.hostname in (None, "", "localhost") else str(parts.hostname)
    return parts.scheme, host, str(parts.port or 6379), parts.path.strip("/") or "0"


def _configure(app: Celery, settings: Settings) -> None:
    if settings.observing:
        observe(app, settings)
        return
    _install(app)
    conf = app.conf
    url = conf.broker_write_url or os.environ.get("CELERY_BROKER_URL")
    scheme = str(url or "redis://").split("://", 1)[0]
    if scheme not in ("redis", "rediss", "redis+socket", "sentinel"):
        raise InvalidSetting(
            "broker_url",
            url,
            "a Redis URL: the ledger hands jobs over inside Redis, so the broker must be it "
            "(one on a Unix socket is redis+socket:///path)",
        )
    if url:
        try:
            check_redis_url(url)
        except ValueError as error:
            raise InvalidSetting("broker_url", url, str(error)) from None
    if not url:
        url = redis_url(settings)
        conf.broker_url = conf.broker_read_url = conf.broker_write_url = url
    elif _place(redis_url(settings)) != _place(str(url)):
        raise InvalidSetting(
            "broker_url", url, f"the same Redis as coordinator_redis_url ({settings.redis_url})"
        )
    if conf.task_protocol != 2:
        raise InvalidSetting("task_protocol", conf.task_protocol, "2: headers say what a job needs")
    _check_serializers(conf)
    # Kombu makes channels from the transport alone, so each app has one of its own that knows it.
    known = {
        "coordination": app.coordination,
        "scheme": scheme.partition("+")[0],
        "__module__": __name__,
    }
    transport = type("Transport", (Transport,), known)
    alias = "coordinator" if (number := next(_numbers)) == 1 else f"coordinator{number}"
    aliases: dict[str, Any] = TRANSPORT_ALIASES
    aliases[alias] = lambda: transport
    conf.broker_transport = alias
    if not conf.result_backend:
        conf.result_backend = url
    own = dict.fromkeys(("redis", "rediss"), "coordinator.messages.results:Backend")
    app.loader.override_backends = {**own, **app.loader.override_backends}
    conf.beat_schedule = {**schedule(app), **conf.beat_schedule}


def _install(app: Celery) -> None:
    """Add to an app what enforces; known with the settings, which an app has before it has a worker or a task."""
    from coordinator import flower_events
    from coordinator.running import worker

    worker.install(app)
    flower_events.install(app)
    install_maintenance(app)


#: Content that runs code when it is read, by its names.
_RUNS_CODE = frozenset({"pickle", "application/x-python-serialize"})

_JSON = "json: whoever can write to Redis could run code in every worker with a pickle"


def _check_serializers(conf: Any) -> None:
    for name in ("task_serializer", "result_serializer", "event_serializer"):
        if conf.get(name) in _RUNS_CODE:
            raise InvalidSetting(name, conf.get(name), _JSON)
    for name in ("accept_content", "result_accept_content"):
        if _RUNS_CODE & set(conf.get(name) or ()):
            raise InvalidSetting(name, list(conf.get(name)), _JSON)


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
    named = {"coordination": coordination, "__module__": __name__}
    app.amqp_cls = type("CoordinatedAMQP", _bases(CoordinatedAMQP, AMQP, app.amqp_cls), named)
    # By name: Celery loads what controls workers when somebody does, and it takes a tenth of an import.
    app.control_cls = own_control(app.control_cls)
    from coordinator.task import TaskOptions, TaskRegistry

    app.task_cls = type("Task", (TaskOptions, symbol_by_name(app.task_cls)), {"abstract": True})
    app._tasks = TaskRegistry(app._tasks, lambda: not coordination.settings.observing)
    from coordinator import remote_control

    remote_control.install()
    load_config = app._load_config

    # Not a receiver of on_after_configure: Celery logs what a receiver raises and goes on.
    def load_checked() -> Any:
        conf = load_config()
        try:
            _configure(app, coordination.settings)
        except BaseException:
            # The next look at the configuration must fail as well.
            app._conf = None
            raise
        return conf

    app._load_config = load_checked
    set_work_queue(lambda: coordination.work_queue)
    return app


def _bases(own: type, celery: type, given: Any) -> tuple[type, ...]:
    """Return the bases of a class that does what ``own`` adds to what the app was given."""
    base = symbol_by_name(given)
    return (own,) if base is celery else (own, base)
