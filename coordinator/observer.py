"""Observe-only mode in an app: each run tells its models when it begins and when it ends, and goes its way."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import redis
from celery import Celery, signals

from coordinator.errors import InvalidSetting, InvalidValue
from coordinator.messages.needs import CARRIED, OPTIONS, said
from coordinator.messages.transport import OPTIONS_HEADER
from coordinator.observing.marks import MARK_SECONDS, Marks, Run
from coordinator.settings import Settings

logger = logging.getLogger("coordinator")

#: Seconds for which a process does not look after Redis failed it.
QUIET_SECONDS = 30.0

#: Seconds after which a run is looked at again that began before the step that sent it had ended.
AGAIN_SECONDS = 1.0

#: What a call may say to the coordinator. ``timeout`` is also Kombu's, and stays where it is.
_SAID = tuple(name for name in (*OPTIONS, *CARRIED) if name != "timeout")


class Observer:
    """The runs of one process of one app.

    Args:
        app: the app.
        settings: the installation's settings.
    """

    def __init__(self, app: Celery, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.describe: Callable[..., dict[str, Any] | None] = app.coordination.describe
        self._pid = 0
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._runs: dict[tuple[str, int], Run] = {}
        self._again: list[tuple[Run, int]] = []
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None
        self._quiet_until = 0.0
        self.marks = Marks(str(self.settings.redis_url), self.settings.key_prefix)

    def begins(self, task_id: str, task: Any, args: Any, kwargs: Any, **_: Any) -> None:
        """Take note of a run: receiver of ``task_prerun``."""
        if not self._is_observed(task):
            return
        if self._pid != os.getpid():
            # Of the parent process: its connections, and runs that are not here.
            self._forget()
        request = task.request
        header = request.get(OPTIONS_HEADER)
        try:
            call = said(header)
            described = self.describe(task.name, args or (), kwargs or {}, call)
        except (InvalidValue, TypeError) as error:
            text = str(error)
            self._tried(lambda: self.marks.refuse(task.name, text))
            return
        models = (described or {}).get("models")
        if not models:
            return
        limits, default = self.settings.limits, self.settings.default_models_limit
        run = Run(
            key=uuid.uuid4().hex,
            job=task_id,
            task=task.name,
            worker=str(request.hostname or ""),
            owner=str(call.get("owner") or ""),
            root=str(request.root_id or ""),
            parent=str(request.parent_id or ""),
            models=tuple((name, limits.get(f"model:{name}", default)) for name in models),
        )
        answer = self._tried(lambda: self.marks.begin(run))
        if answer is None:
            return
        self._runs[task_id, threading.get_ident()] = run
        word, at = answer
        if word == "relative":
            self._again.append((run, at))
            self._changed.set()
        if self._thread is None:
            name = "coordinator-observer"
            self._thread = threading.Thread(target=self._renew, name=name, daemon=True)
            self._thread.start()

    def ends(self, task_id: str, **_: Any) -> None:
        """Take a run off: receiver of ``task_postrun``."""
        run = self._runs.pop((task_id, threading.get_ident()), None)
        if run is not None and self._pid == os.getpid():
            # Before the process takes its next message: that one must not meet the mark of this one.
            self._tried(lambda: self.marks.end(run))

    def _is_observed(self, task: Any) -> bool:
        request = task.request
        if task.app is not self.app or request.is_eager or request.called_directly:
            return False
        queue = (request.delivery_info or {}).get("routing_key")
        return queue not in self.settings.exclude_queues

    def _tried(self, do: Callable[[], Any]) -> Any:
        if time.monotonic() < self._quiet_until:
            return None
        try:
            return do()
        except redis.RedisError as error:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
            logger.warning(
                "[COORDINATOR] runs are not observed for %g seconds: %s", QUIET_SECONDS, error
            )
            return None

    def _renew(self) -> None:
        due = time.monotonic() + MARK_SECONDS / 4
        while True:
            if self._changed.wait(max(0.0, due - time.monotonic())):
                self._changed.clear()
                threading.Event().wait(AGAIN_SECONDS)
                while self._again:
                    self._tried(partial(self.marks.begin, *self._again.pop()))
            if time.monotonic() >= due:
                due = time.monotonic() + MARK_SECONDS / 4
                runs = list(self._runs.values())
                if runs:
                    self._tried(partial(self.marks.renew, runs))


def observe(app: Celery, settings: Settings) -> None:
    """Watch the runs of an app, and change nothing.

    Args:
        app: the app.
        settings: the installation's settings.

    Raises:
        InvalidSetting: no Redis is known to keep the marks on.
    """
    url = settings.redis_url
    if url is None or url.split("://", 1)[0] not in ("redis", "rediss", "redis+socket"):
        raise InvalidSetting(
            "coordinator_redis_url",
            url,
            "a Redis URL: with coordinator_mode observe, what runs is marked there; the broker stays what it is",
        )
    observer = Observer(app, settings)
    signals.task_prerun.connect(observer.begins, weak=False, dispatch_uid=f"observe-{id(app)}")
    signals.task_postrun.connect(observer.ends, weak=False, dispatch_uid=f"observed-{id(app)}")


def carried(send: Callable[..., Any], describe: Callable[..., Any]) -> Callable[..., Any]:
    """Return Celery's way to send a message, which carries what a call says to the coordinator in a header.

    Plain Celery would write it into the message's properties, where a retry loses it. A call that says nothing is
    sent as it is.

    Args:
        send: Celery's own.
        describe: what a call needs, as in ``Coordination``.
    """

    def send_observed(
        producer: Any, name: str, message: Any, headers: Any = None, **options: Any
    ) -> Any:
        call = {key: options.pop(key) for key in _SAID if key in options}
        if call:
            args, kwargs = message.body[0], message.body[1]
            try:
                described = describe(name, args or (), kwargs or {}, call)
            except InvalidValue as error:
                # It must be sent all the same: nothing is enforced.
                logger.warning("[COORDINATOR] a call of %s would be refused: %s", name, error)
            else:
                headers = {**(headers or {}), OPTIONS_HEADER: described or False}
        return send(producer, name, message, headers=headers, **options)

    return send_observed
