"""The broker transport: Kombu's Redis transport, through which every message of an app passes.

Publishing a coordinated message submits it to the work queue instead of pushing it on the broker list;
the ledger pushes it when its job may run. Fetching one needs no acknowledgement emulation, since the
ledger knows who has what.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

import redis
from celery import states
from kombu.exceptions import ContentDisallowed, DecodeError, KombuError
from kombu.transport import redis as kombu_redis
from kombu.utils.json import dumps

from coordinator.errors import (
    CoordinatorError,
    InvalidValue,
    LedgerClosed,
    LedgerUnavailable,
    StoreUnavailable,
)
from coordinator.jobs import Job
from coordinator.ledger.absence import is_away
from coordinator.messages.needs import said
from coordinator.resources import check_name, needs_of
from coordinator.running.context import current_job
from coordinator.settings import Settings

logger = logging.getLogger("coordinator")

OPTIONS_HEADER = "coordinator"
TOKEN_HEADER = "coordinator_token"
#: In the message of a job that is to wait in its process for the end of another one.
STANDBY_HEADER = "coordinator_standby"
#: What the ledger adds to the message of a job when it dispatches it.
DELIVERY_HEADERS = (TOKEN_HEADER, STANDBY_HEADER)
DEFAULT_PRIORITY = 5

#: Seconds without an answer of Redis after which a worker takes a connection for lost.
SILENCE = 10.0

_collected: ContextVar[list[Job] | None] = ContextVar("coordinator_collected", default=None)


@contextmanager
def collecting() -> Iterator[list[Job]]:
    """Collect the jobs that this thread publishes, for the caller to submit together or as part of something else."""
    box: list[Job] = []
    mark = _collected.set(box)
    try:
        yield box
    finally:
        _collected.reset(mark)


def template_of(message: dict[str, Any]) -> str:
    """Return the message as JSON without its last two braces, so that the token can be appended.

    The headers come last, so what follows is their end and the message's.
    """
    headers = message["headers"]
    ordered = {key: value for key, value in message.items() if key != "headers"}
    ordered["headers"] = {k: v for k, v in headers.items() if k not in DELIVERY_HEADERS}
    return str(dumps(ordered))[:-2]


def _milliseconds(moment: Any) -> int:
    if not moment:
        return 0
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    return int(float(moment) * 1000)


def job_of(
    message: dict[str, Any],
    queue: str,
    timeout: float | None,
    rules: Sequence[str] = (),
    heartbeat_timeout: float | None = None,
) -> Job:
    """Return the job that a coordinated Celery message (protocol 2) describes.

    Args:
        message: the message as Kombu would push it; its eta moves to the ledger.
        queue: the queue it is published to.
        timeout: seconds a job of this queue may run when neither task nor call say.
        rules: what is taken out of the arguments that are shown, as regular expressions.
        heartbeat_timeout: seconds a job of this queue may go without a sign of life when neither task nor
            call say.

    Raises:
        InvalidValue: a name or number in it is not allowed.
    """
    headers = message["headers"]
    if rules:
        _redact(headers, rules)
    options = headers[OPTIONS_HEADER]
    due_ms = _milliseconds(headers.get("eta"))
    headers["eta"] = None
    hard, soft = headers.get("timelimit") or (None, None)
    seconds = soft or hard or options.get("timeout")
    if seconds is None and timeout:
        # The worker applies it, for only there is it known whether the task has a limit of its own.
        seconds = options["queue_timeout"] = timeout
    silence = options.get("heartbeat_timeout")
    if silence is None and heartbeat_timeout:
        silence = options["queue_heartbeat_timeout"] = heartbeat_timeout
    priority = options.get("priority")
    org, models = options.get("org"), options.get("models") or ()
    return Job(
        job_id=headers["id"],
        task=headers["task"],
        queue=queue,
        needs=needs_of(queue, models, org, options.get("integration")),
        message=template_of(message),
        org=org,
        priority=DEFAULT_PRIORITY if priority is None else max(0, min(9, int(priority))),
        max_retries=int(options.get("max_retries", 3)),
        due_ms=due_ms,
        expires_ms=_milliseconds(headers.get("expires")),
        timeout=seconds,
        heartbeat_timeout=silence,
        retries=int(headers.get("retries") or 0),
        args_repr=headers.get("argsrepr") or "",
        kwargs_repr=headers.get("kwargsrepr") or "",
        root_id=headers.get("root_id"),
        parent_id=headers.get("parent_id"),
        submitted_ms=time.time_ns() // 1_000_000,
        owner=check_name("owner", options["owner"]) if options.get("owner") else "",
    )


def _job(message: dict[str, Any], queue: str, settings: Settings) -> Job:
    known = settings.queue(queue)
    return job_of(message, queue, known.timeout, settings.redact, known.heartbeat_timeout)


#: What a message that nobody of ours wrote can raise.
_MALFORMED = (
    CoordinatorError,
    KombuError,
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)


def _arguments(payload: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    # Celery takes another shape for a bug of its own and stops the worker, also after its restart.
    if isinstance(payload, (list, tuple)) and len(payload) == 3:
        args, kwargs, _ = payload
        if isinstance(args, (list, tuple)) and isinstance(kwargs, Mapping):
            return args, kwargs
    raise InvalidValue("body", payload, "a list of arguments, keyword arguments and canvas")


def _redact(headers: dict[str, Any], rules: Sequence[str]) -> None:
    # What workers' events, Flower and the logs show of the arguments; the arguments themselves go as they are.
    from coordinator.store import redact

    compiled = [re.compile(rule) for rule in rules]
    for name in ("argsrepr", "kwargsrepr"):
        if headers.get(name):
            headers[name] = redact(headers[name], compiled)


class QoS(kombu_redis.QoS):
    """Leaves coordinated messages out of Kombu's acknowledgement emulation.

    ``can_fetch``, ``has`` and ``stands_by`` are set by the worker: they say whether a slot is free, whether it has a
    delivery, by job id and token, in hand, and whether its processes can stand by.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.coordinated: dict[str, tuple[str, int]] = {}
        self.can_fetch: Callable[[], bool] = lambda: True
        self.has: Callable[[str, int], bool] = lambda _job_id, _token: False
        self.stands_by = False
        self._numbers = count(1)

    def can_consume(self) -> bool:
        return bool(super().can_consume()) and self.can_fetch()

    def append(self, message: Any, delivery_tag: str) -> None:
        token = message.headers.get(TOKEN_HEADER) if message.headers else None
        if token is None:
            super().append(message, delivery_tag)
        else:
            # All deliveries of a job have the tag of its one message: what is said of the last must not be
            # taken for what is said of this.
            message.delivery_tag = f"{delivery_tag}/{token}/{next(self._numbers)}"
            self.coordinated[message.delivery_tag] = (message.headers["id"], token)

    def ack(self, delivery_tag: str) -> None:
        if self.coordinated.pop(delivery_tag, None) is None:
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        known = self.coordinated.pop(delivery_tag, None)
        if known is None:
            super().reject(delivery_tag, requeue=requeue)
        else:
            job_id, token = known
            ledger = self.channel.coordination.work_queue.ledger
            try:
                ledger.undeliver(job_id, token, "rejected by the worker", end=not requeue)
            except CoordinatorError as error:
                # Raised here, it would end the worker. The dispatch lease ends and says the same, later.
                logger.warning("[COORDINATOR] job %s: the ledger was not told: %s", job_id, error)


class Channel(kombu_redis.Channel):
    """A channel that submits coordinated messages and admits those of foreign producers."""

    QoS = QoS
    #: A batch would push messages past the ledger.
    supports_batch_publish = False
    #: Messages that this process has fetched from queues, to see whether a worker still takes any.
    fetched = 0

    @property
    def coordination(self) -> Any:
        return self.connection.coordination

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        # Redis answers a fetch within `brpop_timeout`. Around a reconnect Kombu can wait for an answer to a fetch
        # that nobody sent, for ever: the worker lives, renews its lease and never runs anything again.
        params: dict[str, Any] = super()._connparams(asynchronous)
        if params.get("socket_timeout") is None:
            params["socket_timeout"] = self.brpop_timeout + SILENCE
        return params

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)
        except redis.ResponseError as error:
            if not is_away(error):
                raise
            # What a master says to those who wait when it becomes a replica. Celery knows it from no lost connection,
            # and would end the worker with all it runs.
            self.client.connection.disconnect()
            raise redis.ConnectionError(str(error)) from error

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        headers = message.get("headers") or {}
        if not headers.get(OPTIONS_HEADER) or not self.coordination.manages(queue):
            super()._put(queue, message, **kwargs)
            return
        settings = self.coordination.settings
        job = _job(message, queue, settings)
        box, running = _collected.get(), current_job()
        if box is not None:
            box.append(job)
            return
        if running is not None and running.id == job.job_id:
            # Retry or replace: the message is the running job's successor, applied when it finishes.
            running.successor = replace(job, owner=running.owner)
            return
        self.coordination.work_queue.submit(job, inside=running is not None)

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], *args: Any, **kwargs: Any
    ) -> Any:
        if queue in self._fanout_queues:
            # A broadcast is for every worker: it is no job, which is for one.
            return super().basic_consume(queue, no_ack, callback, *args, **kwargs)

        def receive(message: Any) -> Any:
            Channel.fetched += 1
            if self._is_in_hand(message):
                message.ack()
                return None
            if (message.headers or {}).get(STANDBY_HEADER) and not self.qos.stands_by:
                message.reject(requeue=True)
                return None
            if self._is_foreign(queue, message) and self._admit(queue, message):
                return None
            return callback(message)

        return super().basic_consume(queue, no_ack, receive, *args, **kwargs)

    def _is_in_hand(self, message: Any) -> bool:
        # A Redis that came back older has the message of a run that goes on. The ledger, which knows of that run
        # from this worker alone, could not tell a second one from it.
        job_id, token = (message.headers.get(name) for name in ("id", TOKEN_HEADER))
        known = token is not None and self.qos.has(job_id, token)
        if known:
            logger.warning(
                "[COORDINATOR] job %s was delivered again and is in hand already", job_id
            )
        return known

    def _is_foreign(self, queue: str, message: Any) -> bool:
        headers = message.headers or {}
        name = headers.get("task")
        if not isinstance(name, str) or headers.get(TOKEN_HEADER) is not None:
            return False
        return bool(self.coordination.coordinates(name, queue))

    def _admit(self, queue: str, message: Any) -> bool:
        """Submit a message that a plain Celery client pushed past the ledger: it waits its turn like all others.

        Returns:
            Whether it was dealt with; else it is Celery's: it needs nothing, or cannot be read.
        """
        headers = message.headers
        try:
            args, kwargs = _arguments(message.decode())
            call = said(headers.get(OPTIONS_HEADER))
            described = self.coordination.describe(headers["task"], args, kwargs, call)
            if described is None:
                return False
            job = self._foreign(queue, message._raw, described)
        except (DecodeError, ContentDisallowed):
            # Celery says so in its log and drops it.
            return False
        except _MALFORMED as error:
            self._refuse(message, error)
            return True
        try:
            # As from inside a job: the producer was told long ago that it is accepted.
            self.coordination.work_queue.submit(job, inside=True)
        except (LedgerUnavailable, LedgerClosed, StoreUnavailable) as error:
            logger.warning("[COORDINATOR] message %s waits on the broker: %s", headers["id"], error)
            message.requeue()
            return True
        except (CoordinatorError, ValueError) as error:
            # Left to Celery it would end this worker, come back to the queue and end the next one.
            self._refuse(message, error)
            return True
        message.ack()
        return True

    def _foreign(self, queue: str, payload: dict[str, Any], described: dict[str, Any]) -> Job:
        headers = payload["headers"]
        job_id = headers.get("id")
        # Half characters cannot be encoded, and no database takes a text with a zero in it.
        if not isinstance(job_id, str) or not job_id or b"\0" in job_id.encode():
            raise InvalidValue("id", job_id, "a text that is not empty and has no zero character")
        if payload["properties"].get("priority"):
            # Kombu writes 0 for "not given", which is the highest on Redis.
            described["priority"] = payload["properties"]["priority"]
        headers[OPTIONS_HEADER] = described
        settings = self.coordination.settings
        return _job(payload, queue, settings)

    def _refuse(self, message: Any, error: Exception) -> None:
        job_id = message.headers.get("id")
        logger.error(
            "[COORDINATOR] message %r of a foreign producer was refused: %s", job_id, error
        )
        message.reject()
        if isinstance(job_id, str) and job_id:
            # Its producer may wait for the result.
            try:
                self.coordination.app.backend.store_result(job_id, error, states.FAILURE)
            except ValueError as unwritten:
                logger.error("[COORDINATOR] no result can have the id %r: %s", job_id, unwritten)


class Transport(kombu_redis.Transport):
    """Kombu's Redis transport with coordinated channels."""

    Channel = Channel
    #: The app's; set in the subclass that ``coordinate(app)`` makes.
    coordination: Any = None
    scheme = "redis"
    _client: Any = None

    #: A replica says so to who writes, until another has its address: a worker tries on.
    connection_errors = (
        *kombu_redis.Transport.connection_errors,
        redis.exceptions.ReadOnlyError,
    )

    # Kombu sets the client to None while it collects a broken connection; a channel that still has
    # messages then fails with an AttributeError, which no caller takes for a lost connection, and the
    # worker exits. The client of a transport never changes, so the last one stays.
    @property
    def client(self) -> Any:
        return self._client

    @client.setter
    def client(self, value: Any) -> None:
        if value is not None:
            self._client = value
